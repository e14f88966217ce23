"""Maps of a recurrence: what a model run at each depth, and one that stops by itself, say for themselves."""

import numpy as np
import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.data.loader import Batch
from athanor.models.families.huginn.adaptive import adaptively
from athanor.models.families.huginn.exit_criteria import CRITERIA, ExitRule

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
KEYS = torch.tensor([11, -4, 2**40])


def measured(model):
    """Maps of two batches, the second with two documents in each row; and the batches."""
    doc_start = np.array([[0] * 5 + [5] * 7] * 3)
    batches = [
        Batch(IDS.numpy(), None, np.zeros_like(doc_start), KEYS.numpy(), None),
        Batch(IDS.flip(0).numpy(), None, doc_start, KEYS.numpy(), None),
    ]
    return {one.name: one for one in model.maps(batches)}, batches


@torch.no_grad()
def test_loss_by_recurrence_is_that_of_the_model_at_each_depth(deeper):
    model = deeper(4)
    maps, batches = measured(model)
    for steps in range(1, 5):
        total = tokens = 0
        for batch in batches:
            ids, starts = torch.tensor(batch.ids_BT), torch.tensor(batch.doc_start_BT)
            targets = torch.where(starts[:, 1:] == starts[:, :-1], ids[:, 1:], IGNORE)
            with model.recurring(steps):
                loss = model.loss(ids, torch.nn.functional.pad(targets, (0, 1), value=IGNORE), starts)
            total, tokens = total + loss.total, tokens + loss.tokens
        found = maps["loss_by_recurrence"].values[0][steps - 1]
        assert found == pytest.approx((total / tokens).item(), rel=1e-5)


@torch.no_grad()
def test_latent_trajectory_is_the_relative_move_of_each_iteration(deeper):
    model = deeper(4)
    seen = []
    handle = model.core.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    for batch in measured(model)[1]:
        model.hidden(torch.tensor(batch.ids_BT), torch.tensor(batch.doc_start_BT))
    handle.remove()
    moves = [((out - s).norm(dim=-1) / out.norm(dim=-1)) for s, out in seen[-8:]]
    means = [torch.stack((moves[step], moves[4 + step])).mean().item() for step in range(4)]
    trajectory = measured(model)[0]["latent_trajectory"]
    assert trajectory.values[0] == pytest.approx(means, rel=1e-4)
    assert trajectory.series[0] == "mean"


@torch.no_grad()
def test_the_map_of_exits_shares_the_tokens_out_by_criterion(deeper, decoded):
    model = deeper(6)

    def exits(ids):
        batch = Batch(ids.numpy(), None, np.zeros(ids.shape, np.int64), *np.zeros((2, len(ids)), np.int64))
        return next(one for one in model.maps([batch]) if one.name == "exit_steps")

    whole = exits(IDS)
    assert whole.y_ticks == list(CRITERIA) and len(whole.x_ticks) == 6
    assert [sum(row) for row in whole.values] == pytest.approx([1.0] * 6)
    first = IDS[:, :1]  # nothing before it: its exit depends on no other token's
    for criterion, shares in zip(CRITERIA, exits(first).values, strict=True):
        with adaptively(model, ExitRule(criterion)):
            _, steps = decoded(model, first, [1])
        wanted = torch.bincount(steps[:, 0] - 1, minlength=6) / 3
        assert shares == pytest.approx(wanted.tolist())
