"""An optimizer is one file: declared in its room, it is in the recipe, the plan, the checks and the training."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.core.rows import read_rows
from athanor.core.runtime import Runtime
from athanor.tasks.trainer.engines.build import check_ranks
from athanor.tasks.trainer.engines.kind import ENGINES
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.micro_batch import memory_of
from athanor.tasks.trainer.train_recipe import TrainRecipe

SIGN_DESCENT = """
import torch
from athanor.tasks.trainer.engines.build import build_engine
from athanor.tasks.trainer.optimizers.kind import OptimizerKind, moments
from athanor.tasks.trainer.optimizers.per_tensor import PerTensor

ASKED = []

class SignDescent(PerTensor):
    def __init__(self, groups, *, lr):
        super().__init__(groups, {"lr": lr})

    def new_state(self, parameter):
        return {name: torch.zeros_like(parameter) for name in ("one", "two", "three")}

    def update(self, parameter, grad, state, group):
        state["one"].copy_(grad)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * grad.sign())

DECLARED = OptimizerKind(
    name="sign-descent",
    defaults={"weight_decay": 0.25},
    build=lambda groups, model, **arguments: SignDescent(groups, **arguments),
    state_bytes=moments(3),
    after_update=lambda optimizer, sampled_gradient: ASKED.append(sampled_gradient()),
)
"""


@pytest.fixture
def sign_descent(plant_module):
    plant_module(OPTIMIZERS, "sign_descent", SIGN_DESCENT)


def test_an_optimizer_of_one_file_is_planned_and_trained_with(sign_descent, make_run):
    folder = make_run("run", train={"steps": 2, "warmup_steps": 0, "optimizer": "sign-descent"})
    spec = read_spec(folder)
    assert spec.train.weight_decay == 0.25
    adamw = spec.train.model_copy(update={"optimizer": "adamw"})
    ours, theirs = (memory_of(spec.model, recipe, Runtime(), "cpu", 4) for recipe in (spec.train, adamw))
    assert ours.optimizer_bytes == pytest.approx(1.5 * theirs.optimizer_bytes)

    train(folder, Stop())
    steps = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in steps] == [1, 2]
    (saved,) = (folder / "checkpoints" / "step-00000002").glob("*.safetensors")
    tensors = load_file(saved)
    assert {name.rsplit(".", 1)[-1] for name in tensors if name.startswith("optimizer.")} == {"one", "two", "three"}
    moved = tensors["model.final_norm.gain"] - 1.0
    sizes = {round(abs(size) / 3e-3, 3) for size in moved.tolist()}
    assert sizes <= {0.5, 1.5, 0.0}, "each step moves a gain by the learning rate"

    from athanor.tasks.trainer.optimizers import sign_descent as planted

    assert [targets > 0 for targets in planted.ASKED] == [True, True], "asked after each update"


@pytest.mark.parametrize("engine", ["fsdp", "deepspeed"])
def test_an_engine_does_not_shard_what_does_not_name_it(sign_descent, make_run, engine):
    spec = read_spec(make_run("run", train={"optimizer": "sign-descent"}, runtime={"engine": engine, "ranks": 2}))
    with pytest.raises(UserError, match=f"engine={engine} shards what optimizer=sign-descent needs whole"):
        check_ranks(spec.runtime, spec.train)


def test_without_its_file_its_name_is_unknown_and_the_names_there_are_are_told():
    fields = {"steps": 1, "seq_len_tokens": 2, "batch_tokens": 2, "peak_lr": 0.1, "optimizer": "sign-descent"}
    with pytest.raises(ValidationError, match=r"Input should be 'adafactor', 'adamw', .* or 'sophia-g'"):
        TrainRecipe.model_validate(fields)
    with pytest.raises(ValidationError, match="Input should be a valid string"):
        TrainRecipe.model_validate({**fields, "optimizer": ["adamw"]})


def test_optimizers_are_sharded_by_engines_that_there_are():
    two = Runtime(ranks=2)
    sharding = {kind.name for kind in ENGINES.records() if kind.layout(two).stage > 0}
    assert {name for kind in OPTIMIZERS.records() for name in kind.sharded_by} == sharding
