"""The parts of the lifecycle, in order. Each is a flow, `flows/<part>.py`; each stage says which part it belongs to."""

from __future__ import annotations

PARTS = ("data", "pretrain", "sft", "evaluate", "interpret", "report")
LIFECYCLE = "lifecycle"  # the flow of all parts
FLOWS = (LIFECYCLE, *PARTS)
