"""The plan of a run: what would be built and why, what it costs, and whether it can succeed; nothing is built.

`check_ready` is the part that `athanor run` does first, so that a run that must fail fails before anything is paid.
What estimates, and torch with it, is imported inside the functions: where everything is in the store there is nothing
to estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from athanor.core.errors import UserError
from athanor.core.numbers import memory
from athanor.core.runtime import Runtime
from athanor.data.epochs import epochs_text, repeats
from athanor.flows.plan.machine import Machine, rented_machine, this_machine
from athanor.flows.plan.preflight import (
    Finding,
    access_findings,
    disk_finding,
    foreseen_findings,
    kernel_findings,
    learn_commits,
    rank_findings,
    recipe_findings,
    version_findings,
)
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.tasks.cost import TrainingCost
from athanor.tasks.parts import LIFECYCLE
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.training import resolve_model

if TYPE_CHECKING:
    from athanor.flows.plan.budget import Allowance
    from athanor.flows.plan.estimate import Estimate, Estimator
    from athanor.models.memory import StepMemory


@dataclass(frozen=True)
class Plan:
    """All that `athanor plan` says. Without `estimator` the recipe has errors, and no key can be told."""

    preset: Preset
    machine: Machine | None
    findings: list[Finding]
    estimator: Estimator | None = None
    stages: tuple[tuple[StageSurvey, Estimate], ...] = ()
    memory: tuple[int, StepMemory] | None = None
    attention: str | None = None
    allowance: Allowance | None = None

    @property
    def errors(self) -> list[Finding]:
        """What would make the run fail."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def total_s(self) -> float:
        """Seconds of the stages whose time is known."""
        from athanor.flows.plan.estimate import known_s

        return known_s(estimate for _, estimate in self.stages)

    @property
    def unknown(self) -> list[str]:
        """Names of the artifacts whose time is not known."""
        return [stage.artifact.name for stage, estimate in self.stages if estimate.wall_s is None]


def make_plan(preset: Preset, flow: str = LIFECYCLE, on: str | None = None, timing: bool = True) -> Plan:
    """Plan a flow of a preset on this machine, or on a GPU named `on` that is not here.

    Without `timing` times that only a batch trained here would tell are unknown.
    """
    from athanor.flows.plan.estimate import Estimator

    _ = OPTIMIZERS.table  # looked up one by one until here, so that two of a name would not be noticed
    answers = learn_commits(preset)
    findings = [*recipe_findings(preset), *rank_findings(preset), *kernel_findings(preset)]
    try:
        machine = this_machine(preset.runtime) if on is None else rented_machine(on, preset.runtime)
    except UserError as error:
        machine = None
        findings.append(Finding("error", "device", str(error)))
    if findings or machine is None:
        return Plan(preset, machine, [*findings, *access_findings(preset, None, answers)])
    survey = Survey(preset)
    needed = survey.needed_by(flow)
    findings += [*access_findings(preset, needed, answers), *foreseen_findings(survey, needed)]
    estimator = Estimator(survey, machine, timing)
    try:
        stages = tuple((stage, estimator.estimate(stage)) for stage in needed)
        trains = any(stage.record.trains and stage.state != "cached" for stage in needed)
        counted, attention = (estimator.memory(), estimator.attention()) if trains else (None, None)
    except UserError as error:  # the vocabulary, the precision
        return Plan(preset, machine, [*findings, Finding("error", "model", str(error))])
    if on is None:
        findings += [*version_findings(), disk_finding(sum(estimate.disk_bytes for _, estimate in stages))]
    if counted is not None:
        findings += _memory_findings(counted, machine, preset.runtime)
    findings += _vocabulary_findings(preset, estimator)
    findings += _epochs_findings(estimator, needed, findings)
    allowance, over = _budget(preset, estimator)
    return Plan(preset, machine, findings + over, estimator, stages, counted, attention, allowance)


def check_ready(preset: Preset, flow: str, rebuild: bool = False) -> None:
    """Raise UserError, one line for each reason, if running this flow must fail.

    Without a budget, and unless something is to be built anew, a run that finds everything in the store cannot.
    """
    asked = preset.runtime
    must_work = rebuild or asked.rebuild_drifted or asked.has_budget
    if not must_work and not recipe_findings(preset) and _all_cached(Survey(preset).needed_by(flow)):
        return
    if errors := make_plan(preset, flow, timing=asked.has_budget).errors:
        raise UserError("\n".join(f"{finding.subject}: {finding.message}" for finding in errors))


def _epochs_findings(estimator: Estimator, stages: Iterable[StageSurvey], said: list[Finding]) -> list[Finding]:
    """How often the trainings to come read their text, by its bytes, where its tokens have not said so already."""
    found = []
    for stage in stages:
        cost = estimator.cost(stage.artifact)
        if stage.state == "cached" or not isinstance(cost, TrainingCost) or not cost.epochs:
            continue
        if stage.stage not in {finding.subject for finding in said}:
            level = "warning" if repeats(cost.epochs) else "ok"
            found.append(Finding(level, stage.stage, epochs_text(cost.epochs, about=True)))
    return found


def _all_cached(stages: Iterable[StageSurvey]) -> bool:
    return all(stage.state == "cached" for stage in stages)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values: seconds, bytes, dollars; null where something is unknown."""
    machine, estimator = plan.machine, plan.estimator
    model = None
    if estimator is not None and estimator.model is not None:
        flops = estimator.flops(plan.preset.row_tokens)
        assert flops is not None
        model = {
            "family": estimator.model.family,
            "vocab_size": estimator.model.vocab_size,
            "parameters": estimator.parameters,
            "flops_per_token": asdict(flops),
        }
    return {
        "preset": plan.preset.name,
        "machine": None if machine is None else _finite(asdict(machine)),
        "model": model,
        "stages": [_stage_json(plan, stage, estimate) for stage, estimate in plan.stages],
        "memory": _memory_json(plan),
        "attention": plan.attention,
        "total": {
            "wall_s": plan.total_s,
            "usd": machine.usd(plan.total_s) if machine is not None else None,
            "disk_bytes": sum(estimate.disk_bytes for _, estimate in plan.stages),
            "unknown": plan.unknown,
        },
        "budget": _allowance_json(plan.allowance),
        "checks": [asdict(finding) for finding in plan.findings],
        "ok": not plan.errors,
    }


def _budget(preset: Preset, estimator: Estimator) -> tuple[Allowance | None, list[Finding]]:
    from athanor.flows.plan.budget import Budget

    if not preset.runtime.has_budget:
        return None, []
    try:
        budget = Budget(estimator)
        allowance = budget.allowance()
        if allowance.estimate is not None and allowance.estimate.step_s is None:
            return allowance, [Finding("error", "budget", f"no time can be planned: {allowance.estimate.source}")]
        budget.check()
    except UserError as error:
        return None, [Finding("error", "budget", str(error))]
    return allowance, []


def _vocabulary_findings(preset: Preset, estimator: Estimator) -> list[Finding]:
    """Of a tokenizer that is still to be trained; one that is there is looked at where the model is built."""
    asked, stage = preset.tokenizer, estimator.survey.one("tokenizer")
    if asked.path is not None or asked.hub is not None or estimator.survey.surveyed(stage).state == "cached":
        return []
    try:
        resolve_model(preset.model.recipe, asked.vocab_size)
    except UserError as error:
        return [Finding("error", "model", f"{error}, or set tokenizer.vocab_size lower")]
    return []


def _memory_findings(counted: tuple[int, StepMemory], machine: Machine, runtime: Runtime) -> list[Finding]:
    from athanor.models.memory import DEVICE_OVERHEAD_BYTES

    rows, step = counted
    if machine.memory_bytes is None:
        return []
    ranks = 1 if machine.device_type == "cuda" else runtime.ranks  # that share the memory
    needed = ranks * step.total_bytes + DEVICE_OVERHEAD_BYTES[machine.device_type]
    if needed <= machine.memory_bytes:
        return []
    message = f"a step of {rows} rows needs {memory(needed)}, {machine.name} has {memory(machine.memory_bytes)}"
    if rows > 1:
        return [Finding("warning", "memory", f"{message}; set runtime.micro_batch_rows lower")]
    return [
        Finding(
            "error",
            "memory",
            f"{message}; use a larger device, more ranks with engine=fsdp, a smaller model or shorter rows",
        )
    ]


def _stage_json(plan: Plan, stage: StageSurvey, estimate: Estimate) -> dict[str, Any]:
    assert plan.machine is not None
    return {
        "stage": stage.stage,
        "label": stage.artifact.label,
        "artifact": stage.artifact.name,
        "key": stage.artifact.key,
        "state": stage.state,
        "step": stage.step,
        "why": stage.why,
        "differences": [asdict(difference) for difference in stage.differences],
        "usd": plan.machine.usd(estimate.wall_s),
        **asdict(estimate),
    }


def _memory_json(plan: Plan) -> dict[str, Any] | None:
    if plan.memory is None:
        return None
    rows, step = plan.memory
    return {"micro_batch_rows": rows, **asdict(step), "total_bytes": step.total_bytes}


def _allowance_json(allowance: Allowance | None) -> dict[str, Any] | None:
    if allowance is None:
        return None
    return {
        "left_s": allowance.left_s,
        "reserve_s": allowance.reserve_s,
        "training": None if allowance.training is None else allowance.training.artifact.name,
        "training_s": allowance.training_s,
        "least_s": allowance.least_s,
        "steps": allowance.steps,
    }


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == math.inf else value for name, value in fields.items()}
