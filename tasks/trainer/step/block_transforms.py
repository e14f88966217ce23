"""What is done to the blocks of a model for memory and speed; names, parameters and numbers stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.kernels.compiling import recompile_limit
from athanor.models.skeleton import LanguageModel

MOST_GRAPHS = 64  # of the blocks of a model, where HYDRA's each have noise of their own; in training, in evaluation
FLOAT8_MULTIPLE = 16  # of both widths of a matrix, for the hardware's products


def prepare_blocks(model: LanguageModel, runtime: Runtime) -> None:
    """Float8 products, recomputation of the last of every `recompute_blocks` blocks in the backward pass, compilation.

    Raises UserError where torchao is missing.
    """
    if runtime.precision == "fp8":
        use_float8(model)
    for number, block in enumerate(model.units(), start=1):
        if runtime.compile:
            block.forward = torch.compile(block.forward, **recompile_limit(MOST_GRAPHS))
        if runtime.recompute_blocks is not None and number % runtime.recompute_blocks == 0:
            block.forward = _recomputing(block, block.forward)  # around what is compiled


def use_float8(model: LanguageModel, emulate: bool = False) -> None:
    """Compute the linear layers of the blocks in float8, forward and backward, scaled tensor by tensor (torchao).

    Weights, their names and the optimizer see nothing of it. Routers and odd widths are left out; `emulate` computes
    the same numbers on hardware without such products, slowly. Raises UserError where torchao is missing.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError("runtime.precision=fp8 needs torchao: pip install 'athanor[fp8]', or use bf16") from None

    def suits(module: nn.Module, name: str) -> bool:
        odd = isinstance(module, nn.Linear) and any(width % FLOAT8_MULTIPLE for width in module.weight.shape)
        return not odd and "router" not in name.split(".")

    for block in model.units():
        convert_to_float8_training(block, module_filter_fn=suits, config=Float8LinearConfig(emulate=emulate))


def _recomputing(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call
