"""Names of the optimizers and, for each, the recipe fields it reads and their values where a recipe is silent."""

from __future__ import annotations

from typing import Any, Literal

OptimizerName = Literal[
    "adamw",
    "adamw-8bit",
    "adamw-bf16-moments",
    "lion",
    "lion-8bit",
    "lion-bf16-moments",
    "cautious-lion",
    "adafactor",
    "muon",
    "sophia-g",
    "ellis-adam",
]

ADAMW = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
LION = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1.0}  # arXiv 2302.06675 sec. 5: lr / 10 and decay x 10 of AdamW's

DEFAULTS: dict[OptimizerName, dict[str, float]] = {
    "adamw": ADAMW,
    "adamw-8bit": ADAMW,
    "adamw-bf16-moments": ADAMW,
    "lion": LION,
    "lion-8bit": LION,
    "lion-bf16-moments": LION,
    "cautious-lion": LION,
    "adafactor": {"weight_decay": 0.1},
    "muon": ADAMW,  # the betas and eps are those of its AdamW part
    "sophia-g": {"beta1": 0.965, "beta2": 0.99, "eps": 1e-12, "weight_decay": 0.2, "sophia_gamma": 0.05},
    "ellis-adam": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-6, "weight_decay": 4e-5},
}
FIELDS = frozenset(field for read in DEFAULTS.values() for field in read)
BF16_BETA_LIMIT = 0.99  # see `adamw_bf16` for what happens above


def with_defaults(optimizer: OptimizerName, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, those the optimizer reads filled in. ValueError for one it does not read."""
    read = DEFAULTS[optimizer]
    chosen = {field: given[field] for field in FIELDS if given.get(field) is not None}
    if unread := sorted(chosen.keys() - read.keys()):
        raise ValueError(
            f"{unread[0]}={chosen[unread[0]]} is not read by optimizer={optimizer}: leave it out; "
            f"that reads {', '.join(read)}"
        )
    return {**given, **read, **chosen}


def refuse_stalling_beta(optimizer: OptimizerName, betas: dict[str, float | None]) -> None:
    """ValueError where a moment in bf16 would move by hardly more a step than bf16 resolves."""
    for field, beta in betas.items():
        if optimizer.endswith("bf16-moments") and beta is not None and beta > BF16_BETA_LIMIT:
            raise ValueError(
                f"{field}={beta} is too slow for optimizer={optimizer}, whose moments would stall between two bf16 "
                f"numbers: take at most {BF16_BETA_LIMIT}"
            )
