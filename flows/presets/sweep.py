"""`--sweep KEY=A,B`: a preset in several settings, one for each value, of several sweeps for each combination.

Values stand between commas as in a YAML list: a comma inside of brackets or quotes is part of its value, which a value
of `--set`, always one, needs no rule for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import yaml

from athanor.core.errors import UserError

EXAMPLE = "--sweep pretrain.peak_lr=1e-3,3e-3"


def settings_of(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides KEY=VALUE of each run, in order; one run without any where nothing is swept. UserError where a
    sweep has less than two values."""
    return list(product(*map(_overrides, sweeps)))


def _overrides(sweep: str) -> list[str]:
    key, equals, text = sweep.partition("=")
    if not equals or not key.strip("."):
        raise UserError(f"--sweep {sweep}: write it as key=value,value, e.g. {EXAMPLE}")
    listed = f"[{text}]"
    try:
        node = yaml.compose(listed, yaml.SafeLoader)
    except yaml.YAMLError:
        raise UserError(f"--sweep {sweep}: a bracket or a quote is left open; write it as in {EXAMPLE}") from None
    assert isinstance(node, yaml.SequenceNode)
    values = list(dict.fromkeys(listed[value.start_mark.index : value.end_mark.index] for value in node.value))
    if len(values) < 2:
        raise UserError(f"--sweep {sweep}: give two values or more, e.g. {EXAMPLE}; a single one is --set")
    return [f"{key}={value}" for value in values]
