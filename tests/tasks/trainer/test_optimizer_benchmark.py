"""The comparison of the optimizers trains each and writes what it measured."""

from athanor.tasks.trainer import optimizer_benchmark as benchmark


def test_the_benchmark_writes_a_row_for_each_optimizer(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "HELD_OUT_ROWS", 2)
    out = tmp_path / "optimizers.md"
    benchmark.main(["--optimizers", "adamw", "lion", "--steps", "4", "--out", str(out), "--note", "Idle"])
    text = out.read_text()
    assert "benchmark --steps 4`" in text
    assert ". Idle.\n" in text
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    rows = {row[1]: [float(cell) for cell in row[2:7]] for row in cells if row[1] != "optimizer"}
    assert [rows[name][:2] for name in ("adamw", "lion")] == [[1e-2, 8.0], [1e-3, 4.0]]
    assert all(0 < update < step for _, _, step, update, _ in rows.values())
    assert rows["adamw"][-1] != rows["lion"][-1]
    assert all(loss < 5 for *_, loss in rows.values()), "from log 256 = 5.5"
