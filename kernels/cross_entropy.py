"""Cross-entropy of a linear head without the logits: sum_n [logsumexp(W h_n) - (W h_n)[target_n]].

With a cap, cap * tanh(W h / cap) stands for W h, whose slope is 1 - tanh^2. With smoothing e the target is 1 - e of the
one class and e / V of each: (1 - e) (W h)[target] + e mean(W h) stands for (W h)[target] (Szegedy et al. 2016).

The N positions are taken in chunks. While a chunk's logits exist, their gradient is taken too,
p - target, and folded into dh and dW at once; backward only scales both by the incoming scalar.
So the largest tensor ever alive is one chunk [n, V], and the head costs three matrix products and not
the four of a recomputation. Sums are fp32 (fp64 for fp64 arguments). Classes are drawn
from the softmax in the same chunks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.core.targets import IGNORE
from athanor.kernels.chunks import ChunkSize

CHUNKS = ChunkSize(cpu=2**20, cuda=2**27)  # of logits


def chunk_positions(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits are held at once."""
    return CHUNKS.rows(vocab_size, device.type)


def _matmul_dtype(h_ND: Tensor) -> torch.dtype:
    kind = h_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h_ND.dtype


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap), elementwise; x without a cap (Gemma 2, 2024, section 2)."""
    return x if cap is None else torch.tanh(x / cap) * cap


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, cap: float | None, smoothing: float
    ) -> Tensor:
        sum_dtype = torch.promote_types(h_ND.dtype, torch.float32)
        h, weight = (x.to(_matmul_dtype(h_ND)) for x in (h_ND, weight_VD))
        wants_h, wants_weight = ctx.needs_input_grad[:2]
        dh_ND = torch.empty_like(h_ND) if wants_h else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=sum_dtype) if wants_weight else None
        total = torch.zeros((), dtype=sum_dtype, device=h.device)
        for chunk in CHUNKS.slices(len(h), weight.shape[0], h.device.type):
            h_nD, target_n = h[chunk], target_N[chunk]
            counted_n1 = (target_n != IGNORE)[:, None]
            safe_n1 = target_n.clamp(min=0)[:, None]
            logits_nV = soft_cap(F.linear(h_nD, weight).to(sum_dtype), cap)
            normaliser_n1 = logits_nV.logsumexp(1, keepdim=True)
            expected_n1 = logits_nV.gather(1, safe_n1)
            if smoothing:
                expected_n1 = (1.0 - smoothing) * expected_n1 + smoothing * logits_nV.mean(1, keepdim=True)
            total += ((normaliser_n1 - expected_n1) * counted_n1).sum()
            if dh_ND is None and dweight_VD is None:
                continue
            slope_nV = None if cap is None else 1.0 - (logits_nV / cap).square()
            dlogits_nV = logits_nV.sub_(normaliser_n1).exp_()
            if smoothing:
                dlogits_nV = dlogits_nV.sub_(smoothing / dlogits_nV.shape[1])
            dlogits_nV.scatter_add_(1, safe_n1, torch.full_like(normaliser_n1, smoothing - 1.0))
            if slope_nV is not None:
                dlogits_nV = dlogits_nV.mul_(slope_nV)
            dlogits_nV = dlogits_nV.mul_(counted_n1).to(h.dtype)
            if dh_ND is not None:
                dh_ND[chunk] = dlogits_nV @ weight
            if dweight_VD is not None:
                dweight_VD += dlogits_nV.T @ h_nD
        ctx.save_for_backward(dh_ND, dweight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        dh_ND, dweight_VD = ctx.saved_tensors
        scale = grads[0]
        return (
            None if dh_ND is None else (dh_ND * scale).to(dh_ND.dtype),
            None if dweight_VD is None else (dweight_VD * scale).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def linear_cross_entropy(
    h_ND: Tensor, weight_VD: Tensor, target_N: Tensor, cap: float | None = None, smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropies of `h W^T` against int64 targets, nats, fp32 scalar; target -100 counts nothing."""
    return _LinearCrossEntropy.apply(h_ND, weight_VD, target_N, cap, smoothing)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def sample_classes(h_ND: Tensor, weight_VD: Tensor, uniform_N: Tensor, cap: float | None = None) -> Tensor:
    """int64 `[N]`: a class drawn from softmax(W h) of every position by inverting its distribution function at
    `uniform_N`, in (0, 1). Logits exist for one chunk at a time."""
    h, weight = (x.to(_matmul_dtype(h_ND)) for x in (h_ND, weight_VD))
    step = chunk_positions(weight.shape[0], h.device)
    drawn = []
    for h_nD, uniform_n in zip(h.split(step), uniform_N.split(step), strict=True):
        cumulative_nV = soft_cap(F.linear(h_nD, weight).float(), cap).softmax(1).cumsum(1)
        level_n1 = uniform_n[:, None].float() * cumulative_nV[:, -1:]
        drawn.append(torch.searchsorted(cumulative_nV, level_n1).squeeze(1))
    return torch.cat(drawn)
