"""The optimizers as a trainer uses them: chosen by a recipe, resumed to the same bits, of known size, learning."""

from __future__ import annotations

import argparse
import inspect
from contextlib import nullcontext
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from athanor.core.errors import UserError
from athanor.core.store import canonical_json
from athanor.data.loader import Batch
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.optimizers.build import build_optimizer
from athanor.tasks.trainer.optimizers.defaults import DEFAULTS, OptimizerName
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter
from athanor.tasks.trainer.optimizers.muon import is_orthogonalised
from athanor.tasks.trainer.optimizers.sophia import CURVATURE_EVERY_STEPS
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.checkpoint import CheckpointFolder, Position
from athanor.tasks.trainer.records.retention import Retention
from athanor.tasks.trainer.step.step import Optimization
from athanor.tasks.trainer.train_recipe import TrainRecipe

CPU = torch.device("cpu")
OPTIMIZERS = get_args(OptimizerName)
PEAK_LR = {name: 3e-3 for name in OPTIMIZERS} | {
    "lion": 1e-3,
    "lion-8bit": 1e-3,
    "lion-bf16-moments": 1e-3,
    "cautious-lion": 1e-3,
    "adafactor": 3e-2,
    "sophia-g": 1e-3,
}
ROWS, TOKENS = 8, 32
SHAPE = dict(vocab_size=256, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=128, max_seq_len=TOKENS)
EXPERTS = {"family": "hydra", "hydra": dict(recursions=2, experts=4, moe_layers=1, curriculum=False)}


def train_recipe(optimizer: OptimizerName, **fields) -> TrainRecipe:
    shape = {"steps": 100, "seq_len_tokens": TOKENS, "batch_tokens": ROWS * TOKENS, "peak_lr": PEAK_LR[optimizer]}
    return TrainRecipe.model_validate({**shape, "optimizer": optimizer, **fields})


def small_model(device="cpu", **changes):
    with torch.device(device):
        return build_model(ModelRecipe.model_validate({**SHAPE, "family": "polychromatic", **changes}))


def batch(step: int) -> Batch:
    """Rows of real text, a byte a token, other ones every step."""
    text = np.frombuffer(inspect.getsource(argparse).encode(), dtype=np.uint8).astype(np.int64)
    starts = np.random.default_rng(step).integers(len(text) - TOKENS - 1, size=(ROWS, 1))
    rows = text[starts + np.arange(TOKENS + 1)]
    return Batch(
        rows[:, :-1],
        rows[:, 1:],
        np.zeros((ROWS, TOKENS), np.int64),
        np.arange(ROWS) + ROWS * step,
        np.zeros(ROWS, np.int64),
    )


def training(optimizer: OptimizerName, seed: int = 0, **changes) -> Optimization:
    model = small_model(**changes)
    model.init_weights(seed)
    return optimization(model, optimizer)


def optimization(model, optimizer: OptimizerName) -> Optimization:
    engine = Engine(model, build_optimizer(model, train_recipe(optimizer), CPU), World())
    return Optimization(engine, 1.0, CPU, nullcontext(), ROWS // 2 * TOKENS, print)


def advance(subject: Optimization, optimizer: OptimizerName, steps: range) -> list[float]:
    """Losses of the steps, at a rate that falls."""
    losses = []
    for step in steps:
        losses.append(subject.measure(batch(step), step_key=step).loss)
        subject.update(PEAK_LR[optimizer] * (1 - step / 100))
    return losses


def training_that_uses_a_matrix_every_other_step(optimizer: OptimizerName, seed: int) -> Optimization:
    """A model of experts with one more parameter, which is in the objective of even steps alone."""
    model = small_model(**EXPERTS)
    model.init_weights(seed)
    model.sometimes = torch.nn.Parameter(torch.full((6, 7), 0.5 + seed))
    loss_of, begin, used = model.loss, model.begin_step, [False]

    def begin_step(step):
        begin(step)
        used[0] = step % 2 == 0

    def loss(**rows):
        found = loss_of(**rows)
        return found._replace(aux={**found.aux, "often": model.sometimes.square().sum()}) if used[0] else found

    model.begin_step, model.loss = begin_step, loss
    return optimization(model, optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_saved_and_resumed_run_has_the_bits_of_one_that_was_not(optimizer, tmp_path):
    straight, first, resumed = (training_that_uses_a_matrix_every_other_step(optimizer, seed) for seed in (0, 0, 1))
    advance(straight, optimizer, range(6))
    advance(first, optimizer, range(3))
    folder = CheckpointFolder(tmp_path, "key", "data", Retention(newest=1, anchor_steps=100))
    folder.save(first.engine.tensors(), Position(3, 3))
    tensors = resumed.engine.tensors()
    folder.load(folder.newest(pytest.fail), tensors)
    advance(resumed, optimizer, range(3, 6))
    expected = straight.engine.tensors()
    ours = resumed.engine.tensors()
    assert expected.keys() == ours.keys() == tensors.keys()
    state_of = {name.split(".", 1)[1].rsplit(".", 1)[0] for name in expected if name.startswith("optimizer.")}
    assert state_of == {name for name, _ in straight.engine.model.named_parameters()}
    differing = [name for name in expected if not torch.equal(expected[name], ours[name])]
    assert differing == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_learns_real_text(optimizer):
    losses = advance(training(optimizer, family="vanilla"), optimizer, range(60))
    assert np.mean(losses[-5:]) < losses[0] - 1.5


@pytest.mark.parametrize("changes", [{"vocab_size": 4096, "d_model": 128}, {**EXPERTS, "d_model": 96, "d_ff": 256}])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bytes_per_parameter_computed_from_shapes_are_those_held(optimizer, changes):
    model = small_model(**changes)
    model.init_weights(0)
    subject = build_optimizer(model, train_recipe(optimizer), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    subject.step()
    storages = {t.untyped_storage().data_ptr(): t.nbytes for state in subject.state.values() for t in state.values()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    computed = optimizer_bytes_per_parameter(train_recipe(optimizer), small_model("meta", **changes))
    assert computed == pytest.approx(sum(storages.values()) / parameters, rel=0.02)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_keep_the_decay_and_rate_of_their_family_and_every_parameter_once(optimizer):
    section = {**EXPERTS["hydra"], "lr_scale": {"router": 0.5}, "decay_scale": {"expert": 3.0}}
    model = small_model(**{**EXPERTS, "hydra": section})
    recipe = train_recipe(optimizer)
    asked = {
        p: (group["weight_decay"], group["lr_scale"])
        for group in model.parameter_groups(recipe.weight_decay)
        for p in group["params"]
    }
    groups = build_optimizer(model, recipe, CPU).param_groups
    given = [(p, (group["weight_decay"], group["lr_scale"])) for group in groups for p in group["params"]]
    assert len(given) == len(asked)
    assert dict(given) == asked


def test_muon_trains_the_matrices_of_the_blocks_and_nothing_else():
    model = small_model(**EXPERTS)
    subject = build_optimizer(model, train_recipe("muon"), CPU)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    subject.step()
    by_muon = {name for name, p in model.named_parameters() if "momentum_buffer" in subject.state[p]}
    kinds = {".".join(name.split(".")[-3:]) for name in by_muon if name.startswith("blocks.")}
    assert kinds == {f"attention.{n}.weight" for n in ("query", "key", "value", "shifted_value", "out")} | {
        f"ffn.{n}.weight" for n in ("gate", "up", "down")
    }
    assert all(name.startswith("blocks.") for name in by_muon)
    untied = small_model(
        family="huginn",
        n_heads=4,
        n_kv_heads=4,
        n_layers=4,
        huginn=dict(prelude_layers=1, coda_layers=1, mean_recurrence=3, backprop_depth=2, tied=False),
    )
    assert not any(is_orthogonalised(name, p) for name, p in untied.named_parameters() if "head" in name)


def test_sampled_targets_follow_the_models_prediction_and_depend_on_their_row_alone():
    model = small_model(family="vanilla", vocab_size=3)
    model.init_weights(0)
    rows = 400
    ids_BT, row_key_B = torch.zeros(rows, 1, dtype=torch.int64), torch.arange(rows) * 7919
    targets_BT = ids_BT.clone()
    targets_BT[-100:] = -100

    def sampled(chosen: slice):
        return model.sampled_loss(ids_BT[chosen], targets_BT[chosen], None, row_key_B[chosen])

    p_V = model(ids_BT[:1])[0, 0].softmax(-1)
    entropy = -(p_V * p_V.log()).sum().item()
    cross_entropy_of_the_likeliest = -p_V.max().log().item()
    assert entropy > cross_entropy_of_the_likeliest + 0.2
    loss = sampled(slice(None))
    assert loss.tokens == rows - 100
    assert loss.aux == {}
    assert (loss.total / loss.tokens).item() == pytest.approx(entropy, abs=0.1)
    parts = sampled(slice(50)).total + sampled(slice(50, None)).total
    assert parts.item() == pytest.approx(loss.total.item(), rel=1e-5)


def test_sophia_estimates_curvature_at_its_interval_and_leaves_the_step_its_own_gradient():
    subject = training("sophia-g", family="vanilla")
    sophia, weight = subject.engine.optimizer, subject.engine.model.embedding.weight
    gradients, seen = [], [torch.zeros_like(weight)]
    sophia.register_step_pre_hook(lambda *_: gradients.append(weight.grad.clone()))
    for step in range(CURVATURE_EVERY_STEPS + 2):
        advance(subject, "sophia-g", range(step, step + 1))
        assert weight.grad is None, "sampled gradients do not leak into the next step"
        seen.append(sophia.state[weight]["curvature"].clone())
    changed = [step for step, (a, b) in enumerate(pairwise(seen), start=1) if not torch.equal(a, b)]
    assert changed == [1, 1 + CURVATURE_EVERY_STEPS]
    plain = training("adamw", family="vanilla")
    embedding = plain.engine.model.embedding.weight
    plain.engine.optimizer.register_step_pre_hook(lambda *_: gradients.append(embedding.grad.clone()))
    advance(plain, "adamw", range(1))
    torch.testing.assert_close(gradients[0], gradients[-1])


def test_a_step_that_is_discarded_teaches_sophia_no_curvature():
    subject = training("sophia-g", family="vanilla")
    advance(subject, "sophia-g", range(CURVATURE_EVERY_STEPS))
    before = {name: tensor.clone() for name, tensor in subject.engine.tensors().items()}
    subject.measure(batch(77), step_key=77)
    subject.discard()
    after = subject.engine.tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_recipe_that_names_no_optimizer_keeps_its_key():
    fields = {"steps": 1, "seq_len_tokens": 2, "batch_tokens": 2, "peak_lr": 0.1}
    silent, named = TrainRecipe.model_validate(fields), TrainRecipe.model_validate({**fields, "optimizer": "adamw"})
    assert canonical_json(silent) == canonical_json(named)
    assert '"beta1":0.9,"beta2":0.95' in canonical_json(silent)
    assert "optimizer" not in canonical_json(silent)
    assert '"optimizer":"lion"' in canonical_json(train_recipe("lion"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_has_its_own_defaults_and_survives_the_run_description(optimizer):
    recipe = train_recipe(optimizer)
    read = {field: getattr(recipe, field) for field in DEFAULTS[optimizer]}
    assert read == DEFAULTS[optimizer]
    assert TrainRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert train_recipe(optimizer, weight_decay=0.7).weight_decay == 0.7


@pytest.mark.parametrize(
    ("optimizer", "field", "message"),
    [
        ("lion", {"eps": 1e-6}, r"eps=1e-06 is not read by optimizer=lion: leave it out"),
        ("adafactor", {"beta1": 0.9}, r"beta1=0.9 is not read by optimizer=adafactor"),
        ("adamw", {"sophia_gamma": 0.1}, r"sophia_gamma=0.1 is not read by optimizer=adamw"),
        ("adamw-bf16-moments", {"beta2": 0.995}, r"beta2=0.995 is too slow for optimizer=adamw-bf16-moments"),
    ],
)
def test_a_field_the_optimizer_cannot_use_is_refused_naming_both(optimizer, field, message):
    with pytest.raises(ValidationError, match=message):
        train_recipe(optimizer, **field)


@pytest.mark.parametrize("optimizer", ["adamw", "lion-8bit"])
def test_what_no_library_kernel_takes_is_refused_in_one_line(optimizer):
    model = small_model()
    with pytest.raises(UserError, match=rf"train\.optimizer={optimizer} .*meta"):
        build_optimizer(model, train_recipe(optimizer), torch.device("meta"))
    with pytest.raises(UserError, match=r"fp32 parameters, but embedding\.weight is torch\.bfloat16"):
        build_optimizer(model.bfloat16(), train_recipe(optimizer), CPU)
