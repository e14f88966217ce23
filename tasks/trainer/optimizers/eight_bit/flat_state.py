"""AdamW and Lion of bitsandbytes with 8-bit moments (Dettmers et al. 2022, arXiv 2110.02861), made checkpointable.

A moment is stored as one byte an element, an index into a table of 256 values, times the largest magnitude of its block
of 256 elements; tensors of fewer than 4,096 elements keep fp32 moments. bitsandbytes counts steps in a Python integer,
shares one table between all tensors and hides what is quantised in a nested dict of its `state_dict`. Here the count is
a tensor, each tensor has its own table (1 KiB), for files hold no shared tensors, and the dict is flat, as every other
optimizer has it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

# Its optional 4-bit kernels are in a package that has the name of ours; it warns that it does without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from bitsandbytes.optim.adamw import AdamW8bit  # noqa: E402
from bitsandbytes.optim.lion import Lion8bit  # noqa: E402
from bitsandbytes.optim.optimizer import Optimizer8bit  # noqa: E402


class _FlatTensorState(Optimizer8bit):
    """What all state of an 8-bit optimizer is here: tensors, none shared, in a flat dict."""

    def init_state(self, group: dict[str, Any], p: torch.Tensor, gindex: int, pindex: int) -> None:
        super().init_state(group, p, gindex, pindex)
        state = self.state[p]
        state["step"] = torch.zeros((), dtype=torch.int64)
        state.update({name: table.clone() for name, table in state.items() if name.startswith("qmap")})

    def state_dict(self) -> dict[str, Any]:
        return torch.optim.Optimizer.state_dict(self)


class AdamW8bitFlat(_FlatTensorState, AdamW8bit):
    """State: `state1`, `state2`, their `qmap` and `absmax`, `step`."""


class Lion8bitFlat(_FlatTensorState, Lion8bit):
    """State: `state1`, its `qmap1` and `absmax1`, `step`."""
