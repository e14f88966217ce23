"""A budget in money or hours over one base model's lifecycle, kept over all attempts.

The budget's ledger, `<home>/budgets/<preset>-<key12 of the base model>/ledger.jsonl`, is charged every few seconds
while any flow of the preset runs under a budget, whatever it does: reading, training, waiting, failing. What was built
or spent without a budget is not on it. From what is left, a training stage is given what the stages still to be built
do not need: `runtime.budget_s`, device seconds by its own ledger, over all its attempts. All else here is in wall
seconds, whose price is that of a device times the devices held.

Invariants: a second's cost is on the ledger before the next row's interval is over, so a crash loop cannot spend twice;
when the budget is spent no further stage starts, and what is built stays.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.numbers import money
from athanor.core.runtime import Runtime
from athanor.core.store import Artifact, Store
from athanor.flows.plan.estimate import Estimator, TrainingEstimate, known_s
from athanor.flows.plan.machine import Machine, this_machine
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.tasks.cost import TrainingCost
from athanor.tasks.parts import LIFECYCLE
from athanor.tasks.preset_recipe import Preset
from athanor.tasks.stage import STAGES, base_model
from athanor.tasks.trainer.records.ledger import Ledger, ledger_total

RESERVE_MARGIN = 1.25  # other stages are kept so much more than they are estimated at
SMALLEST_MARGIN = 1.05  # the smallest budget is named so much larger, as estimates shift a little
TICK_S = 5.0


@dataclass(frozen=True)
class Allowance:
    """What the next training gets of what is left, wall seconds. `least_s` is what it cannot do without."""

    left_s: float
    reserve_s: float
    training: StageSurvey | None
    estimate: TrainingEstimate | None
    least_s: float

    @property
    def training_s(self) -> float:
        """What the next training may take."""
        return self.left_s - self.reserve_s

    @property
    def steps(self) -> int | None:
        """Steps the next training can do in it, of those left; None without training or where its speed is unknown."""
        if self.estimate is None or self.estimate.step_s is None:
            return None
        return min(self.estimate.steps_left, max(0, int(self.training_s / self.estimate.step_s)))


class Budget:
    """The budget of a preset, for an estimator of what it still has to build."""

    def __init__(self, estimator: Estimator):
        self._estimator = estimator
        self._runtime: Runtime = estimator.preset.runtime
        self._machine: Machine = estimator.machine
        base = base_model(estimator.survey)
        self.folder: Path = home() / "budgets" / f"{estimator.preset.name}-{base.key[:12]}"
        if self._runtime.budget_usd is not None and not self._machine.usd_per_hour:
            raise UserError(
                f"runtime.budget_usd={self._runtime.budget_usd:g}: no price is known for {self._machine.name}; set "
                "runtime.price_usd_per_hour, or give the budget in hours"
            )

    @classmethod
    def of(cls, preset: Preset) -> Budget:
        """The budget of a preset that has one, on this machine. UserError if it is spent or too small."""
        machine = this_machine(preset.runtime)
        runtime = preset.runtime.model_copy(update={"price_usd_per_hour": machine.usd_per_hour or 0.0})
        survey = Survey(preset.model_copy(update={"runtime": runtime}))
        survey.needed_by(LIFECYCLE)
        budget = cls(Estimator(survey, machine))
        budget.check()
        return budget

    @property
    def left_s(self) -> float:
        """Wall seconds on this machine until the money or the hours are gone; negative when overdrawn."""
        spent, limits = ledger_total(self.folder), []
        if self._runtime.budget_usd is not None:
            limits.append((self._runtime.budget_usd - spent.usd) / self._usd_per_s)
        if self._runtime.budget_hours is not None:
            limits.append(self._runtime.budget_hours * 3600 - spent.wall_s)
        return min(limits)

    def allowance(self) -> Allowance:
        """What the first training stage still to be built gets, as things stand now."""
        training = next((stage for stage in self._waiting() if stage.record.trains), None)
        reserve_s = self._reserve_s(training)
        if training is None:
            return Allowance(self.left_s, reserve_s, None, None, 0.0)
        estimate, cost = self._estimator.estimate(training), self._estimator.cost(training.artifact)
        assert isinstance(estimate, TrainingEstimate) and isinstance(cost, TrainingCost)
        warmup_steps = max(0, cost.train.warmup_steps + 1 - training.step)
        return Allowance(self.left_s, reserve_s, training, estimate, warmup_steps * (estimate.step_s or 0.0))

    def check(self) -> None:
        """Raise UserError, one line with the numbers, when the budget cannot pay for the warm-up and what follows."""
        allowance = self.allowance()
        if allowance.training is None or allowance.training_s >= allowance.least_s:
            if allowance.left_s <= 0:
                raise UserError(self._spent())
            return
        assert allowance.estimate is not None
        smallest_s = ledger_total(self.folder).wall_s + SMALLEST_MARGIN * (allowance.reserve_s + allowance.least_s)
        raise UserError(
            f"the budget of {self._amount()} is too small: {self.show(allowance.left_s)} are left, but the warm-up of "
            f"{allowance.training.stage} takes {self.show(allowance.least_s)}, the other stages "
            f"{self.show(allowance.reserve_s)}; the smallest that works is {self._option(smallest_s)}"
        )

    def runtime_for(self, stage: str, artifact: Artifact) -> Runtime:
        """The runtime of a stage about to be built. Raises UserError when nothing is left."""
        if self.left_s <= 0:
            raise UserError(self._spent())
        if not STAGES[stage].trains:
            return self._runtime
        used_device_s = ledger_total(Store().partial_path(artifact)).device_s
        may_use_s = max(1.0, self.left_s - self._reserve_s(self._estimator.survey.surveyed(artifact)))
        return self._runtime.model_copy(update={"budget_s": used_device_s + may_use_s * self._machine.devices})

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge the time inside to the ledger, every TICK_S and at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        machine = self._machine
        ledger = Ledger(self.folder, uuid.uuid4().hex[:12], machine.devices, machine.usd_per_hour or 0.0)
        done = threading.Event()
        ticker = threading.Thread(target=_tick, args=(ledger, done), name="budget", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
            ledger.close()

    def show(self, wall_s: float) -> str:
        """A span of this machine's time in the unit the budget is given in."""
        if self._runtime.budget_usd is not None:
            return money(wall_s * self._usd_per_s)
        return f"{wall_s / 3600:.2f} h"

    @property
    def _usd_per_s(self) -> float:
        """Of all devices; only where a price is known."""
        return (self._machine.usd_per_hour or 0.0) * self._machine.devices / 3600

    def _waiting(self) -> list[StageSurvey]:
        store = Store()
        return [stage for stage in self._estimator.survey.stages if store.problem(stage.artifact) is not None]

    def _reserve_s(self, training: StageSurvey | None) -> float:
        others = [stage for stage in self._waiting() if stage is not training]
        return RESERVE_MARGIN * known_s(map(self._estimator.estimate, others))

    def _amount(self) -> str:
        given = self._runtime
        parts = [f"${given.budget_usd:g}" if given.budget_usd is not None else ""]
        parts.append(f"{given.budget_hours:g} h" if given.budget_hours is not None else "")
        return " and ".join(part for part in parts if part)

    def _option(self, wall_s: float) -> str:
        options = []
        if self._runtime.budget_usd is not None:
            spent = ledger_total(self.folder)
            options.append(f"--budget-usd {_up(spent.usd + (wall_s - spent.wall_s) * self._usd_per_s):.2f}")
        if self._runtime.budget_hours is not None:
            options.append(f"--budget-hours {_up(wall_s / 3600):.2f}")
        return " ".join(options)

    def _spent(self) -> str:
        total = ledger_total(self.folder)
        spent = f"{total.wall_s / 3600:.2f} h, {total.device_s / 3600:.2f} device hours"
        if self._runtime.budget_usd is not None:
            spent = f"{money(total.usd)}, {spent}"
        return (
            f"the budget of {self._amount()} is spent ({spent}); what is built stays in the store, and a larger budget "
            "goes on from there"
        )


def _tick(ledger: Ledger, done: threading.Event) -> None:
    while not done.wait(TICK_S):
        ledger.tick()


def _up(amount: float) -> float:
    """Rounded up to hundredths, so that what is printed is enough."""
    return int(amount * 100 + 1) / 100
