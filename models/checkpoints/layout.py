"""What there is to know about how a published system stores its models, as data.

Several of our tensors behind one of theirs lie one after another along its first axis.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from athanor.core.errors import UserError
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

State = Mapping[str, Tensor]
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")  # a layer's number in a tensor's name


@dataclass(frozen=True)
class Layout:
    """Names with `{}` stand for those of every layer. What is *implied* is stored there and not here: reading checks
    it where it is present, writing adds it."""

    family: str
    names: Mapping[str, tuple[str, ...]]  # theirs -> ours
    tied_head: str  # their name of the head that is the embedding
    tables: Callable[[LanguageModel], dict[str, Tensor]]  # implied by the recipe, on the embedding's device
    fields: Callable[[State, Mapping[str, Any]], dict[str, Any]]  # tensors and config.json -> ModelRecipe fields
    write: Callable[[Path, dict[str, Tensor], LanguageModel, int], None]  # to path: tensors, model, steps trained
    caveat: Callable[[ModelRecipe], str]  # why their code will compute other numbers
    shapes: Mapping[str, Callable[[ModelRecipe], tuple[int, ...]]] = field(default_factory=dict)  # unless (rows, ...)
    beside: tuple[str, ...] = ()  # those of our buffers that are no tensors there; read from beside them
    keeps_steps: bool = False  # whether what is written says how many steps the model was trained for

    def implied(self, model: LanguageModel) -> dict[str, Tensor]:
        """All implied tensors of a model."""
        return {self.tied_head: model.embedding.weight, **self.tables(model)}

    def sources(self, ours: State) -> dict[str, tuple[str, ...]]:
        """The name of each tensor there -> ours that make it. UserError for one of ours that has no place there, and
        for one of theirs that nothing of ours makes."""
        pattern_of = {part: theirs for theirs, parts in self.names.items() for part in parts}
        found: dict[str, tuple[str, ...]] = {}
        for name in ours:
            if name in self.beside:
                continue
            match = _LAYER.search(name)
            theirs = pattern_of.get(_pattern(name))
            if theirs is None:
                raise UserError(f"published {self.family} checkpoints have no place for this model's {name}")
            layer = match[0] if match else ""
            found[theirs.format(layer)] = tuple(part.format(layer) for part in self.names[theirs])
        layers: dict[str, set[str]] = defaultdict(set)
        for theirs in found:
            if (match := _LAYER.search(theirs)) is not None:
                layers[theirs[: match.start()]].add(match[0])
        for theirs in self.names:
            for layer in layers[theirs.partition("{}")[0]] if "{}" in theirs else [""]:
                if (name := theirs.format(layer)) not in found:
                    raise UserError(f"published {self.family} checkpoints have {name}, which this model has not")
        return found

    def shape(self, theirs: str, parts: Sequence[Tensor], recipe: ModelRecipe) -> tuple[int, ...]:
        """The shape of one of their tensors, given ours that make it."""
        special = self.shapes.get(_pattern(theirs))
        return special(recipe) if special else (sum(len(part) for part in parts), *parts[0].shape[1:])


def _pattern(name: str) -> str:
    return _LAYER.sub("{}", name, count=1)


def count_layers(state: State, prefix: str) -> int:
    """How many different layers' tensors begin with `prefix`."""
    return len({name.removeprefix(prefix).split(".", 1)[0] for name in state if name.startswith(prefix)})
