"""The lifecycle as a chain: every artifact of one preset, built on first use, each from the ones before it.

A flow asks for the artifacts it is about; whatever they need is found in the store or built. The order of the
stages is written nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.data.data_recipe import SourceRecipe
from athanor.flows.presets.preset import Preset, reproducing_command
from athanor.tasks import acquire, chat, evaluate, interpret, pretrain, report, sft, tokenize
from athanor.tasks import make_tokenizer as tokenizer
from athanor.tasks.benchmarks.lm_eval_run import validate_task
from athanor.tasks.stage import Decision, Stage
from athanor.tasks.stage_recipes import ModelName

# Flow name -> the stages that are its own; `--only` chooses a flow, `--rebuild` rebuilds these stages.
OWN_STAGES: dict[str, tuple[str, ...]] = {
    "data": ("acquire", "tokenizer", "tokenize"),
    "pretrain": ("pretrain",),
    "sft": ("chat", "sft"),
    "evaluate": ("evaluate",),
    "interpret": ("interpret",),
    "report": ("report",),
}
CHAT = "sft.source"  # beside the names of the pretraining sources, which hold no dot
RuntimeOf = Callable[[str, Artifact], Runtime]  # stage name and the artifact about to be built -> its runtime


class Chain:
    """The artifacts of a preset. `rebuild` names stages to build again; `verify` hashes what the store holds.

    `runtime_of` gives a stage that must be built its runtime; none takes the preset's.
    """

    def __init__(
        self,
        preset: Preset,
        rebuild: Iterable[str] = (),
        verify: bool = False,
        runtime_of: RuntimeOf | None = None,
    ):
        self.preset = preset
        self.rebuild = frozenset(rebuild)
        self.verify = verify
        self.runtime_of = runtime_of

    def check(self) -> None:
        """Raise UserError, one line, for what would fail later: missing files, unknown benchmarks."""
        _ = self._sources
        if self.preset.tokenizer.path is not None:
            from athanor.data.tokenizer import tokenizer_file

            tokenizer_file(self.preset.tokenizer.path)
        for task in self.preset.evaluate.tasks.values() if self.preset.evaluate else ():
            validate_task(task)

    @cached_property
    def _sources(self) -> dict[str, acquire.AcquireRecipe]:
        """Recipes of all text; reading the identity of local files finds the missing ones."""
        sources: dict[str, SourceRecipe] = dict(self.preset.data.sources)
        if self.preset.sft is not None:
            sources[CHAT] = self.preset.sft.source
        return {name: acquire.AcquireRecipe.of(source) for name, source in sources.items()}

    def _make(self, stage: Stage, recipe: Any, label: str, **inputs: Any) -> Artifact:
        decision = Decision(rebuild=stage.name in self.rebuild, verify=self.verify)
        runtime = self.preset.runtime
        if self.runtime_of is not None:
            store = Store()
            artifact = stage.artifact(recipe, label, inputs, store)
            if decision.rebuild or runtime.rebuild_drifted or store.problem(artifact) is not None:
                runtime = self.runtime_of(stage.name, artifact)
        return stage(recipe, label=label, runtime=runtime, decision=decision, **inputs)

    @cached_property
    def documents(self) -> dict[str, Artifact]:
        """Source name -> documents."""
        return {
            name: self._make(acquire.acquire, self._sources[name], acquire.label(source))
            for name, source in self.preset.data.sources.items()
        }

    @cached_property
    def tokenizer(self) -> Artifact:
        """The tokenizer every later stage uses."""
        recipe = tokenizer.TokenizerStageRecipe.of(self.preset.tokenizer, self.preset.data.mixture.start)
        inputs = self.documents if recipe.proportions else {}
        return self._make(tokenizer.tokenizer, recipe, tokenizer.label(self.preset.tokenizer), documents=inputs)

    @cached_property
    def shards(self) -> dict[str, Artifact]:
        """Source name -> token shards."""
        return {
            name: self._make(
                tokenize.tokenize,
                tokenize.TokenizeRecipe(),
                documents.label,
                documents=documents,
                tokenizer=self.tokenizer,
            )
            for name, documents in self.documents.items()
        }

    @cached_property
    def base(self) -> Artifact:
        """The pretrained model."""
        preset = self.preset
        recipe = pretrain.PretrainRecipe(model=preset.model, train=preset.pretrain, mixture=preset.data.mixture)
        return self._make(pretrain.pretrain, recipe, preset.model.family, tokenizer=self.tokenizer, shards=self.shards)

    @cached_property
    def conversations(self) -> dict[str, Artifact]:
        """The documents and the masked token shards of SFT, as `documents` and `shards`; empty without SFT."""
        if self.preset.sft is None:
            return {}
        label = f"{acquire.label(self.preset.sft.source)}-chat"
        documents = self._make(acquire.acquire, self._sources[CHAT], label)
        shards = self._make(chat.chat, chat.ChatRecipe(), label, documents=documents, tokenizer=self.tokenizer)
        return {"documents": documents, "shards": shards}

    @cached_property
    def tuned(self) -> Artifact | None:
        """The fine-tuned model; None without SFT."""
        if self.preset.sft is None:
            return None
        recipe = sft.SftStageRecipe(train=self.preset.sft.train)
        inputs = {"base": self.base, "chat": self.conversations["shards"], "tokenizer": self.tokenizer}
        return self._make(sft.sft, recipe, self.preset.model.family, **inputs)

    @cached_property
    def models(self) -> dict[ModelName, Artifact]:
        """`base` and, with SFT, `sft`."""
        found: dict[ModelName, Artifact] = {"base": self.base}
        if self.tuned is not None:
            found["sft"] = self.tuned
        return found

    @cached_property
    def evaluations(self) -> dict[str, Artifact]:
        """`<task label>-<model>` -> scores; one artifact each, so an interrupted evaluation goes on at the next."""
        found: dict[str, Artifact] = {}
        if self.preset.evaluate is None:
            return found
        for model in self.preset.evaluate.models:
            for label, task in self.preset.evaluate.tasks.items() if model in self.models else ():
                recipe = evaluate.EvaluateRecipe.of(task, label, model, self.preset.evaluate.seed)
                documents = self.documents if evaluate.reads_documents(task) else {}
                found[f"{label}-{model}"] = self._make(
                    evaluate.evaluate, recipe, f"{label}-{model}", model=self.models[model], documents=documents
                )
        return found

    @cached_property
    def maps(self) -> dict[ModelName, Artifact]:
        """Model -> interpretability maps."""
        if self.preset.interpret is None:
            return {}
        return {
            name: self._make(
                interpret.interpret,
                interpret.InterpretStageRecipe(interpret=self.preset.interpret, model=name),
                f"{self.preset.model.family}-{name}",
                model=model,
                shards=self.shards,
            )
            for name, model in self.models.items()
        }

    @cached_property
    def report(self) -> Artifact:
        """The report card over everything above."""
        asked = self.preset.model_copy(update={"runtime": Runtime()})
        return self._make(
            report.report,
            report.ReportStageRecipe(
                report=self.preset.report,
                preset=self.preset.name,
                preset_yaml=asked.to_yaml(),
                command=reproducing_command(asked),
                mixture=self.preset.data.mixture,
                steps=self.preset.pretrain.steps,
            ),
            self.preset.name,
            documents=self.documents,
            tokenizer=self.tokenizer,
            shards=self.shards,
            conversations=self.conversations,
            models=self.models,
            evaluations=self.evaluations,
            maps=self.maps,
        )
