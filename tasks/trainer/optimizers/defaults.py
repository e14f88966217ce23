"""What a recipe's optimizer makes of its fields: those it reads get its own values where the recipe is silent."""

from __future__ import annotations

from typing import Any

from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS

FIELDS = ("beta1", "beta2", "eps", "weight_decay", "sophia_gamma")  # of the recipe, for an optimizer to read


def with_defaults(optimizer: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, those the optimizer reads filled in. ValueError for one it does not read."""
    read = OPTIMIZERS[optimizer].defaults
    chosen = {field: given[field] for field in FIELDS if given.get(field) is not None}
    if unread := sorted(chosen.keys() - read.keys()):
        raise ValueError(
            f"{unread[0]}={chosen[unread[0]]} is not read by optimizer={optimizer}: leave it out; "
            f"that reads {', '.join(read)}"
        )
    return {**given, **read, **chosen}


def refuse_stalling_beta(optimizer: str, betas: dict[str, float | None]) -> None:
    """ValueError where a moment in bf16 would move by hardly more a step than bf16 resolves."""
    limit = OPTIMIZERS[optimizer].beta_limit
    for field, beta in betas.items():
        if limit is not None and beta is not None and beta > limit:
            raise ValueError(
                f"{field}={beta} is too slow for optimizer={optimizer}, whose moments would stall between two bf16 "
                f"numbers: take at most {limit}"
            )
