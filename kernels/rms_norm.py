"""Root-mean-square normalisation: y = x * gain / sqrt(mean(x^2) + eps), statistics in fp32; alone, or of a sum.

    rms_norm       y = norm(x)
    add_rms_norm   s = x + branch;  y = norm(s)        the residual stream and what the next branch reads of it

With r = 1 / sqrt(mean(x^2) + eps) and g = gain * dy, over the last axis of D channels:

    dx = r g - x r^3 mean(g x)            d gain = sum over rows of dy x r

To that the sum adds ds; it is the gradient of x and of the branch alike. y may have a dtype of its own: that of the
products which read it, so that it is rounded once, here, and not by each of them.

Bytes moved: forward reads x (and the branch) and writes (s and) y; backward reads x, or s, and dy (and ds) and writes
dx, once more where the branch has another dtype. r is computed again in the backward pass, which has the row in
registers anyway: nothing is saved beside x, or s, and gain. Each program writes its part of d gain, in fp32
(kernels/row_tiles.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels import rms_norm_triton
from athanor.kernels.kind import Compiled, Cost, Example, Kernel, unfit, unfit_dtype, uses_triton
from athanor.kernels.precision import at_least_fp32
from athanor.kernels.row_tiles import RowTiles, size_bytes, unfit_rows

FORWARD_FLOPS, BACKWARD_FLOPS = 4, 9  # an element


def rms_norm_reference(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """See rms_norm."""
    fine_gain = None if gain is None else at_least_fp32(gain)
    return F.rms_norm(at_least_fp32(x), x.shape[-1:], fine_gain, eps).to(dtype or x.dtype)


def add_rms_norm_reference(
    x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """See add_rms_norm."""
    total = x + branch
    return total, rms_norm_reference(total, gain, eps, dtype)


@torch.library.custom_op("athanor::rms_norm", mutates_args=())
def _norm_op(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    return rms_norm_triton.forward(x, None, gain, eps, dtype)[1]


@_norm_op.register_fake
def _(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)


@torch.library.custom_op("athanor::add_rms_norm", mutates_args=())
def _add_op(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    total, y = rms_norm_triton.forward(x, branch, gain, eps, dtype)
    assert total is not None
    return total, y


@_add_op.register_fake
def _(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    total = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, branch.dtype), device=x.device)
    return total, torch.empty(x.shape, dtype=dtype, device=x.device)


def _gradients(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, gain: Tensor | None, eps: float, other: torch.dtype | None
) -> list[Tensor]:
    found = rms_norm_triton.backward(dy, dtotal, x, gain, eps, other)
    return [tensor for tensor in found if tensor is not None]


def _fake_gradients(
    dy: Tensor, dtotal: Tensor | None, x: Tensor, gain: Tensor | None, eps: float, other: torch.dtype | None
) -> list[Tensor]:
    found = [torch.empty(x.shape, dtype=dtype, device=x.device) for dtype in (x.dtype, other) if dtype is not None]
    return found if gain is None else [*found, torch.empty(gain.shape, dtype=gain.dtype, device=x.device)]


# One name for each, so that a count of a step tells them apart.
_norm_backward_op = torch.library.custom_op("athanor::rms_norm_backward", _gradients, mutates_args=())
_add_backward_op = torch.library.custom_op("athanor::add_rms_norm_backward", _gradients, mutates_args=())
_norm_backward_op.register_fake(_fake_gradients)
_add_backward_op.register_fake(_fake_gradients)


def _save_norm(ctx: Any, inputs: tuple[Tensor, Tensor | None, float, torch.dtype], output: Tensor) -> None:
    x, gain, ctx.eps, _ = inputs
    ctx.save_for_backward(x, gain)


def _norm_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, gain = ctx.saved_tensors
    dx, *dgain = _norm_backward_op(dy, None, x, gain, ctx.eps, None)
    return dx, dgain[0] if dgain else None, None, None


def _save_add(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, float, torch.dtype], output: tuple[Tensor, Tensor]
) -> None:
    x, branch, gain, ctx.eps, _ = inputs
    ctx.dtypes = x.dtype, branch.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], gain)


def _add_gradients(ctx: Any, dtotal: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    total, gain = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(total)
    other = [dtype for dtype in ctx.dtypes if dtype != total.dtype]
    found = _add_backward_op(dy, dtotal, total, gain, ctx.eps, other[0] if other else None)
    dgain = None if gain is None else found[-1]
    by_dtype = {tensor.dtype: tensor for tensor in found[: 1 + len(other)]}
    return by_dtype[ctx.dtypes[0]], by_dtype[ctx.dtypes[1]], dgain, None, None


_norm_op.register_autograd(_norm_gradients, setup_context=_save_norm)
_add_op.register_autograd(_add_gradients, setup_context=_save_add)


def _refuses(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> str | None:
    return unfit_rows(x) or unfit(x, gain) or unfit_dtype(dtype)


def _refuses_sum(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> str | None:
    if x.shape != branch.shape:
        return "x and the branch differ in shape"
    if torch.promote_types(x.dtype, branch.dtype) not in (x.dtype, branch.dtype):
        return "x and the branch add up to a third dtype"
    return unfit_rows(x) or unfit(x, branch, gain) or unfit_dtype(dtype)


def _gain_bytes(x: Tensor, gain: Tensor | None) -> tuple[int, int]:
    """Of the gain, and of the parts of its gradient."""
    if gain is None:
        return 0, 0
    rows, channels = x.numel() // x.shape[-1], x.shape[-1]
    return size_bytes(gain), 4 * channels * RowTiles.of(rows, channels).programs


def _forward_cost(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Cost:
    return Cost(size_bytes(x) + _gain_bytes(x, gain)[0], x.numel() * dtype.itemsize, FORWARD_FLOPS * x.numel())


def _backward_cost(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Cost:
    gain_bytes, parts_bytes = _gain_bytes(x, gain)
    read_bytes = size_bytes(x) + x.numel() * dtype.itemsize + gain_bytes
    return Cost(read_bytes, size_bytes(x) + parts_bytes, BACKWARD_FLOPS * x.numel())


def _forward_cost_of_sum(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Cost:
    read_bytes = size_bytes(x) + size_bytes(branch) + _gain_bytes(x, gain)[0]
    written_bytes = max(size_bytes(x), size_bytes(branch)) + x.numel() * dtype.itemsize
    return Cost(read_bytes, written_bytes, (FORWARD_FLOPS + 1) * x.numel())


def _backward_cost_of_sum(x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype) -> Cost:
    gain_bytes, parts_bytes = _gain_bytes(x, gain)
    of_inputs = {size_bytes(x), size_bytes(branch)}  # one tensor serves both where they are alike
    read_bytes = 2 * max(of_inputs) + x.numel() * dtype.itemsize + gain_bytes
    return Cost(read_bytes, sum(of_inputs) + parts_bytes, (BACKWARD_FLOPS + 1) * x.numel())


def _compiled(
    rows: int, channels: int, stream: str, branch: str | None, norm: str | None = None
) -> tuple[Compiled, ...]:
    """Forward and backward with a gain; `branch` is the dtype of what is added, `norm` of a norm with its own."""
    tiles, other = RowTiles.of(rows, channels), None if branch in (None, stream) else branch
    shape = {"rows": "i32:16", "channels": "i32:16", "rows_each": "i32:16", "eps": "fp32"}
    flags: dict[str, Any] = {"ADDS": branch is not None, "HAS_GAIN": True}
    flags |= {"TILE_ROWS": tiles.tile_rows, "TILE_CHANNELS": tiles.tile_channels}
    normed = f"*{norm or stream}"
    x, added = {"x_ptr": f"*{stream}", "y_ptr": normed}, {"branch_ptr": f"*{branch}", "total_ptr": f"*{stream}"}
    forward = x | {"gain_ptr": "*fp32", "x_stride": "i32:16", "branch_stride": "i32:16"} | shape
    gradients = {"dy_ptr": normed, "gain_ptr": "*fp32", "dgain_ptr": "*fp32"}
    gradients |= dict.fromkeys(("x_ptr", "dx_ptr"), f"*{stream}")
    backward = gradients | dict.fromkeys(("dy_stride", "dtotal_stride", "x_stride"), "i32:16") | shape
    none: dict[str, Any] = {}
    if branch is None:
        none, no_gradient = dict.fromkeys(added), {"dtotal_ptr": None}
    else:
        forward, backward, no_gradient = forward | added, backward | {"dtotal_ptr": f"*{stream}"}, {}
    if other is None:
        no_gradient = no_gradient | {"dother_ptr": None}
    else:
        backward = backward | {"dother_ptr": f"*{other}"}
    name = f"{channels} {stream}" + ("" if branch is None else f" + {branch}") + ("" if norm is None else f" to {norm}")
    return (
        Compiled(f"forward {name}", rms_norm_triton.forward_kernel, forward, flags | none, tiles.num_warps),
        Compiled(
            f"backward {name}",
            rms_norm_triton.backward_kernel,
            backward,
            flags | no_gradient | {"HAS_OTHER": other is not None},
            tiles.num_warps,
        ),
    )


TOKENS = 16 * 4096  # of a micro-batch of the presets

KERNEL = (
    Kernel(
        name="rms_norm",
        what="root-mean-square norm of a stream, a latent or a head",
        reference=rms_norm_reference,
        refuses=_refuses,
        forward_cost=_forward_cost,
        backward_cost=_backward_cost,
        compiled=(
            *_compiled(16 * TOKENS, 64, "bf16", None),
            *_compiled(16 * TOKENS, 128, "bf16", None),
            *_compiled(TOKENS, 1024, "fp32", None),
            *_compiled(TOKENS, 1024, "fp32", None, "bf16"),
            *_compiled(TOKENS, 5280, "bf16", None),
        ),
        examples=(
            Example(
                "queries of polychromatic-600m",
                lambda device, dtype: (
                    torch.empty(16, 4096, 16, 64, device=device, dtype=dtype),
                    torch.empty(64, device=device),
                    1e-6,
                    dtype,
                ),
            ),
        ),
    ),
    Kernel(
        name="add_rms_norm",
        what="the residual stream plus a branch, and its norm",
        reference=add_rms_norm_reference,
        refuses=_refuses_sum,
        forward_cost=_forward_cost_of_sum,
        backward_cost=_backward_cost_of_sum,
        compiled=(
            *_compiled(TOKENS, 1024, "fp32", "bf16", "bf16"),
            *_compiled(TOKENS, 1280, "fp32", "bf16", "bf16"),
            *_compiled(TOKENS, 5280, "fp32", "bf16"),
            *_compiled(TOKENS, 1024, "bf16", "bf16"),
        ),
        examples=(
            Example(
                "polychromatic-600m",
                lambda device, dtype: (
                    torch.empty(16, 4096, 1024, device=device),
                    torch.empty(16, 4096, 1024, device=device, dtype=dtype),
                    torch.empty(1024, device=device),
                    1e-6,
                    dtype,
                ),
            ),
        ),
    ),
)
_RMS_NORM, _ADD_RMS_NORM = KERNEL


def rms_norm(x: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """Normalise the last axis of `x [..., D]` and scale by `gain [D]`, if any; in x's shape, and dtype if no other is
    asked for."""
    dtype = dtype or x.dtype
    if uses_triton(_RMS_NORM, x, gain, eps, dtype):
        return _norm_op(x, gain, eps, dtype)
    return rms_norm_reference(x, gain, eps, dtype)


def add_rms_norm(
    x: Tensor, branch: Tensor, gain: Tensor | None, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """x + branch, both `[..., D]`, and its norm over the last axis, scaled by `gain [D]`, if any; both in the dtype
    that x and branch add up to, the norm in another if it is asked for."""
    dtype = dtype or torch.promote_types(x.dtype, branch.dtype)
    if uses_triton(_ADD_RMS_NORM, x, branch, gain, eps, dtype):
        return _add_op(x, branch, gain, eps, dtype)
    return add_rms_norm_reference(x, branch, gain, eps, dtype)
