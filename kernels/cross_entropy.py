"""Cross-entropy of a linear head without the logits: sum_n [logsumexp(W h_n) - (W h_n)[target_n]].

With a cap, cap * tanh(W h / cap) stands for W h, whose slope is 1 - tanh^2. With smoothing e the target is 1 - e of the
one class and e / V of each: (1 - e) (W h)[target] + e mean(W h) stands for (W h)[target] (Szegedy et al. 2016).

The N positions are taken in chunks. While a chunk's logits exist, their gradient is taken too,
p - target, and folded into dh and dW at once; backward only scales both by the incoming scalar.
So the largest tensor ever alive is one chunk [n, V], and the head costs three matrix products and not
the four of a recomputation. Sums are fp32 (fp64 for fp64 arguments). Classes are drawn
from the softmax in the same chunks.

On a GPU one Triton pass turns a chunk's logits, in the products' dtype, into their gradient in place: each row is read
twice, first for an online log-sum-exp in fp32 (Milakov and Gimelshein 2018, arXiv 1805.02867, alg. 3) and then, while
it may still be in the cache, for the gradient that is written. Without a gradient it is read once. The classes are
padded to a multiple of LANE by rows of zeros in the products' copy of the weight, so that every row of logits begins
where 128 bits can be read at once, and no product has an odd size. What is padded has no part in the softmax, and its
gradient is zero.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from athanor.core.targets import IGNORE
from athanor.kernels.chunks import ChunkSize
from athanor.kernels.kind import STORED, Compiled, Cost, Example, Kernel, uses_triton
from athanor.kernels.launch import launch
from athanor.kernels.precision import products_dtype

LANE = 16
BLOCK, WARPS = 4096, 8
PASS_FLOPS, LOSS_FLOPS = 10, 5  # a logit, with its gradient and without
CHUNKS = ChunkSize(cpu=2**20, cuda=2**28)  # of logits


def chunk_positions(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits are held at once."""
    return CHUNKS.rows(vocab_size, device.type)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap), elementwise; x without a cap (Gemma 2, 2024, section 2)."""
    return x if cap is None else torch.tanh(x / cap) * cap


def _loss_and_gradient(
    logits_nV: Tensor, target_n: Tensor, cap: float | None, smoothing: float, wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of the losses of a chunk and the gradient by its logits, which are used up, in their dtype."""
    dtype = logits_nV.dtype
    counted_n1 = (target_n != IGNORE)[:, None]
    safe_n1 = target_n.clamp(min=0)[:, None]
    logits_nV = soft_cap(logits_nV.to(torch.promote_types(dtype, torch.float32)), cap)
    normaliser_n1 = logits_nV.logsumexp(1, keepdim=True)
    expected_n1 = logits_nV.gather(1, safe_n1)
    if smoothing:
        expected_n1 = (1.0 - smoothing) * expected_n1 + smoothing * logits_nV.mean(1, keepdim=True)
    loss = ((normaliser_n1 - expected_n1) * counted_n1).sum()
    if not wants_gradient:
        return loss, None
    slope_nV = None if cap is None else 1.0 - (logits_nV / cap).square()
    dlogits_nV = logits_nV.sub_(normaliser_n1).exp_()
    if smoothing:
        dlogits_nV = dlogits_nV.sub_(smoothing / dlogits_nV.shape[1])
    dlogits_nV.scatter_add_(1, safe_n1, torch.full_like(normaliser_n1, smoothing - 1.0))
    if slope_nV is not None:
        dlogits_nV = dlogits_nV.mul_(slope_nV)
    return loss, dlogits_nV.mul_(counted_n1).to(dtype)


@triton.jit
def _capped(raw, cap, CAPPED: tl.constexpr):
    """cap * tanh(raw / cap), and its slope."""
    if CAPPED:
        bent = 2.0 * tl.sigmoid(2.0 * raw / cap) - 1.0
        return cap * bent, 1.0 - bent * bent
    else:
        return raw, 1.0


@triton.jit
def _row_pass(
    logits,
    target,
    losses,
    classes,
    stride,
    cap,
    smoothing,
    IGNORE: tl.constexpr,
    CAPPED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One position: its loss, and with GRADIENT the gradient in place of its logits; `stride` includes the padding."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(target + row)
    logits += row * stride
    columns = tl.arange(0, BLOCK)
    if label == IGNORE:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for start in range(0, stride, BLOCK):
                nothing = tl.zeros([BLOCK], tl.float32)
                tl.store(logits + start + columns, nothing, mask=start + columns < stride)
    else:
        largest = -float("inf")
        total = 0.0
        chosen = 0.0
        summed = 0.0
        for start in range(0, classes, BLOCK):
            column = start + columns
            raw = tl.load(logits + column, mask=column < stride, other=0.0).to(tl.float32)
            x, _ = _capped(raw, cap, CAPPED)
            bounded = tl.where(column < classes, x, -float("inf"))
            new_largest = tl.maximum(largest, tl.max(bounded, 0))
            total = total * tl.exp(largest - new_largest) + tl.sum(tl.exp(bounded - new_largest), 0)
            largest = new_largest
            chosen += tl.sum(tl.where(column == label, x, 0.0), 0)  # pyright: ignore[reportOperatorIssue]
            if SMOOTHED:
                summed += tl.sum(tl.where(column < classes, x, 0.0), 0)  # pyright: ignore[reportOperatorIssue]
        normaliser = largest + tl.log(total)
        loss = normaliser - chosen
        if SMOOTHED:
            loss += smoothing * (chosen - summed / classes)
        tl.store(losses + row, loss)
        if GRADIENT:
            for start in range(0, stride, BLOCK):
                column = start + columns
                raw = tl.load(logits + column, mask=column < stride, other=0.0).to(tl.float32)
                x, slope = _capped(raw, cap, CAPPED)
                wanted = smoothing / classes + tl.where(column == label, 1.0 - smoothing, 0.0)
                gradient = (tl.exp(x - normaliser) - wanted) * slope
                tl.store(logits + column, tl.where(column < classes, gradient, 0.0), mask=column < stride)


def _block(padded_classes: int) -> int:
    return min(BLOCK, triton.next_power_of_2(padded_classes))


@torch.library.custom_op("athanor::cross_entropy_pass", mutates_args=("logits",))
def _pass(
    logits: Tensor, target: Tensor, classes: int, cap: float | None, smoothing: float, wants_gradient: bool
) -> Tensor:
    """The losses, fp32 [n], of padded logits [n, >= classes], which become their gradient if it is wanted."""
    losses = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    constants = {"CAPPED": cap is not None, "SMOOTHED": smoothing != 0.0, "GRADIENT": wants_gradient}
    constants |= {"IGNORE": IGNORE, "BLOCK": _block(logits.stride(0))}
    sizes = (classes, logits.stride(0), cap or 1.0, smoothing)
    launch(_row_pass, len(target), logits, target.contiguous(), losses, *sizes, **constants, num_warps=WARPS)
    return losses


@_pass.register_fake
def _(logits: Tensor, target: Tensor, classes: int, cap: float | None, smoothing: float, wants_gradient: bool):
    return logits.new_empty(target.shape, dtype=torch.float32)


def _padded(weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in the products' dtype with rows of zeros up to a multiple of LANE."""
    missing = -len(weight_VD) % LANE
    return F.pad(weight_VD.to(dtype), (0, 0, 0, missing)) if missing else weight_VD.to(dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, cap: float | None, smoothing: float, fused: bool
    ) -> Tensor:
        classes, dtype = len(weight_VD), products_dtype(h_ND)
        sum_dtype = torch.promote_types(h_ND.dtype, torch.float32)
        h, weight = h_ND.to(dtype), _padded(weight_VD, dtype) if fused else weight_VD.to(dtype)
        wants_h, wants_weight = ctx.needs_input_grad[:2]
        dh_ND = torch.empty_like(h_ND) if wants_h else None
        dweight = torch.zeros_like(weight, dtype=sum_dtype) if wants_weight else None
        total = torch.zeros((), dtype=sum_dtype, device=h.device)
        for chunk in CHUNKS.slices(len(h), classes, h.device.type):
            h_nD, target_n = h[chunk], target_N[chunk]
            logits = F.linear(h_nD, weight)
            if fused:
                loss = _pass(logits, target_n, classes, cap, smoothing, wants_h or wants_weight).sum()
                dlogits = logits if wants_h or wants_weight else None
            else:
                loss, dlogits = _loss_and_gradient(logits, target_n, cap, smoothing, wants_h or wants_weight)
            total += loss
            if dlogits is None:
                continue
            if dh_ND is not None:
                dh_ND[chunk] = dlogits @ weight
            if dweight is not None:
                dweight += dlogits.T @ h_nD
        ctx.save_for_backward(dh_ND, None if dweight is None else dweight[:classes])
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        dh_ND, dweight_VD = ctx.saved_tensors
        scale = grads[0]
        return (
            None if dh_ND is None else (dh_ND * scale).to(dh_ND.dtype),
            None if dweight_VD is None else (dweight_VD * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
        )


def linear_cross_entropy_reference(
    h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, cap: float | None = None, smoothing: float = 0.0
) -> Tensor:
    """The same with the softmax of each chunk computed by torch."""
    return _LinearCrossEntropy.apply(h_ND, weight_VD, target_N, cap, smoothing, False)  # pyright: ignore


def linear_cross_entropy(
    h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, cap: float | None = None, smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropies of `h W^T` against int64 targets, nats, fp32 scalar; target -100 counts nothing."""
    fused = uses_triton(KERNEL, h_ND, weight_VD, target_N, cap, smoothing)
    return _LinearCrossEntropy.apply(h_ND, weight_VD, target_N, cap, smoothing, fused)  # pyright: ignore


@torch.no_grad()
def sample_classes(h_ND: Tensor, weight_VD: Tensor, uniform_N: Tensor, cap: float | None = None) -> Tensor:
    """int64 `[N]`: a class drawn from softmax(W h) of every position by inverting its distribution function at
    `uniform_N`, in (0, 1). Logits exist for one chunk at a time."""
    h, weight = (x.to(products_dtype(h_ND)) for x in (h_ND, weight_VD))
    step = chunk_positions(weight.shape[0], h.device)
    drawn = []
    for h_nD, uniform_n in zip(h.split(step), uniform_N.split(step), strict=True):
        cumulative_nV = soft_cap(F.linear(h_nD, weight).float(), cap).softmax(1).cumsum(1)
        level_n1 = uniform_n[:, None].float() * cumulative_nV[:, -1:]
        drawn.append(torch.searchsorted(cumulative_nV, level_n1).squeeze(1))
    return torch.cat(drawn)


def _refuses(h: Tensor, weight: Tensor, target: Tensor, cap: float | None = None, smoothing: float = 0.0) -> str | None:
    if (dtype := products_dtype(h)) not in STORED or weight.dtype not in STORED:
        return f"{str(dtype).removeprefix('torch.')} is computed by torch"
    return None


def pass_cost(positions: int, classes: int, element_bytes: int, gradient: bool) -> Cost:
    """Of the Triton pass over all chunks: logits read twice and written once, or only read once; targets and losses."""
    logits, row_bytes = positions * classes, positions * 4
    if not gradient:
        return Cost(logits * element_bytes + 2 * row_bytes, row_bytes, logits * LOSS_FLOPS)
    return Cost(2 * logits * element_bytes + 2 * row_bytes, logits * element_bytes + row_bytes, logits * PASS_FLOPS)


def _forward_cost(h: Tensor, weight: Tensor, target: Tensor, cap: float | None = None, smoothing: float = 0.0) -> Cost:
    """The pass, and for every chunk three products: the logits; dh; and dW, which is added to its fp32 sum."""
    (positions, width), classes, size = h.shape, weight.shape[0], h.element_size()
    inner = pass_cost(positions, classes, size, gradient=True)
    chunks = -(-positions // chunk_positions(classes, h.device))
    matrix, logits, states = classes * width, positions * classes, positions * width
    read = (chunks * 2 * matrix + 2 * logits + 2 * states) * size + chunks * matrix * (size + 4)
    written = (logits + states) * size + chunks * matrix * (size + 4)
    return Cost(inner.read_bytes + read, inner.written_bytes + written, inner.flops + 6 * logits * width)


def _backward_cost(h: Tensor, weight: Tensor, target: Tensor, cap: float | None = None, smoothing: float = 0.0) -> Cost:
    """Scaling dh and the fp32 sum of dW."""
    states_bytes, elements = h.numel() * h.element_size(), h.numel() + weight.numel()
    written = states_bytes + weight.numel() * weight.element_size()
    return Cost(states_bytes + weight.numel() * 4, written, elements)


def _example(name: str, positions: int, classes: int, width: int) -> Example:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        target_N = torch.zeros(positions, dtype=torch.int64, device=device)
        return *(torch.zeros(n, width, device=device, dtype=dtype) for n in (positions, classes)), target_N  # pyright: ignore

    return Example(name, make)


def _compiled(dtype: str, bent: bool, gradient: bool) -> Compiled:
    signature = {"logits": f"*{dtype}", "target": "*i64", "losses": "*fp32", "classes": "i32", "stride": "i32:16"}
    name = f"{'gradient' if gradient else 'loss'} {dtype}{', soft cap, smoothing' if bent else ''}"
    constants = {"IGNORE": IGNORE, "CAPPED": bent, "SMOOTHED": bent, "GRADIENT": gradient, "BLOCK": BLOCK}
    return Compiled(name, _row_pass, signature | {"cap": "fp32", "smoothing": "fp32"}, constants, num_warps=WARPS)


KERNEL = Kernel(
    name="linear_cross_entropy",
    what="the head's loss: softmax and gradient in one pass over each chunk of logits",
    reference=linear_cross_entropy_reference,
    refuses=_refuses,
    forward_cost=_forward_cost,
    backward_cost=_backward_cost,
    compiled=tuple(
        _compiled(dtype, bent, gradient)
        for dtype in ("bf16", "fp32")
        for bent in (False, True)
        for gradient in (True, False)
    ),
    examples=(_example("vanilla-600m", 16 * 4096, 151_669, 1024),),
)
