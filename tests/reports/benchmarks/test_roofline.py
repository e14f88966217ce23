"""The page of counted steps is written by the users' command, and says what was assumed."""

from __future__ import annotations

from athanor.reports.benchmarks import roofline


def test_every_shape_is_counted_by_the_command_and_has_a_row(tmp_path, capsys):
    roofline.main(["--on", "A100", "--sizes", "swa-mla-small", "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page == capsys.readouterr().out
    (row,) = (line for line in page.splitlines() if line.startswith("| swa-mla-small | 8 x 2,048 | no | "))
    step_s, tokens_per_s = (float(cell.replace(",", "")) for cell in row.split("|")[4:6])
    assert abs(step_s * tokens_per_s / roofline.STEP_TOKENS - 1) < 0.02
    assert "attention" in row and "- data sheet: 312 TFLOP/s dense bf16, 2.04 TB/s" in page
