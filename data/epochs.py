"""How often a run reads its text, in words.

Up to about four epochs repeated text is nearly as good as new; beyond, its worth decays fast (Muennighoff et al. 2023,
"Scaling Data-Constrained Language Models", section 6).
"""

from __future__ import annotations

from collections.abc import Mapping

from athanor.core.numbers import number
from athanor.data.data_recipe import MixtureRecipe

MOST_EPOCHS = 4.0


def repeats(epochs: Mapping[str, float]) -> bool:
    """Whether a source is read more often than repeated text is worth it."""
    return any(count > MOST_EPOCHS for count in epochs.values())


def epochs_text(epochs: Mapping[str, float], about: bool = False) -> str:
    """`epochs of each source: math 0.41, code 38.0`; with what to do about those above MOST_EPOCHS."""
    said = ", ".join(f"{name} {number(count)}" for name, count in epochs.items())
    text = f"epochs of each source{', about' if about else ''}: {said}"
    if often := [name for name, count in epochs.items() if count > MOST_EPOCHS]:
        text += (
            f"; more than {MOST_EPOCHS:g} of {', '.join(often)}, where repeated text is worth little: "
            "give more text, a smaller share in the mixture, or fewer steps"
        )
    return text


def drawn_tokens(mixture: MixtureRecipe, steps: int, batch_tokens: int) -> dict[str, float]:
    """Tokens that a run asks of each source."""
    from athanor.data.mixture import scheduled_weights

    drawn_S = batch_tokens * scheduled_weights(mixture, steps).sum(0)
    return dict(zip(sorted(mixture.start), drawn_S.tolist(), strict=True))
