"""The recipe of a whole lifecycle. Its sections are declared beside what reads them."""

from __future__ import annotations

import yaml
from pydantic import Field, model_validator

from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import DataRecipe, TokenizerRecipe
from athanor.models.family import Section
from athanor.models.model_recipe import ModelRecipe
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
    data: DataRecipe
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe
    pretrain: TrainRecipe
    sft: SftRecipe | None = Field(default=None, description="None: the base model is evaluated alone")
    evaluate: EvalRecipe | None = Field(default=None, description="None: no benchmarks")
    interpret: InterpretRecipe | None = Field(default=InterpretRecipe(), description="None: no maps")
    report: ReportRecipe = ReportRecipe()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _rows_fit(self) -> Preset:
        for name, train in (("pretrain", self.pretrain), ("sft.train", self.sft.train if self.sft else None)):
            if train is not None and train.seq_len_tokens > self.model.max_seq_len:
                raise ValueError(
                    f"{name}.seq_len_tokens={train.seq_len_tokens} is longer than "
                    f"model.max_seq_len={self.model.max_seq_len}"
                )
        if self.interpret is not None and self.interpret.seq_len_tokens > self.model.max_seq_len:
            raise ValueError(
                f"interpret.seq_len_tokens={self.interpret.seq_len_tokens} is longer than "
                f"model.max_seq_len={self.model.max_seq_len}: set it to that, or interpret to null"
            )
        return self

    @model_validator(mode="after")
    def _sources_exist(self) -> Preset:
        for field, named in self.model.section(Section).sources().items():
            if unknown := sorted(named - self.data.sources.keys()):
                raise ValueError(
                    f"model.{self.model.family}.{field} names {', '.join(unknown)}, but data.mixture has "
                    f"{', '.join(sorted(self.data.sources))}"
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
