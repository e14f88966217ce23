"""The two parts of every source's text: what is trained on, and what is held out of all training."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
