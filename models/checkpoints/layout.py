"""What there is to know about how a published system stores its models, as data.

Several of our tensors behind one of theirs lie one after another along its first axis, once it is turned our way.
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
    tied_head: str  # their name of the head, which is implied where it is the embedding
    tables: Callable[[LanguageModel], dict[str, Tensor]]  # implied by the recipe, on the embedding's device
    fields: Callable[[State, Mapping[str, Any]], dict[str, Any]]  # tensors and config.json -> ModelRecipe fields
    write: Callable[[Path, dict[str, Tensor], LanguageModel, int], None] | None = None  # to path: tensors, model, steps
    caveat: Callable[[ModelRecipe], str] = lambda _: ""  # why their code will compute other numbers
    shapes: Mapping[str, Callable[[ModelRecipe], tuple[int, ...]]] = field(default_factory=dict)  # unless (rows, ...)
    beside: tuple[str, ...] = ()  # those of our buffers that are no tensors there; read from beside them
    keeps_steps: bool = False  # whether what is written says how many steps the model was trained for
    model_types: tuple[str, ...] = ()  # what config.json calls it
    prefix: str = ""  # of all their names, where the whole model was written and not its body alone
    left_out: str = "$^"  # pattern of their names that hold no weights
    turned: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)  # theirs -> as ours have it

    def known(self, stored: State, config: Mapping[str, Any]) -> bool:
        """Whether this is of the layout, by what config.json says or else by the tensors that no layer has."""
        if (said := config.get("model_type")) is not None and self.model_types:
            return said in self.model_types
        own = {name for name in self.names if "{}" not in name}
        return said is None and own <= self.bare(stored).keys()

    def bare(self, stored: State) -> dict[str, Tensor]:
        """The stored tensors that hold weights, by their names without the prefix."""
        names = {name.removeprefix(self.prefix): tensor for name, tensor in stored.items()}
        return {name: tensor for name, tensor in names.items() if not re.search(self.left_out, name)}

    def turn(self, theirs: str, tensor: Tensor) -> Tensor:
        """One of their tensors with its axes and values as ours have them."""
        turn = self.turned.get(_pattern(theirs))
        return tensor if turn is None else turn(tensor)

    def implied(self, model: LanguageModel) -> dict[str, Tensor]:
        """All implied tensors of a model."""
        tied = {self.tied_head: model.embedding.weight} if model.head_weight is model.embedding.weight else {}
        return {**tied, **self.tables(model)}

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
                if (name := theirs.format(layer)) not in found and name != self.tied_head:
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
