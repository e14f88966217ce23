"""Compressed convolutional attention: what it reaches, its norms, its shifted values."""

import torch

from athanor.models.build import build_model


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_convolutions_and_value_shift_reach_back_within_the_document_only(lively_model):
    model = lively_model("hydra wide")
    attention, reach = model.blocks[0].layers[0].attention, model.blocks[0].layers[0].attention.reach
    x = torch.randn(1, 10, 24)
    positions = first_positions(model, torch.tensor([[0] * 5 + [5] * 5]))
    other = x.clone()
    other[:, 4] += 1.0
    for made in (lambda y: attention.mixed(y, positions)[1], lambda y: attention.values(y, positions)):
        changed = (made(x) - made(other)).abs().amax((0, 2, 3)) > 0
        assert changed.tolist() == [False] * 4 + [True] + [False] * 5
    other = x.clone()
    other[:, 5] += 1.0
    changed = (attention.mixed(x, positions)[1] - attention.mixed(other, positions)[1]).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [5 <= t <= 5 + reach for t in range(10)]
    changed = (attention.values(x, positions) - attention.values(other, positions)).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [t in (5, 6) for t in range(10)]


def first_positions(model, doc_start):
    seen = []
    hook = model.blocks[0].layers[0].attention.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    model(random_ids(*doc_start.shape), doc_start)
    hook.remove()
    return seen[0]


@torch.no_grad()
def test_scores_are_bounded_by_the_temperature(lively_model):
    attention = lively_model("hydra").blocks[0].layers[0].attention
    q, k = attention.normed(torch.randn(2, 5, 4, 8) * 50, torch.randn(2, 5, 2, 8) * 50)
    torch.testing.assert_close(q.norm(dim=-1), torch.full((2, 5, 4), 8**0.5))
    torch.testing.assert_close(k.norm(dim=-1), (8**0.5 * attention.beta.exp()).expand(2, 5, 2))


@torch.no_grad()
def test_an_odd_number_of_value_heads_is_shifted_by_channels(lively_model):
    model = lively_model("hydra attention alone", n_heads=3, n_kv_heads=3)
    positions, x = first_positions(model, torch.zeros(1, 6, dtype=torch.long)), torch.randn(1, 6, 24)
    other = x.clone()
    other[:, 2] += 1.0
    attention = model.blocks[0].layers[0].attention
    changed = (attention.values(x, positions) - attention.values(other, positions)).flatten(2).abs()[0] > 0
    assert changed[2].tolist() == [True] * 12 + [False] * 12
    assert changed[3].tolist() == [False] * 12 + [True] * 12


@torch.no_grad()
def test_convolutions_start_at_the_scale_of_what_they_read(tiny_recipe):
    """Much smaller ones would leave queries and keys to the head means for most of a short training."""
    for section in ({"conv_kernel": 3}, {"conv_kernel": 2, "mixing_kernel": 3}):
        model = build_model(tiny_recipe("hydra", d_model=64, n_heads=8, head_dim=16, hydra=section))
        model.init_weights(0)
        attention, x = model.blocks[0].layers[0].attention, torch.randn(2, 50, 64)
        raw = torch.cat((attention.query(x), attention.key(x)), dim=-1)
        convolved = attention._convolved(raw, first_positions(model, torch.zeros(2, 50, dtype=torch.long)), None)
        assert 0.7 < (convolved[:, 4:].std() / raw.std()).item() < 1.4
