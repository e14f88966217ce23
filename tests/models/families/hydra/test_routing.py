"""What HYDRA's routers learn from: the best of a document, thresholds measured over a step, even shares."""

from types import SimpleNamespace

import pytest
import torch
from meeting import Meeting

from athanor.core.targets import IGNORE
from athanor.models.families.hydra.block import THRESHOLD_STREAMS
from athanor.models.families.hydra.routing import (
    ThresholdRouter,
    balance_loss,
    best_of_documents,
    calibrate,
    membership,
)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_the_threshold_measured_is_the_same_for_any_micro_batches(lively_model):
    ids = random_ids(4, 32)
    whole, cut = lively_model("hydra").train(), lively_model("hydra").train()
    whole.loss(ids, ids)
    for rows in ids.split([1, 3]):
        cut.loss(rows, rows)
    whole.after_step(4.0)
    cut.after_step(4.0)
    for a, b in zip(whole.blocks, cut.blocks, strict=True):
        torch.testing.assert_close(a.mod.router.threshold, b.mod.router.threshold)
        assert a.mod.router.threshold != 0


@torch.no_grad()
def test_the_threshold_measured_is_the_same_for_any_ranks(lively_model, monkeypatch):
    ids = random_ids(4, 32)
    alone, *ranks = models = [lively_model("hydra expert_choice").train() for _ in range(3)]
    for model, rows in zip(models, (ids, ids[:3], ids[3:]), strict=True):
        model.loss(rows, rows)
    alone.after_step(4.0)
    meeting = Meeting(2)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", meeting.total)
    meeting.run(lambda rank: rank.after_step(4.0), ranks)
    for whole, *parts in zip(*(model._thresholds for model in models), strict=True):
        for part in parts:
            torch.testing.assert_close(part.threshold, whole.threshold, atol=1e-6, rtol=1e-6)
        assert whole.threshold != 0


@torch.no_grad()
def test_padding_moves_no_threshold(lively_model):
    ids = random_ids(2, 24)
    targets, starts = ids.clone(), torch.tensor([[0] * 16 + [16] * 8] * 2)
    targets[:, 16:] = IGNORE
    padded, alone = (lively_model("hydra expert_choice").train() for _ in range(2))
    padded.loss(ids, targets, starts)
    alone.loss(ids[:, :16], ids[:, :16])
    for model in (padded, alone):
        model.after_step(4.0)
    for one, other in zip(padded._thresholds, alone._thresholds, strict=True):
        torch.testing.assert_close(one.threshold, other.threshold, atol=1e-6, rtol=1e-6)


def alike(jitter):
    """Sixteen rows of 32 tokens, half of them one token, whose logit the share of 0.75 is reached at."""
    router = ThresholdRouter(8, jitter, stream=0).train()
    logit = torch.where(torch.arange(32) % 2 == 0, 0.0, torch.linspace(-1.0, 1.0, 32)).expand(16, 32)
    everyone = torch.ones(16, 32, dtype=torch.bool)
    routing = SimpleNamespace(counted_BT=everyone, doc_start_BT=None)
    return router, logit, routing


@pytest.mark.parametrize("drift", [-1e-3, 1e-3])
def test_a_share_that_is_reached_among_equal_tokens_is_kept_to_however_their_logit_drifts(drift):
    router, logit, routing = alike(0.1)
    for step in range(60):
        met = router.scattered(logit + drift * step, torch.arange(16) + 1000 * step)
        passing = router.reaches(met).float().mean()
        calibrate([router], [[membership(logit, met, 0.6, routing)[1]]], lambda x: x)
    assert passing == pytest.approx(0.6, abs=0.06)


def test_a_threshold_is_the_mean_of_what_was_reached_until_a_tenth_counts_for_the_newest():
    router = ThresholdRouter(8, 0.0, stream=0)
    for reached in (1.0, 2.0, 6.0):
        router.follow(torch.tensor(reached))
    assert router.threshold == pytest.approx(3.0)
    router.calibrations.fill_(500)
    router.follow(torch.tensor(4.0))
    assert router.threshold == pytest.approx(3.1)


def test_noise_meets_thresholds_in_training_alone_and_comes_from_the_rows_key():
    router, logit, _ = alike(0.1)
    keys = torch.arange(16)
    noise = router.scattered(logit, keys) - logit
    assert noise.std() == pytest.approx(0.1, rel=0.15) and noise[0].unique().numel() == 32
    torch.testing.assert_close(router.scattered(logit[3:5], keys[3:5]) - logit[3:5], noise[3:5])
    assert router.eval().scattered(logit, keys) is logit
    assert alike(0.0)[0].scattered(logit, keys) is logit


def test_every_router_has_noise_of_its_own(lively_model):
    model = lively_model("hydra expert_choice", n_layers=3)
    streams = [router.stream for router in model._thresholds]
    assert len(set(streams)) == len(streams) > 3 and min(streams) >= THRESHOLD_STREAMS


def test_targets_of_the_gate_are_the_best_of_each_document():
    score = torch.tensor([[5.0, 1.0, 2.0, 9.0, 9.0, 3.0, 0.0, 4.0, 8.0]])
    starts = torch.tensor([[0, 0, 0, 3, 4, 4, 4, 4, 4]])
    found = best_of_documents(score, starts, 0.5)
    assert found.int().tolist() == [[1, 0, 1, 1, 1, 0, 0, 1, 1]]
    assert best_of_documents(score, None, 0.5).sum() == 5
    assert best_of_documents(torch.zeros(1, 4), None, 0.5).int().tolist() == [[1, 1, 0, 0]]


def test_balance_loss_is_one_when_even_and_counts_only_what_counts():
    even = torch.full((1, 4, 4), 0.25)
    counted = torch.ones(1, 4, dtype=torch.bool)
    assert balance_loss(even, torch.arange(4).view(1, 4, 1), counted).tolist() == pytest.approx([1.0])
    one = torch.nn.functional.one_hot(torch.zeros(1, 4, dtype=torch.long), 4).float()
    assert balance_loss(one, torch.zeros(1, 4, 1, dtype=torch.long), counted).tolist() == pytest.approx([4.0])
    half = torch.tensor([[True, True, False, False]])
    mixed = torch.cat((even[:, :2], one[:, 2:]), dim=1)
    assert balance_loss(mixed, torch.tensor([[[0], [1], [3], [3]]]), half).tolist() == pytest.approx([1.0])
    p, chosen = torch.cat((even, one)), torch.tensor([[[0], [1], [2], [3]], [[0]] * 4])
    assert balance_loss(p, chosen, counted.expand(2, 4)).tolist() == pytest.approx([1.0, 4.0])
    assert balance_loss(p, chosen, ~counted.expand(2, 4)).tolist() == [0.0, 0.0]
