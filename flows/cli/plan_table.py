"""The plan as a page for people, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from athanor.core.numbers import compact, duration, memory, money, quantity, size
from athanor.flows.cli.tables import print_table, table
from athanor.flows.plan.estimate import TrainingEstimate, known_s
from athanor.flows.plan.plan import Plan
from athanor.flows.plan.preflight import Finding

WIDTH = 100
_STATES = {"cached": "[green]cached[/]", "resume": "[yellow]resume[/]", "run": "[bold]run[/]"}
_LEVELS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]"}


def print_plan(plan: Plan, console: Console) -> None:
    """Stages, model, memory, totals, budget, checks; errors are the caller's to say."""
    console = _console(console)
    console.print(f"[bold]{escape(plan.preset.name)}[/]{_machine(plan)}", highlight=False)
    if plan.stages:
        console.print()
        print_table(_stages(plan), console)
        console.print()
    for line in (*_model(plan), *_memory(plan), *_attention(plan), *_training(plan), *_total(plan), *_budget(plan)):
        console.print(line, highlight=False)
    _print_checks(plan.findings, console)


def print_sweep(plans: Mapping[str, Plan], console: Console) -> None:
    """A line for each run, by what it is set to, and what all of them come to; what they share counts once."""
    console = _console(console)
    first = next(iter(plans.values()))
    console.print(f"[bold]{escape(first.preset.name)}[/], {len(plans)} runs{_machine(first)}\n", highlight=False)
    listing = table("to build", "time", "cost", prose="run")
    estimates = {stage.artifact.name: estimate for plan in plans.values() for stage, estimate in plan.stages}
    for swept, plan in plans.items():
        waiting = sum(stage.state != "cached" for stage, _ in plan.stages)
        least = "at least " if plan.unknown else ""
        cost = _cost(plan, plan.total_s) or "unknown"
        listing.add_row(f"{waiting:,}", f"{least}{duration(plan.total_s)}", cost, escape(swept))
    print_table(listing, console)
    console.print()
    total_s = known_s(estimates.values())
    least = "at least " if any(estimate.wall_s is None for estimate in estimates.values()) else ""
    disk = size(sum(estimate.disk_bytes for estimate in estimates.values()))
    cost = _aside(_cost(first, total_s))
    console.print(f"total    {least}{duration(total_s)}{cost}, {disk} on disk", highlight=False)
    for swept, plan in plans.items():
        for line in _budget(plan):
            console.print(f"{escape(line)}: {escape(swept)}", highlight=False)
    _print_checks(dict.fromkeys(finding for plan in plans.values() for finding in plan.findings), console)


def _console(console: Console) -> Console:
    return Console(file=console.file, width=min(WIDTH, console.width) if console.is_terminal else WIDTH)


def _print_checks(findings: Iterable[Finding], console: Console) -> None:
    checks = table("", prose="")
    checks.show_header = False
    for finding in findings:
        if finding.level != "error":
            checks.add_row(_LEVELS[finding.level], f"{escape(finding.subject)}: {escape(finding.message)}")
    if checks.row_count:
        print_table(checks, console)


def _machine(plan: Plan) -> str:
    machine = plan.machine
    if machine is None:
        return ""
    many = machine.devices > 1
    price = machine.price_source
    if machine.usd_per_hour is not None:
        price = f"${machine.usd_per_hour:g} an hour{' each' if many else ''}, {price}"
    return escape(f" on {f'{machine.devices} x ' if many else ''}{machine.name} ({price})")


def _stages(plan: Plan) -> Table:
    priced = plan.machine is not None and plan.machine.usd_per_hour is not None
    listing = table("artifact", "state", "time", "known by", *(("cost",) if priced else ()), prose="why")
    for column in listing.columns:
        column.justify = "right" if column.header in ("time", "cost") else "left"
    for stage, estimate in plan.stages:
        cells = [duration(estimate.wall_s), estimate.source.partition(" ")[0].strip(":,")]
        cells += [_cost(plan, estimate.wall_s)] if priced else []
        if stage.state == "cached":
            cells = [""] * len(cells)
        name = f"{stage.stage}/{stage.artifact.label}"
        listing.add_row(escape(name), _STATES[stage.state], *cells, escape(stage.why))
    return listing


def _training(plan: Plan) -> Iterator[str]:
    for stage, estimate in plan.stages:
        if not isinstance(estimate, TrainingEstimate):
            continue
        line = f"{stage.stage:9}{estimate.steps:,} steps, {compact(estimate.tokens)} tokens"
        line += f", {quantity(estimate.flops, 'FLOPs')}" if estimate.flops else ""
        line += f", {estimate.steps_left:,} steps left" if stage.step else ""
        if estimate.step_s is not None:
            line += f"; {estimate.tokens / estimate.steps / estimate.step_s:,.0f} tokens/s"
        yield f"{line}, {escape(estimate.source)}"


def _model(plan: Plan) -> Iterator[str]:
    estimator = plan.estimator
    if estimator is None:
        return
    if estimator.model is None or estimator.parameters is None:
        yield f"model    parameters unknown until {escape(estimator.survey.one('tokenizer').name)} is built"
        return
    flops = estimator.flops(plan.preset.row_tokens)
    assert flops is not None
    active, total = estimator.parameters["active"], estimator.parameters["total"]
    active_part = f" ({active:,} active)" if active != total else ""
    yield (
        f"model    {estimator.model.family}, {total:,} parameters{active_part}, vocabulary "
        f"{estimator.model.vocab_size:,}; {quantity(flops.forward + flops.backward, 'FLOPs')} a training token"
    )


def _memory(plan: Plan) -> Iterator[str]:
    if plan.memory is None:
        return
    rows, step = plan.memory
    parts = (
        ("weights", step.weights_bytes),
        ("gradients", step.gradients_bytes),
        ("optimizer", step.optimizer_bytes),
        ("activations", step.activations_bytes),
    )
    listed = " + ".join(f"{name} {memory(part_bytes)}" for name, part_bytes in parts)
    each = " on each device" if plan.machine is not None and plan.machine.devices > 1 else ""
    host = f"; in host memory {memory(step.host_bytes)} a rank" if step.host_bytes else ""
    yield f"memory   {memory(step.total_bytes)}{each} for {rows} rows at a time: {listed}{host}"


def _attention(plan: Plan) -> Iterator[str]:
    if plan.attention is not None:
        yield f"attends  {escape(plan.attention)}"


def _total(plan: Plan) -> Iterator[str]:
    if not plan.stages:
        return
    disk = size(sum(estimate.disk_bytes for _, estimate in plan.stages))
    least, unknown = ("at least ", f"; the time of {len(plan.unknown)} is unknown") if plan.unknown else ("", "")
    waiting = sum(stage.state != "cached" for stage, _ in plan.stages)
    if not waiting:
        yield "total    nothing to build: everything is in the store"
        return
    cost = _aside(_cost(plan, plan.total_s))
    yield f"total    {waiting} to build, {least}{duration(plan.total_s)}{cost}, {disk} on disk{unknown}"


def _budget(plan: Plan) -> Iterator[str]:
    allowance = plan.allowance
    if allowance is None:
        return
    line = f"budget   {duration(allowance.left_s)}{_aside(_cost(plan, allowance.left_s))} left"
    if allowance.training is not None and allowance.estimate is not None and allowance.steps is not None:
        line += (
            f", {duration(allowance.reserve_s)}{_aside(_cost(plan, allowance.reserve_s))} of it kept for the other "
            f"stages: {allowance.training.stage} gets {allowance.steps:,} of its "
            f"{allowance.estimate.steps_left:,} steps"
        )
        if allowance.steps < allowance.estimate.steps_left:
            line += ", its decay moved earlier"
    yield line


def _aside(text: str) -> str:
    return f" ({text})" if text else ""


def _cost(plan: Plan, wall_s: float | None) -> str:
    if plan.machine is None or plan.machine.usd_per_hour is None:
        return ""
    return money(plan.machine.usd(wall_s))
