"""Sophia-G: when and from what it estimates the curvature."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from small_training import CPU, ROWS, TOKENS, advance, batch, small_model, training

from athanor.tasks.trainer.optimizers.sophia import CURVATURE_EVERY_STEPS
from athanor.tasks.trainer.step.batches import rows_of


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


def test_the_curvature_is_that_of_the_mean_sampled_loss_at_the_new_weights():
    subject = training("sophia-g", family="vanilla")
    advance(subject, "sophia-g", range(1))
    model, optimizer = subject.engine.model, subject.engine.optimizer
    loss = model.sampled_loss(**rows_of(batch(0), 0, ROWS, CPU))
    (loss.total / loss.tokens).backward()
    for parameter in model.parameters():
        expected = (1 - optimizer.param_groups[0]["betas"][1]) * ROWS * TOKENS * parameter.grad**2
        torch.testing.assert_close(optimizer.state[parameter]["curvature"], expected, rtol=1e-3, atol=1e-9)
