"""The table has a row for every declared specialisation and every capability; so has the committed one."""

from pathlib import Path

from athanor.kernels.ahead import Built
from athanor.kernels.kind import KERNELS
from athanor.reports.benchmarks import kernels_ahead

ROOT = Path(__file__).parent.parent.parent.parent
WANTED = [
    f"| {kernel.name} | {each.name} | {each.num_warps} | sm_{capability} "
    for kernel in KERNELS.records()
    for each in kernel.compiled
    for capability in kernels_ahead.CAPABILITIES
]


def test_every_specialisation_is_compiled_for_every_capability(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels_ahead, "build", lambda compiled, capability: Built(capability, 0, 1024, 4, 3))
    kernels_ahead.main(["--out", str(tmp_path / "table.md")])
    lines = [line for line in (tmp_path / "table.md").read_text().splitlines() if "| sm_" in line]
    assert [line[: len(start)] for line, start in zip(lines, WANTED, strict=True)] == WANTED
    assert lines[0].endswith("| 80 | 0 | 1,024 | 3 of 4 |")


def test_the_committed_table_is_of_todays_kernels_and_none_spills():
    text = (ROOT / "reports" / "benchmarks" / "kernels-sm90.md").read_text()
    lines = [line for line in text.splitlines() if "| sm_" in line]
    assert [line[: len(start)] for line, start in zip(lines, WANTED, strict=True)] == WANTED
    assert all(line.split(" | ")[5] == "0" for line in lines)
