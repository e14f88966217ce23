"""What a report is made of: plain data read from artifacts, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.splits import Split

if TYPE_CHECKING:
    from athanor.models.maps import Map

MODEL_NAMES = {"base": "base", "sft": "SFT"}  # a model's name in artifacts, and in the report


@dataclass(frozen=True)
class StageRow:
    """One artifact of the lineage. `parents` maps the name an input has in the stage to its key."""

    stage: str
    label: str
    key: str
    parents: Mapping[str, str]
    wall_s: float
    cost_usd: float
    facts: Mapping[str, Any]
    code_version: int
    code: str

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> StageRow:
        """The row of an artifact, from its manifest."""
        return cls(
            **{
                name: manifest[name]
                for name in ("stage", "label", "key", "parents", "wall_s", "cost_usd", "facts", "code_version", "code")
            }
        )


@dataclass(frozen=True)
class ShardRow:
    """What `shards.json` says of one split of one source."""

    source: str
    split: Split
    tokens: int
    documents: int
    text_bytes: int


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows. A part that was not run is left empty and its section left out."""

    title: str
    preset: str
    preset_yaml: str
    command: str
    stages: Sequence[StageRow]
    model: Mapping[str, Any] = field(default_factory=dict)
    """The `config.json` of the pretrained checkpoint (a ModelRecipe as JSON)."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """`models.counts.parameter_counts`: parts, `total`, `active`."""
    shards: Sequence[ShardRow] = ()
    mixture: MixtureRecipe | None = None
    pretrain_steps: int = 0
    """Optimizer steps asked for, the length of the mixture's schedule."""
    pretrain_metrics: Sequence[Mapping[str, Any]] = ()
    sft_metrics: Sequence[Mapping[str, Any]] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Of the values that the model logs, one sentence each."""
    pretrain_schedule: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What was declared before the run: `step` and, by name, the scheduled values of these steps."""
    sft_schedule: Mapping[str, Sequence[float]] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    """One `result.json` per model and task; under `items`, metric -> what came of each item."""
    samples: Sequence[Mapping[str, Any]] = ()
    """{model, task, prompt, response, expected, correct}; the text is shown, never trusted."""
    maps: Mapping[str, Sequence[Map]] = field(default_factory=dict)
    """Interpretability maps by model: `base`, `sft`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package or platform -> version."""
