"""Stage `report`: the report card, a pure function of the artifacts before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from athanor.core.recipe import Recipe
from athanor.core.run_files import METRICS, SCHEDULE
from athanor.core.runtime import Runtime
from athanor.core.store import Artifact
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.splits import SPLITS, Split
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.reports.inputs import ReportInputs, ShardRow, StageRow
from athanor.tasks.cost import STARTUP_S, Cost
from athanor.tasks.evaluations import read_evaluation
from athanor.tasks.stage import CONVERSATIONS, Inputs, Lifecycle, Stage, StageRun, Wanted

if TYPE_CHECKING:
    from athanor.tasks.preset_recipe import Preset


class ReportRecipe(Recipe):
    """The preset's section `report`."""

    title: str = Field(default="", description="Heading; empty uses the preset's name")
    samples: int = Field(default=6, ge=0, description="Generated samples shown")


class ReportStageRecipe(Recipe):
    """What was asked, word for word; everything else in the report comes from artifacts."""

    report: ReportRecipe
    preset: str
    preset_yaml: str = Field(description="The whole preset but its runtime")
    command: str = Field(description="What reproduces the lifecycle")
    mixture: MixtureRecipe | None = None
    steps: int = Field(description="Of pretraining; 0 without it")


def wanted(life: Lifecycle) -> Iterator[Wanted]:
    """The report card over everything that other stages make."""
    asked = life.preset.model_copy(update={"runtime": Runtime()})
    recipe = ReportStageRecipe(
        report=asked.report,
        preset=asked.name,
        preset_yaml=asked.to_yaml(),
        command=life.command,
        mixture=asked.data.mixture if asked.data is not None else None,
        steps=asked.pretrain.steps if asked.pretrain is not None else 0,
    )
    conversations = {}
    if asked.sft is not None:
        conversations = {"documents": life.one("acquire", CONVERSATIONS), "shards": life.one("chat")}
    started = {"checkpoint": life.one("checkpoint")} if asked.model.checkpoint and asked.pretrain is not None else {}
    inputs = {
        **started,
        "documents": life.all("acquire"),
        "tokenizer": life.one("tokenizer"),
        "shards": life.all("tokenize"),
        "conversations": conversations,
        "models": life.models(),
        "evaluations": life.all("evaluate"),
        "maps": life.all("interpret"),
    }
    yield Wanted("report", asked.name, recipe, inputs)


def cost(recipe: ReportStageRecipe, preset: Preset, **inputs: Any) -> Cost:
    """Drawing takes no longer than starting."""
    return Cost(STARTUP_S)


def build(recipe: ReportStageRecipe, run: StageRun, **inputs: Any) -> dict:
    """Write `report.html`, `report.md`, the figures, and `preset.yaml`, which reproduces it all."""
    from athanor.reports.card import write_report
    from athanor.tasks.trainer.wandb_run import add_report

    (run.out / "preset.yaml").write_text(recipe.preset_yaml, encoding="utf-8")
    collected = _collect(recipe, inputs)
    facts = write_report(collected, run.out)
    for name, model in inputs["models"].items():
        results = {one["label"]: one for one in collected.evaluations if one["model"] == name}
        add_report(run.out, model, results, run.runtime, run.log)
    return facts


def _collect(recipe: ReportStageRecipe, inputs: dict[str, Any]) -> ReportInputs:
    from athanor.models.counts import parameter_counts
    from athanor.models.maps import Map

    models: dict[str, Artifact] = inputs["models"]
    base = models["base"]
    model = _json(base, "config.json")
    shape = ModelRecipe.model_validate(model)
    return ReportInputs(
        title=recipe.report.title or recipe.preset,
        preset=recipe.preset,
        preset_yaml=recipe.preset_yaml,
        command=recipe.command,
        stages=[StageRow.from_manifest(artifact.manifest) for artifact in _each(inputs)],
        model=model,
        parameters=parameter_counts(shape),
        shards=[_shard_row(source, split, shards) for source, shards in inputs["shards"].items() for split in SPLITS],
        mixture=recipe.mixture,
        pretrain_steps=recipe.steps,
        pretrain_metrics=_jsonl(base, METRICS) if recipe.steps else (),
        sft_metrics=_jsonl(models["sft"], METRICS) if "sft" in models else (),
        meanings=FAMILIES[shape.family].meanings,
        pretrain_schedule=_json(base, SCHEDULE) if recipe.steps else {},
        sft_schedule=_json(models["sft"], SCHEDULE) if "sft" in models else {},
        evaluations=[read_evaluation(artifact) for artifact in inputs["evaluations"].values()],
        samples=[
            sample | {"model": artifact.manifest["recipe"]["model"], "task": artifact.manifest["recipe"]["label"]}
            for artifact in inputs["evaluations"].values()
            for sample in _jsonl(artifact, "samples.jsonl")[: recipe.report.samples]
        ],
        maps={name: [Map.model_validate(m) for m in _maps(artifact)] for name, artifact in inputs["maps"].items()},
        versions=base.manifest["versions"],
    )


def _each(inputs: Inputs) -> Iterator[Artifact]:
    for value in inputs.values():
        yield from [value] if isinstance(value, Artifact) else value.values()


def _jsonl(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.file(name).read_text(encoding="utf-8").splitlines()]


def _json(artifact: Artifact, name: str) -> dict[str, Any]:
    return json.loads(artifact.file(name).read_text(encoding="utf-8"))


def _maps(artifact: Artifact) -> list[dict[str, Any]]:
    return _json(artifact, "maps.json")["maps"]


def _shard_row(source: str, split: Split, artifact: Artifact) -> ShardRow:
    shards = _json(artifact, f"{split}/shards.json")
    return ShardRow(source, split, shards["total_tokens"], shards["total_documents"], shards["text_bytes"])


STAGE = Stage("report", part="report", wanted=wanted, cost=cost, build=build)
