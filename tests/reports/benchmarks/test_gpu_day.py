"""The script of the first hour on a GPU, tried out on a CPU."""

from __future__ import annotations

import pytest

from athanor.reports.benchmarks import gpu_day


@pytest.mark.slow
def test_presets_are_trained_by_the_users_command_and_their_speed_is_written_down(tmp_path):
    options = ["--device", "cpu", "--presets", "quickstart-vanilla", "--steps", "5", "--batch-tokens", "2048"]
    gpu_day.main([*options, "--folder", str(tmp_path / "day"), "--out", str(tmp_path)])
    page = (tmp_path / "training-cpu.md").read_text(encoding="utf-8")
    row = page.splitlines()[-1].split("|")
    assert row[1].strip().startswith("pretrain/vanilla-") and float(row[3].replace(",", "")) > 0


def test_a_preset_that_fails_is_named_at_the_end(tmp_path):
    with pytest.raises(SystemExit, match="failed: no-such-preset"):
        gpu_day.main(
            ["--device", "cpu", "--presets", "no-such-preset", "--folder", str(tmp_path), "--out", str(tmp_path)]
        )


def test_without_a_gpu_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no GPU"):
        gpu_day.main(["--folder", str(tmp_path)])
