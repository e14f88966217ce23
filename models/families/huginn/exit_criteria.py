"""When a position has iterated enough: six criteria, each comparing a step with the one before it.

    latent-diff        ||s_t - s_{t-1}|| / ||s_t||                                              < 0.03
    cosine             1 - cos(s_t, s_{t-1})                                                    < 1e-3
    entropy-diff       |H_t - H_{t-1}|, H the entropy of the next token, H_0 = 100              < 1e-3
    kl                 KL(p_{t-1} || p_t), p_0 even                                             < 5e-4
    minp-kl            the same, probabilities below a tenth of the largest replaced by 1 / V   < 1e-5
    argmax-stability   steps in a row whose likeliest token is that of the step before          >= 5

The first two read states. The others need logits, which cost the coda and the head at every step that is looked at:
check every few steps, or use latent-diff. Checks some steps apart compare neighbouring steps all the same, so the step
before a check is looked at too, and for argmax-stability as many as shall agree. Source: recurrent-pretraining;
thresholds of Geiping et al. 2025 where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from athanor.core.errors import UserError

Criterion = Literal["latent-diff", "cosine", "entropy-diff", "kl", "minp-kl", "argmax-stability"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
THRESHOLDS: dict[Criterion, float] = dict(zip(CRITERIA, (0.03, 1e-3, 1e-3, 5e-4, 1e-5, 5), strict=True))


@dataclass(frozen=True)
class ExitRule:
    """A criterion, its threshold (none: the one above), and the steps between two checks."""

    criterion: Criterion
    threshold: float | None = None
    check_every: int = 1

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UserError(f"exit criterion {self.criterion!r} does not exist: {', '.join(CRITERIA)}")
        if self.check_every < 1:
            raise UserError(f"exit check_every={self.check_every} must be 1 or more")

    @property
    def reads_logits(self) -> bool:
        """Whether it compares predictions and not states."""
        return self.criterion not in ("latent-diff", "cosine")


class Watch:
    """Follows the steps of `[B, T]` positions, from the initial state on."""

    def __init__(self, rule: ExitRule, state_BTD: Tensor, vocab_size: int):
        self.rule = rule
        self._threshold = THRESHOLDS[rule.criterion] if rule.threshold is None else rule.threshold
        self._compare = _COMPARE[rule.criterion]
        self._before = _before_the_first_step(rule.criterion, state_BTD, vocab_size)
        self._compared_steps = self._threshold if rule.criterion == "argmax-stability" else 1

    def next_check(self, step: int) -> int:
        """The first check that is not before `step` steps."""
        return -(-step // self.rule.check_every) * self.rule.check_every

    def looks(self, step: int) -> bool:
        """Whether `stops` must be given what there is after `step` steps, for a check then or soon after."""
        return self.next_check(step) - step < self._compared_steps + 1

    def stops(self, seen: Tensor) -> Tensor:
        """Which positions, bool `[B, T]`, have iterated enough if this step is a check's; `seen` is their newest states
        or logits."""
        value_BT, self._before = self._compare(self._before, seen.float())
        if self.rule.criterion == "argmax-stability":
            return value_BT >= self._threshold
        return value_BT < self._threshold


def _before_the_first_step(criterion: Criterion, state_BTD: Tensor, vocab_size: int) -> Any:
    rows, length = state_BTD.shape[:2]
    if criterion in ("latent-diff", "cosine"):
        return state_BTD.float()
    if criterion == "entropy-diff":
        return state_BTD.new_full((rows, length), 100.0, dtype=torch.float32)
    if criterion == "argmax-stability":
        return state_BTD.new_full((2, rows, length), -1, dtype=torch.int64)
    return state_BTD.new_full((1, 1, vocab_size), -math.log(vocab_size), dtype=torch.float32)


def _latent_difference(before_BTD: Tensor, state_BTD: Tensor) -> tuple[Tensor, Tensor]:
    return (state_BTD - before_BTD).norm(dim=-1) / state_BTD.norm(dim=-1), state_BTD


def _cosine(before_BTD: Tensor, state_BTD: Tensor) -> tuple[Tensor, Tensor]:
    return 1.0 - torch.nn.functional.cosine_similarity(state_BTD, before_BTD, dim=-1), state_BTD


def _entropy_difference(before_BT: Tensor, logits_BTV: Tensor) -> tuple[Tensor, Tensor]:
    log_p = logits_BTV.log_softmax(-1)
    entropy_BT = -(log_p.exp() * log_p).sum(-1)
    return (entropy_BT - before_BT).abs(), entropy_BT


def _divergence(before_BTV: Tensor, log_p_BTV: Tensor) -> tuple[Tensor, Tensor]:
    return (before_BTV.exp() * (before_BTV - log_p_BTV)).sum(-1), log_p_BTV


def _kl(before_BTV: Tensor, logits_BTV: Tensor) -> tuple[Tensor, Tensor]:
    return _divergence(before_BTV, logits_BTV.log_softmax(-1))


def _min_p_kl(before_BTV: Tensor, logits_BTV: Tensor) -> tuple[Tensor, Tensor]:
    p = logits_BTV.softmax(-1)
    p = torch.where(p < 0.1 * p.amax(-1, keepdim=True), 1.0 / p.shape[-1], p)
    return _divergence(before_BTV, (p / p.sum(-1, keepdim=True)).log())


def _argmax_stability(before_2BT: Tensor, logits_BTV: Tensor) -> tuple[Tensor, Tensor]:
    token_BT, (token_before_BT, stable_BT) = logits_BTV.argmax(-1), before_2BT
    stable_BT = torch.where(token_BT == token_before_BT, stable_BT + 1, 0)
    return stable_BT, torch.stack((token_BT, stable_BT))


_COMPARE: dict[Criterion, Callable[[Any, Tensor], tuple[Tensor, Any]]] = dict(
    zip(
        CRITERIA,
        (_latent_difference, _cosine, _entropy_difference, _kl, _min_p_kl, _argmax_stability),
        strict=True,
    )
)
