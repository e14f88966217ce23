"""`athanor bench`: what is printed is what is written."""

from __future__ import annotations

import json


def test_the_roofline_of_a_preset_is_printed_by_kind_of_operation_and_written(athanor, tmp_path):
    out = tmp_path / "counted.json"
    done = athanor("bench", "roofline", "quickstart", "--on", "A100", "--set", "model.n_layers=1", "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    one = found["micro_batch"]
    assert (found["preset"], found["gpu"]) == ("quickstart", "A100")
    assert done.stdout.startswith("quickstart on A100: a step of 4,096 tokens, 32 x 128 at a time\n")
    assert f"{found['tokens_per_s']:,.0f} tokens/s, {100 * one['utilisation']:.1f}" in done.stdout
    assert f"launches {one['launches']:,} a micro-batch; the host waits 0 times" in done.stdout
    for kind, spent in one["by_kind"].items():
        (row,) = (line for line in done.stdout.splitlines() if line.startswith(kind))
        assert f"{100 * spent['time_s'] / one['time_s']:.1f}" in row and f"{spent['launches']:,}" in row


def test_a_gpu_that_nobody_knows_is_one_line(athanor):
    done = athanor("bench", "roofline", "quickstart", "--on", "X99")
    assert done.returncode == 2 and done.stderr.startswith("athanor: --on X99: no such GPU is known")
