"""The recipe of a whole lifecycle. Its sections are declared beside what reads them."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import Field, model_validator

from athanor.core.errors import UserError
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import DataRecipe, MixtureRecipe, SourceRecipe, TokenizerRecipe
from athanor.models.family import Section
from athanor.tasks.checkpoint import PresetModel, with_checkpoint
from athanor.tasks.evaluate import EvalRecipe
from athanor.tasks.interpret import InterpretRecipe
from athanor.tasks.report import ReportRecipe
from athanor.tasks.sft import SftRecipe
from athanor.tasks.trainer.train_recipe import TrainRecipe

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"


class Preset(Recipe):
    """Everything one lifecycle needs: recipes of the stages, and the runtime, which no key depends on."""

    name: str = Field(
        min_length=1,
        pattern=NAME_PATTERN,
        description="Lower-case letters, digits, '.', '_' and '-'; without it the file's name; also the deployments'",
    )
    description: str = Field(default="", description="One line for `athanor presets`")
    data: DataRecipe | None = Field(default=None, description="None: nothing is pretrained, and there are no maps")
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: PresetModel
    pretrain: TrainRecipe | None = Field(default=None, description="None: model.checkpoint is the base model")
    sft: SftRecipe | None = Field(default=None, description="None: the base model is evaluated alone")
    evaluate: EvalRecipe | None = Field(default=None, description="None: no benchmarks")
    interpret: InterpretRecipe | None = Field(default=InterpretRecipe(), description="None: no maps")
    report: ReportRecipe = ReportRecipe()
    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _from_checkpoint(cls, fields: Any) -> Any:
        return with_checkpoint(fields) if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _something_to_start_from(self) -> Preset:
        if self.pretrain is None and self.model.checkpoint is None:
            raise ValueError("pretrain is missing; give it, or the weights to start from as model.checkpoint")
        if self.data is None and (self.pretrain is not None or self.model.checkpoint is None):
            raise ValueError("data is missing; pretraining reads data.sources")
        return self

    @property
    def trainings(self) -> dict[str, TrainRecipe]:
        """What is trained, by the field of the preset."""
        runs = {"pretrain": self.pretrain, "sft.train": self.sft.train if self.sft is not None else None}
        return {field: train for field, train in runs.items() if train is not None}

    @property
    def row_tokens(self) -> int:
        """Tokens of a row in the first training, or as many as the model takes."""
        return next((train.seq_len_tokens for train in self.trainings.values()), self.model.max_seq_len)

    @property
    def sources(self) -> dict[str, SourceRecipe]:
        """The pretraining text by the name of its source."""
        return self.data.sources if self.data is not None else {}

    @property
    def mixture(self) -> MixtureRecipe:
        """In what proportion the sources are read. UserError if there are none."""
        if self.data is None:
            raise UserError("data is missing; give data.sources")
        return self.data.mixture

    @model_validator(mode="after")
    def _rows_fit(self) -> Preset:
        for name, train in self.trainings.items():
            if train.seq_len_tokens > self.model.max_seq_len:
                raise ValueError(
                    f"{name}.seq_len_tokens={train.seq_len_tokens} is longer than "
                    f"model.max_seq_len={self.model.max_seq_len}"
                )
        asked = self.interpret if self.data is not None else None
        if asked is not None and asked.seq_len_tokens > self.model.max_seq_len:
            raise ValueError(
                f"interpret.seq_len_tokens={asked.seq_len_tokens} is longer than "
                f"model.max_seq_len={self.model.max_seq_len}: set it to that, or interpret to null"
            )
        return self

    @model_validator(mode="after")
    def _sources_exist(self) -> Preset:
        if self.model.checkpoint is not None:  # which has learned what it learned from sources of its own
            return self
        for field, named in self.model.section(Section).sources().items():
            if unknown := sorted(named - self.sources.keys()):
                raise ValueError(
                    f"model.{self.model.family}.{field} names {', '.join(unknown)}, but data.mixture has "
                    f"{', '.join(sorted(self.sources))}"
                )
        return self

    def to_yaml(self) -> str:
        """The preset as a file that loads to the same preset; the runtime only where it is not the default."""
        fields = self.model_dump(mode="json", exclude_none=True)
        if self.interpret is None:  # which leaving it out is not
            fields["interpret"] = None
        if not (runtime := self.runtime.model_dump(mode="json", exclude_defaults=True)):
            del fields["runtime"]
        else:
            fields["runtime"] = runtime
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
