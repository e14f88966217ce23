"""A budget is kept over all attempts; training gets what the other stages leave; too small a one is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.store import Store
from athanor.flows.plan import budget as module
from athanor.flows.plan.budget import RESERVE_MARGIN, Budget
from athanor.flows.plan.estimate import Estimator
from athanor.flows.plan.machine import this_machine
from athanor.flows.plan.plan import check_ready, make_plan
from athanor.flows.plan.survey import Survey
from athanor.flows.plan.training_rate import Rate
from athanor.tasks.trainer.records.ledger import Ledger, ledger_total

PRICE = "runtime.price_usd_per_hour=3.6"  # a dollar in 1000 s
FLOPS_PER_S = 1e8  # of the made-up machine; a step of the small preset takes a second or two


@pytest.fixture(autouse=True)
def known_speed(monkeypatch):
    """A machine whose speed does not depend on what else runs on it."""
    monkeypatch.setattr("athanor.flows.plan.estimate.training_rate", lambda *_: Rate(FLOPS_PER_S, "given"))


def make_budget(preset) -> Budget:
    survey = Survey(preset)
    survey.needed_by("lifecycle")
    return Budget(Estimator(survey, this_machine(preset.runtime)))


def stage(budget, name):
    return next(found for found in budget._estimator.survey.stages if found.stage == name)


def spend(folder, wall_s, usd_per_hour=3.6):
    """Write a ledger row of so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder, "earlier", devices=1, price_usd_per_hour=usd_per_hour)
    ledger._charged -= wall_s
    ledger.close()


def test_money_and_hours_are_time_and_the_smaller_counts(small_preset):
    assert make_budget(small_preset(PRICE, "runtime.budget_usd=5")).left_s == pytest.approx(5000)
    assert make_budget(small_preset("runtime.budget_hours=2")).left_s == pytest.approx(7200)
    both = small_preset(PRICE, "runtime.budget_usd=5", "runtime.budget_hours=1")
    assert make_budget(both).left_s == pytest.approx(3600)


def test_what_earlier_attempts_spent_is_gone_and_another_run_has_its_own(small_preset):
    budget = make_budget(small_preset(PRICE, "runtime.budget_usd=5"))
    spend(budget.folder, 1000)
    assert budget.left_s == pytest.approx(4000, abs=1)
    spend(budget.folder, 500, usd_per_hour=7.2)  # on a dearer machine
    assert budget.left_s == pytest.approx(3000, abs=1)
    assert make_budget(small_preset(PRICE, "runtime.budget_usd=5", "pretrain.seed=9")).left_s == pytest.approx(5000)


def test_training_may_use_what_is_left_but_for_the_other_stages_beside_what_it_used(small_preset, leave_checkpoint):
    budget = make_budget(small_preset(PRICE, "runtime.budget_usd=50"))
    others = [found for found in budget._estimator.survey.stages if found.stage != "pretrain"]
    reserve_s = RESERVE_MARGIN * sum(budget._estimator.estimate(found).wall_s or 0 for found in others)
    pretrain = stage(budget, "pretrain")
    given = budget.runtime_for("pretrain", pretrain.artifact).budget_s
    assert given == pytest.approx(50_000 - reserve_s)
    leave_checkpoint(pretrain, 20, device_s=700.0)
    assert budget.runtime_for("pretrain", pretrain.artifact).budget_s == pytest.approx(given + 700)
    assert budget.runtime_for("tokenize", stage(budget, "tokenize").artifact).budget_s is None


def test_every_device_is_paid_and_hours_are_those_of_the_clock(small_preset):
    one = make_budget(small_preset(PRICE, "runtime.budget_usd=50", "runtime.budget_hours=20"))
    many = make_budget(small_preset(PRICE, "runtime.budget_usd=50", "runtime.budget_hours=20"))
    many._machine = replace(many._machine, devices=8)
    assert one.left_s == pytest.approx(50_000) and many.left_s == pytest.approx(50_000 / 8)
    with many.charged():
        pass
    charged = ledger_total(many.folder)
    assert charged.device_s == pytest.approx(8 * charged.wall_s) and charged.usd == pytest.approx(
        charged.device_s / 1000
    )
    ledger = Ledger(many.folder, "earlier", devices=8, price_usd_per_hour=3.6)
    ledger._charged -= 1000
    ledger.close()
    assert many.left_s == pytest.approx((50 - 8) * 1000 / 8, abs=1)
    pretrain = stage(many, "pretrain")
    given = many.runtime_for("pretrain", pretrain.artifact).budget_s
    assert given == pytest.approx(8 * many.allowance().training_s)  # device seconds
    hours = make_budget(small_preset("runtime.budget_hours=20"))
    hours._machine = replace(hours._machine, devices=8)
    assert hours.left_s == pytest.approx(19 * 3600 + 2600, abs=1)


def test_a_stage_that_is_built_needs_no_reserve(small_preset, publish):
    budget = make_budget(small_preset(PRICE, "runtime.budget_usd=50"))
    pretrain, before = stage(budget, "pretrain"), []
    for name in ("acquire", "sft", "report"):
        before.append(budget.runtime_for("pretrain", pretrain.artifact).budget_s)
        publish(stage(budget, name))
    assert sorted(set(before)) == before
    assert budget.runtime_for("pretrain", pretrain.artifact).budget_s == pytest.approx(
        50_000 - budget.allowance().reserve_s
    )


def test_a_budget_below_warm_up_and_reserves_is_refused_with_the_smallest_that_works(small_preset):
    with pytest.raises(UserError, match=r"budget of \$0\.01 is too small: \$0\.01 are left, but the warm-up") as caught:
        check_ready(small_preset(PRICE, "runtime.budget_usd=0.01"), "lifecycle")
    assert "\n" not in str(caught.value)
    smallest = re.search(r"the smallest that works is --budget-usd ([\d.]+)$", str(caught.value))
    assert smallest is not None
    allowance = make_plan(small_preset(PRICE, f"runtime.budget_usd={smallest[1]}")).allowance
    assert allowance is not None and allowance.steps is not None and allowance.steps > 10  # the warm-up


def test_training_cannot_do_without_what_is_left_of_its_warm_up_and_a_step(small_preset, leave_checkpoint):
    budget = make_budget(small_preset(PRICE, "runtime.budget_usd=50", "model.vocab_size=1024"))
    whole = budget.allowance()
    assert whole.estimate is not None and whole.estimate.step_s
    assert whole.least_s == pytest.approx(11 * whole.estimate.step_s)  # the warm-up has ten
    leave_checkpoint(stage(budget, "pretrain"), 4)
    rest = make_budget(small_preset(PRICE, "runtime.budget_usd=50", "model.vocab_size=1024")).allowance()
    assert rest.estimate is not None and rest.least_s == pytest.approx(7 * (rest.estimate.step_s or 0.0))


def test_hours_that_do_not_suffice_are_refused_in_hours(small_preset):
    with pytest.raises(UserError, match=r"budget of 0\.01 h is too small: .* is --budget-hours [\d.]+$"):
        make_budget(small_preset("runtime.budget_hours=0.01")).check()


def test_when_nothing_is_left_no_stage_starts(small_preset):
    preset = small_preset(PRICE, "runtime.budget_usd=5")
    budget = make_budget(preset)
    spend(budget.folder, 6000)
    with pytest.raises(
        UserError, match=r"of \$5 is spent \(\$6\.00, 1\.67 h, 1\.67 device hours\).*stays in the store"
    ):
        budget.runtime_for("evaluate", stage(budget, "evaluate").artifact)


def test_money_without_a_price_is_refused(small_preset):
    with pytest.raises(UserError, match=r"no price is known for .* set runtime.price_usd_per_hour"):
        make_budget(small_preset("runtime.budget_usd=5"))


def test_time_inside_is_charged_as_it_passes_also_when_the_process_is_killed(small_preset, monkeypatch):
    monkeypatch.setattr(module, "TICK_S", 0.01)
    budget = make_budget(small_preset(PRICE, "runtime.budget_usd=5"))
    with budget.charged():
        time.sleep(0.05)
    assert 0.05 <= ledger_total(budget.folder).device_s < 5

    script = (
        "import sys, time; from pathlib import Path; import threading\n"
        "import athanor.flows.plan.budget as module; import athanor.tasks.trainer.records.ledger as ledger_module\n"
        "module.TICK_S = ledger_module.ROW_EVERY_S = 0.05\n"
        "budget = module.Budget.__new__(module.Budget)\n"
        "budget.folder = Path(sys.argv[1])\n"
        "budget._machine = type('M', (), {'devices': 1, 'usd_per_hour': 3.6})()\n"
        "with budget.charged():\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    folder = home() / "killed"
    child = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "in\n"
    deadline = time.monotonic() + 20
    while ledger_total(folder).device_s < 0.2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert 0.2 <= ledger_total(folder).device_s < 20
    assert not Store().root.exists()
