"""A preset as a file: every choice below its reason, and the same fields when it is read."""

from __future__ import annotations

import yaml

from athanor.flows.fitting.page import Choice, fields_of, written

CHOICES = [
    Choice("description", "on a: b"),
    Choice("data.sources.notes", {"path": "notes/*.md", "text": "{a}\n\n{b}"}, "All there is."),
    Choice("data.mixture.start", {"notes": 1.0}),
    Choice("pretrain.steps", 300, " ".join(["A reason that is long."] * 10)),
    Choice("pretrain.peak_lr", 0.003),
]


def test_the_file_reads_as_the_fields_and_each_reason_stands_above_its_field():
    text = written(CHOICES, ["A title."])
    assert yaml.safe_load(text) == fields_of(CHOICES)
    lines = text.splitlines()
    assert lines[0] == "# A title."
    assert lines.index("    # All there is.") + 1 == next(n for n, line in enumerate(lines) if "notes: {" in line)
    assert lines[next(n for n, line in enumerate(lines) if "steps: 300" in line) - 1].startswith("  # ")
    assert max(map(len, lines)) <= 100
