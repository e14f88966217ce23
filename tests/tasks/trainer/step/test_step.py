"""One optimizer step on a model small enough to know the right answer."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.data.loader import Batch
from athanor.models.skeleton import Loss, counted_tokens
from athanor.models.tally import Tally
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.step.step import Optimization

ROWS, TOKENS = 4, 8
TARGETS_OF_ROW = (8, 1, 0, 3)


class OneWeight(torch.nn.Module):
    """Loss of a target is weight * target; rows may be too many for the device, as `fits_rows` says."""

    def __init__(self, fits_rows: int = ROWS):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.unused = torch.nn.Parameter(torch.tensor([1.0]))
        self.fits_rows = fits_rows

    def begin_step(self, step_key):
        self.begun = step_key

    def parameter_groups(self, weight_decay):
        return [{"params": [self.weight, self.unused], "weight_decay": weight_decay}]

    def loss(self, ids_BT, targets_BT, doc_start_BT, row_key_B, source_B):
        counted_BT = targets_BT != IGNORE
        total = (self.weight * targets_BT * counted_BT).sum()
        if len(ids_BT) > self.fits_rows:
            total.backward()
            raise torch.OutOfMemoryError
        counted, tally = counted_tokens(targets_BT, doc_start_BT).sum(), Tally()
        tally.add("target", targets_BT, counted_BT)
        return Loss(total, counted_BT.sum(), {"balance": 0.5 * self.weight.sum()}, counted, tally)


def batch(value: int = 3) -> Batch:
    targets_BT = np.full((ROWS, TOKENS), IGNORE, dtype=np.int64)
    for row, count in enumerate(TARGETS_OF_ROW):
        targets_BT[row, :count] = value + row
    zeros_BT = np.zeros((ROWS, TOKENS), dtype=np.int64)
    return Batch(zeros_BT, targets_BT, zeros_BT, *np.zeros((2, ROWS), dtype=np.int64))


def optimization(model: Any, slice_rows=ROWS, said=None, grad_clip=1e9, weight_decay=0.1) -> Optimization:
    optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay), lr=0.1)
    say = (said if said is not None else []).append
    engine = Engine(model, optimizer, World())
    return Optimization(engine, grad_clip, torch.device("cpu"), nullcontext(), slice_rows * TOKENS, None, say)


def gradient_used(model, **options):
    """(StepResult, the gradient the optimizer was given) of one step."""
    subject = optimization(model, **options)
    seen = {}
    subject.engine.optimizer.register_step_pre_hook(lambda *_: seen.update(grad=model.weight.grad.clone()))
    result = subject.measure(batch(), step_key=5)
    subject.update(lr=0.1)
    return result, seen["grad"].item()


@pytest.mark.parametrize("slice_rows", [1, 2, 3, 4])
def test_every_target_weighs_the_same_however_rows_are_sliced(slice_rows):
    mean_target = (8 * 3 + 1 * 4 + 3 * 6) / 12
    result, gradient = gradient_used(OneWeight(), slice_rows=slice_rows)
    assert result.loss == pytest.approx(2.0 * mean_target)
    assert result.aux == {"balance": pytest.approx(1.0)}
    assert result.means == {"target": [pytest.approx(mean_target)]}
    assert gradient == pytest.approx(mean_target + 0.5)
    assert result.grad_norm == pytest.approx(mean_target + 0.5)


def test_a_slice_has_as_many_tokens_of_shorter_rows():
    sliced: list[tuple[int, ...]] = []

    class Seen(OneWeight):
        def loss(self, ids_BT, targets_BT, doc_start_BT, row_key_B, source_B):
            sliced.append(tuple(ids_BT.shape))
            return super().loss(ids_BT, targets_BT, doc_start_BT, row_key_B, source_B)

    halves = [getattr(batch(), name).reshape(2 * ROWS, TOKENS // 2) for name in ("ids_BT", "targets_BT")]
    short = Batch(*halves, halves[0], *np.zeros((2, 2 * ROWS), dtype=np.int64))
    optimization(Seen(fits_rows=99), slice_rows=3).measure(short, 5)
    assert sliced == [(6, TOKENS // 2), (2, TOKENS // 2)]


def test_gradient_is_clipped_and_the_norm_before_clipping_reported():
    result, gradient = gradient_used(OneWeight(), grad_clip=0.25)
    assert gradient == pytest.approx(0.25, rel=1e-4)
    assert result.grad_norm > 4


def test_out_of_memory_halves_the_slices_and_forgets_the_failed_try():
    said: list[str] = []
    shrunk = gradient_used(OneWeight(fits_rows=1), slice_rows=4, said=said)
    assert shrunk == gradient_used(OneWeight(), slice_rows=1)
    assert said == [f"out of device memory; going on with {rows} rows at a time" for rows in (2, 1)]


def test_out_of_memory_for_a_single_row_is_raised():
    with pytest.raises(torch.OutOfMemoryError):
        gradient_used(OneWeight(fits_rows=0))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_discarded_step_leaves_weights_and_optimizer_as_they_were(weight):
    model = OneWeight()
    subject = optimization(model)
    model.weight.data.fill_(weight)
    assert not math.isfinite(subject.measure(batch(), 5).loss)
    subject.discard()
    assert model.unused.item() == 1.0
    assert not subject.engine.optimizer.state
    model.weight.data.fill_(2.0)
    assert subject.measure(batch(), 5) == optimization(OneWeight()).measure(batch(), 5)


def test_the_loss_of_every_row_is_its_own():
    assert optimization(OneWeight()).row_losses(batch(), 5) == pytest.approx([2.0 * 3, 2.0 * 4, 0.0, 2.0 * 6])


def test_the_key_of_the_step_reaches_the_model_in_every_try():
    model = OneWeight(fits_rows=2)
    optimization(model).measure(batch(), 7)
    assert model.begun == 7


def test_parameters_without_gradient_have_optimizer_state_too():
    model = OneWeight()
    subject = optimization(model)
    subject.measure(batch(), 5)
    subject.update(lr=0.1)
    assert subject.engine.optimizer.state[model.unused]["step"] == 1


def test_the_learning_rate_given_is_the_one_used():
    model = OneWeight()
    subject = optimization(model, weight_decay=0.0)
    subject.measure(batch(), 5)
    subject.update(lr=0.01)
    assert model.weight.item() == pytest.approx(2.0 - 0.01, rel=1e-4)


def test_the_parts_of_a_model_learn_at_their_share_of_the_rate():
    class Slower(OneWeight):
        def parameter_groups(self, weight_decay):
            scaled = {"params": [self.weight], "lr_scale": 0.25, "weight_decay": weight_decay}
            return [scaled, {"params": [self.unused], "weight_decay": weight_decay}]

    model = Slower()
    subject = optimization(model, weight_decay=0.0)
    for expected in (2.0 - 0.0025, 2.0 - 0.005):
        subject.measure(batch(), 5)
        subject.update(lr=0.01)
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_a_step_learns_from_its_own_gradient_alone():
    model = OneWeight()
    subject = optimization(model, weight_decay=0.0)
    first = subject.measure(batch(), 5)
    subject.update(lr=0.0)
    assert model.weight.grad is None
    assert subject.measure(batch(), 5) == first
