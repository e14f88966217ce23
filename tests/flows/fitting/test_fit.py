"""A preset fits the time: larger models for more of it, none that reads its text too often, and a refusal in one line.

No batch is timed here: every model computes SPEED FLOPs a second.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.data.epochs import MOST_EPOCHS
from athanor.flows.fitting import fit
from athanor.flows.fitting.chosen import LEAST_STEPS
from athanor.flows.fitting.given import given_sources
from athanor.flows.fitting.page import written
from athanor.flows.plan import estimate
from athanor.flows.plan.machine import this_machine
from athanor.flows.plan.plan import make_plan
from athanor.flows.plan.training_rate import Rate
from athanor.flows.presets.preset import load_preset
from athanor.models.family import FAMILIES

SPEED = 3e10


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Writes the preset for so many minutes; returns what was chosen and its plan."""
    monkeypatch.chdir(tmp_path)
    for module in (fit, estimate):
        monkeypatch.setattr(module, "training_rate", lambda *asked: Rate(SPEED, "timed here"))

    def fitted(minutes: float, family: str = "vanilla", packages: tuple[str, ...] = ("asyncio", "email", "unittest")):
        folders = [str(Path(sysconfig.get_paths()["stdlib"]) / package) for package in packages]
        machine = this_machine(Runtime(device="cpu"))
        found = fit.Fit("mine", given_sources(folders), None, family, 60 * minutes, machine).chosen()
        file = tmp_path / "mine.yaml"
        file.write_text(written(found.choices, ["mine"]), encoding="utf-8")
        return found, make_plan(load_preset(str(file)))

    return fitted


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_preset_of_every_family_plans_without_a_word_and_inside_the_time(family, fitted):
    _, plan = fitted(4, family)
    assert [finding for finding in plan.findings if finding.level != "ok"] == []
    assert plan.total_s <= 4 * 60 and not plan.unknown


def test_more_time_gives_a_larger_model_that_reads_enough(fitted, monkeypatch):
    monkeypatch.setattr(fit, "TOKENS_PER_PARAMETER", 4.0)  # the text is a few megabytes
    short, _ = fitted(3, packages=("*.py",))
    long, plan = fitted(60, packages=("*.py",))
    assert long.parameters > short.parameters
    assert long.length.tokens >= 4.0 * long.parameters
    assert plan.total_s <= 60 * 60


def test_little_text_is_not_read_more_often_than_is_worth_it(fitted):
    found, plan = fitted(600, packages=("asyncio",))
    assert found.length.tokens * found.counted.bytes_per_token / found.text_bytes <= MOST_EPOCHS
    assert [finding for finding in plan.findings if finding.level == "warning"] == []
    assert any("more text would help, more time would not" in choice.why for choice in found.choices)


def test_too_little_time_and_too_little_text_are_said_with_the_remedy(fitted):
    with pytest.raises(UserError, match=r"the stages beside training take about .* give --minutes [\d.]+ or more"):
        fitted(0.5)
    with pytest.raises(UserError, match=r"--from: .* of text are too little"):
        fitted(10, packages=("wsgiref/__init__.py",))


def test_only_as_much_of_long_text_is_read_as_there_is_time_for(fitted, monkeypatch):
    monkeypatch.setattr(fit, "READING_SHARE", 0.001)
    found, _ = fitted(6)
    assert sum(found.most_bytes.values()) == pytest.approx(0.001 * 360 * fit.TOKENIZE_BYTES_PER_S, rel=0.01)
    assert f"the first {found.most_bytes['email'] / 1e3:.3g}" in written(found.choices, [])
    assert found.length.steps >= LEAST_STEPS
