"""An observer is one file: it hears of all that happens in a run, and remembers over an interruption."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.tasks.trainer.observers.kind import OBSERVERS
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.records.metrics import reproducible_rows
from athanor.tasks.trainer.run import train

PROBE = """
import torch
from contextlib import contextmanager
from athanor.tasks.trainer.observers.kind import Observer

HEARD = []

class Probe(Observer):
    name = "probe"

    def __init__(self, scene):
        super().__init__(scene)
        self.learned_steps, self.sum = 0, torch.zeros(1)

    def begin(self, step):
        HEARD.append(f"begin {step}")
        self.scene.say("the probe is in")

    def row(self, row):
        HEARD.append(f"{row['kind']} row {row['step']}")

    def learned(self, step, progress):
        HEARD.append(f"learned {step} at {progress}")
        self.learned_steps += 1
        self.sum += step

    def evaluated(self, step, held_out):
        HEARD.append(f"evaluated {step} {sorted(held_out)}")

    @contextmanager
    def delivering(self):
        HEARD.append("delivering")
        yield
        HEARD.append("delivered")

    def tensors(self):
        return {"probe.sum": self.sum}

    def state(self):
        return {"probed_steps": self.learned_steps}

    def restore(self, state):
        self.learned_steps = state["probed_steps"]

    def summary(self):
        return {"probe": [self.learned_steps, self.sum.item()]}

    def close(self):
        HEARD.append("close")

DECLARED = Probe
"""


@pytest.fixture
def heard(plant_module) -> list[str]:
    """What the probe hears."""
    plant_module(OBSERVERS, "probe", PROBE)
    assert "probe" in OBSERVERS
    from athanor.tasks.trainer.observers import probe

    return probe.HEARD


def test_an_observer_of_one_file_hears_of_everything_in_its_order(heard, make_run):
    train(make_run("run", train={"steps": 2, "warmup_steps": 0, "eval_every_steps": 1000}), Stop())
    sources = "['one', 'two']"
    assert heard == [
        "event row 0",
        "begin 0",
        *["event row 0"] * 3,
        *("eval row 0", f"evaluated 0 {sources}"),
        *("learned 0 at 0.0", "step row 1"),
        *("learned 1 at 0.5", "step row 2"),
        *("delivering", "delivered", "eval row 2", f"evaluated 2 {sources}"),
        *("delivering", "delivered"),
        "close",
    ]


def test_an_observer_remembers_over_an_interruption_and_changes_no_number(heard, make_run, plant_module):
    cut = make_run("cut", train={"steps": 4})
    with pytest.raises(Preempted):
        train(cut, Stop(looks=3))
    assert heard[-1] == "close"
    train(cut, Stop())
    summary = json.loads((cut / "summary.json").read_text())
    assert summary["probe"] == [4, 0 + 1 + 2 + 3]
    assert summary["averaged_steps"] == 0

    vars(OBSERVERS)["table"].pop("probe")
    alone = make_run("alone", train={"steps": 4})
    train(alone, Stop())
    assert "probe" not in json.loads((alone / "summary.json").read_text())
    assert reproducible_rows(alone) == reproducible_rows(cut)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (cut, alone))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
