"""Mixture of experts: E SwiGLU networks, of which each token uses k.

    p = softmax(W x) over all experts;   y = alpha sum_{e in top-k} p_e E_e(x)        k > 1: p renormalised over them

With k = 1 the weight is p itself, not 1, so the router learns from the cross-entropy. No token is dropped. Tokens are
sorted by expert and multiplied group by group, so work grows with the active experts only. `dense` (warm-up) and
`static` (no data-dependent shape) compute every expert for every token; the first weighs all of them by p, the second
only the chosen ones, equal to the grouped result. Jitter multiplies the router's logits by 1 +- jitter in training.
alpha starts small but not at zero, where no expert would get a gradient. Rows may be taught which experts are theirs:
see `teaching_loss`.
Source: Switch Transformer (Fedus et al. 2021); HYDRA.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.kernels.grouped_matmul import grouped_matmul
from athanor.kernels.noise import uniform
from athanor.kernels.swiglu import swiglu
from athanor.models.families.hydra.routing import LinearRouter, Routing, balance_loss, row_means

ALPHA_START = 0.1
COMPARED_EVERY = 64  # counted tokens of a row, the experts are compared on one


class Compared(NamedTuple):
    """How the experts differ on some tokens of each row, without gradient."""

    divergence_BS: Tensor
    exists_BS: Tensor  # a row with fewer counted tokens has fewer of them


class Choices(NamedTuple):
    """How a pass chose among the experts, without gradient."""

    p_BTE: Tensor
    chosen_BTk: Tensor
    compared: Compared | None  # in training

    @property
    def share_BTE(self) -> Tensor:
        """Share of each token's choices that fell on each expert."""
        return F.one_hot(self.chosen_BTk, self.p_BTE.shape[-1]).sum(2) / self.chosen_BTk.shape[-1]

    def load(self) -> Tensor:
        """Share of all choices that fell on each expert, `[E]`."""
        return self.share_BTE.mean((0, 1))


class Experts(nn.Module):
    """The weights of E SwiGLU networks."""

    def __init__(self, experts: int, d_model: int, d_ff: int):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(experts, d_ff, d_model))
        self.up = nn.Parameter(torch.zeros(experts, d_ff, d_model))
        self.down = nn.Parameter(torch.zeros(experts, d_model, d_ff))

    def one(self, expert: int, x: Tensor) -> Tensor:
        """One network, for every token."""
        mixed = swiglu(F.linear(x, self.gate[expert]), F.linear(x, self.up[expert]))
        return F.linear(mixed, self.down[expert])

    def grouped(self, x_ND: Tensor, sizes_E: list[int]) -> Tensor:
        """Tokens sorted by expert, `sizes_E` of them each."""
        u_NF, v_NF = (grouped_matmul(x_ND, weight, sizes_E) for weight in (self.gate, self.up))
        return grouped_matmul(swiglu(u_NF, v_NF), self.down, sizes_E)

    @torch.no_grad()
    def divergence(self, x_ND: Tensor) -> Tensor:
        """1 - mean cosine between what two experts make of the same token, `[N]`: 0 where they compute the same,
        however their neurons are ordered, 1 where they are unrelated."""
        y_END = torch.stack([self.one(expert, x_ND.to(self.down.dtype)) for expert in range(len(self.down))])
        y_END = F.normalize(y_END.float(), dim=-1)
        count = len(y_END)
        return 1.0 - (y_END.sum(0).square().sum(-1) - y_END.square().sum((0, 2))) / (count * (count - 1))

    def compared(self, x_BTD: Tensor, counted_BT: Tensor) -> Compared:
        """Their divergence on every COMPARED_EVERY-th counted token of a row, and its last: the same whatever rows are
        computed beside it."""
        groups = -(-x_BTD.shape[1] // COMPARED_EVERY)
        before_S = COMPARED_EVERY * torch.arange(groups, device=x_BTD.device)
        nth_BT = counted_BT.cumsum(1)
        nth_BS = (before_S + COMPARED_EVERY).minimum(nth_BT[:, -1:])
        place_BS = torch.searchsorted(nth_BT, nth_BS)
        x_BSD = x_BTD.detach().gather(1, place_BS[:, :, None].expand(-1, -1, x_BTD.shape[2]))
        return Compared(self.divergence(x_BSD.flatten(0, 1)).view_as(place_BS), before_S < nth_BT[:, -1:])


class MixtureOfExperts(nn.Module):
    """The feed-forward layer, already scaled by alpha."""

    def __init__(self, d_model: int, d_ff: int, experts: int, per_token: int, jitter: float, static: bool):
        super().__init__()
        self.per_token, self.jitter, self.static = per_token, jitter, static
        self.router = LinearRouter(d_model, experts)
        self.experts = Experts(experts, d_model, d_ff)
        self.alpha = nn.Parameter(torch.full((1,), ALPHA_START))

    def forward(self, x_BTD: Tensor, routing: Routing, stream: int = 0) -> tuple[Tensor, dict[str, Tensor], Choices]:
        """y `[B, T, D]`; the losses of each row `[B]` over its counted tokens, unweighted: `moe` for balance and, where
        the rows are taught, `domain`; and the choices. `stream` numbers the layer's noise."""
        logit_BTE, row_key_B = self.router(x_BTD), routing.row_key_B
        if self.training and self.jitter and row_key_B is not None:
            noise_BN = uniform(row_key_B, stream, logit_BTE[0].numel())
            logit_BTE = logit_BTE * (1.0 + self.jitter * (2.0 * noise_BN - 1.0).float()).view_as(logit_BTE)
        p_BTE = logit_BTE.softmax(-1)
        weight_BTk, chosen_BTk = p_BTE.topk(self.per_token, dim=-1)
        if self.per_token > 1:
            weight_BTk = weight_BTk / weight_BTk.sum(-1, keepdim=True)
        losses = {"moe": balance_loss(p_BTE, chosen_BTk, routing.counted_BT)}
        if routing.taught_BE is not None:
            losses["domain"] = teaching_loss(logit_BTE, routing.taught_BE, routing.counted_BT)
        if self.static or bool(routing.moe_dense):
            sparse_BTE = torch.zeros_like(p_BTE).scatter(-1, chosen_BTk, weight_BTk)
            y_BTD = self._every_expert(x_BTD, sparse_BTE + routing.moe_dense * (p_BTE - sparse_BTE))
        else:
            y_BTD = self._chosen_experts(x_BTD, weight_BTk, chosen_BTk)
        # Here, in the forward pass, engines that shard weights have them whole.
        compared = self.experts.compared(x_BTD, routing.counted_BT) if self.training else None
        return self.alpha * y_BTD, losses, Choices(p_BTE.detach(), chosen_BTk, compared)

    def _every_expert(self, x_BTD: Tensor, weight_BTE: Tensor) -> Tensor:
        y_BTD = torch.zeros_like(x_BTD)
        for expert, weight_BT in enumerate(weight_BTE.to(x_BTD.dtype).unbind(2)):
            y_BTD = y_BTD + weight_BT[:, :, None] * self.experts.one(expert, x_BTD)
        return y_BTD

    def _chosen_experts(self, x_BTD: Tensor, weight_BTk: Tensor, chosen_BTk: Tensor) -> Tensor:
        expert_N = chosen_BTk.flatten()
        sizes_E = torch.bincount(expert_N, minlength=self.experts.gate.shape[0]).tolist()
        order_N = expert_N.argsort(stable=True)
        x_ND = x_BTD.flatten(0, 1).repeat_interleave(self.per_token, dim=0)
        y_ND = self.experts.grouped(x_ND.index_select(0, order_N), sizes_E)
        y_BTkD = torch.empty_like(y_ND).index_copy(0, order_N, y_ND).view(*chosen_BTk.shape, -1)
        return (y_BTkD * weight_BTk[..., None].to(y_ND.dtype)).sum(2)

    def flops_per_token(self, dense: bool = False) -> float:
        """Forward matrix-product FLOPs of a token with its k experts, or with all of them."""
        experts = self.experts.gate.shape[0]
        used = experts if dense or self.static else self.per_token
        one = sum(weight.numel() for weight in self.experts.parameters()) / experts
        return 2.0 * (self.router.weight.numel() + used * one)


def teaching_loss(logit_BTE: Tensor, taught_BE: Tensor, counted_BT: Tensor) -> Tensor:
    """-ln of the probability that falls on the experts marked for the row, mean over its counted tokens, `[B]`. How a
    token chooses among them stays free; a row marked for all experts yields 0 and no gradient."""
    marked_BT = logit_BTE.masked_fill(~taught_BE[:, None], -torch.inf).logsumexp(-1)
    return row_means(logit_BTE.logsumexp(-1) - marked_BT, counted_BT)


def positions_among(blocks: int, layers: int) -> list[int]:
    """After which of the blocks (0-based) the expert layers stand, evenly spaced and never after the last: 2, 4 of
    8; 2, 5, 8, 11 of 16. Source: HYDRA's published code."""
    return [i * (blocks - 2) // (layers + 1) for i in range(1, layers + 1)]
