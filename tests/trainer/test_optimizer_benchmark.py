"""The comparison of the optimizers trains each and writes what it measured."""

import pytest

from tasks.trainer.optimizers import benchmark


def test_the_benchmark_writes_a_row_for_each_optimizer(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "HELD_OUT_ROWS", 2)
    out = tmp_path / "optimizers.md"
    benchmark.main(["--optimizers", "adamw", "lion", "--steps", "10", "--out", str(out), "--note", "Idle"])
    text = out.read_text()
    assert "benchmark --steps 10`" in text
    assert ". Idle.\n" in text
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    rows = {row[1]: [float(cell) for cell in row[2:7]] for row in cells if row[1] != "optimizer"}
    assert [rows[name][:2] for name in ("adamw", "lion")] == [[3e-3, 8.0], [6e-4, 4.0]]
    assert all(0 < update < step for _, _, step, update, _ in rows.values())
    assert rows["adamw"][-1] != rows["lion"][-1]
    assert all(loss == pytest.approx(4.5, abs=1.2) for *_, loss in rows.values())
