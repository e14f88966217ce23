"""What every family promises in each of its modes: causality, isolated documents, exact caching, useful gradients,
bounded memory.
"""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from athanor.core.targets import IGNORE
from athanor.kernels.cross_entropy import chunk_positions
from athanor.models.build import build_model
from athanor.models.family import FAMILIES

FIXED_SHAPES = ("hydra static", "hydra attention alone")  # the modes of hydra that leave no token out
layouts = st.lists(st.integers(1, 7), min_size=1, max_size=4)
any_layout = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


some_shapes = settings(any_layout, max_examples=4)


@st.composite
def shapes(draw):
    """Widths, depths and heads that every family can have."""
    n_kv_heads = draw(st.integers(1, 3))
    return {
        "d_model": draw(st.integers(2, 12)) * 4,
        "n_layers": draw(st.integers(3, 5)),
        "n_kv_heads": n_kv_heads,
        "n_heads": n_kv_heads * draw(st.integers(1, 3)),
        "head_dim": draw(st.integers(1, 4)) * 4,
        "d_ff": draw(st.integers(1, 30)),
        "vocab_size": draw(st.integers(61, 90)),
    }


def doc_start(lengths, rows=1):
    return torch.tensor([[sum(lengths[:i]) for i, n in enumerate(lengths) for _ in range(n)]] * rows)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_unchanged(mode, recipe, found, wanted):
    """Equal to the last bit. In hydra a later token may change how many tokens go through a matrix product together,
    and with it the order in which each row's products are summed: two orders of a sum of n products are up to
    n * eps times their magnitudes apart, n here that of the longest sum, the magnitudes those of the logits."""
    if not mode.startswith("hydra") or mode in FIXED_SHAPES:
        assert torch.equal(found, wanted)
    else:
        longest = max(recipe.d_model, recipe.d_ff, recipe.n_heads * recipe.head_dim)
        rounding = longest * torch.finfo(torch.float32).eps * wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, atol=rounding, rtol=0)


@any_layout
@given(layouts, st.data())
@torch.no_grad()
def test_later_tokens_change_nothing_before_them(mode, lively_model, lengths, data):
    model, length = lively_model(mode), sum(lengths)
    cut = data.draw(st.integers(1, length))
    ids, other = random_ids(2, length), random_ids(2, length)
    other[:, cut:] = random_ids(2, length - cut, seed=1)
    starts = doc_start(lengths, rows=2)
    assert_unchanged(mode, model.recipe, model(ids, starts)[:, :cut], model(other, starts)[:, :cut])


@any_layout
@given(layouts)
@torch.no_grad()
def test_a_packed_document_computes_what_it_computes_alone(mode, lively_model, lengths):
    model, ids = lively_model(mode), random_ids(2, sum(lengths))
    packed = model(ids, doc_start(lengths, rows=2))
    alone = [model(piece) for piece in ids.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@some_shapes
@given(shapes(), layouts, st.data())
@torch.no_grad()
def test_models_of_any_shape_look_neither_ahead_nor_across_documents(mode, lively_model, shape, lengths, data):
    # In fp64: a norm behind a layer of next to no neurons magnifies the rounding of fp32 beyond any tolerance.
    model, length = lively_model(mode, **shape).double(), sum(lengths)
    cut = data.draw(st.integers(1, length))
    ids, other, starts = random_ids(2, length), random_ids(2, length), doc_start(lengths, rows=2)
    other[:, cut:] = random_ids(2, length - cut, seed=1)
    packed = model(ids, starts)
    assert_unchanged(mode, model.recipe, packed[:, :cut], model(other, starts)[:, :cut])
    alone = [model(piece) for piece in ids.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@any_layout
@given(layouts, st.lists(st.integers(1, 5), min_size=1, max_size=8))
@example([3, 4], [3, 4])  # a document begins where a piece does
@example([3, 4], [2, 3])
@torch.no_grad()
def test_cached_decoding_in_any_pieces_equals_the_full_forward(mode, lively_model, lengths, pieces):
    model, length = lively_model(mode), sum(lengths)
    ids, starts = random_ids(2, length), doc_start(lengths, rows=2)
    cache, found, at = model.new_cache(2), [], 0
    for piece in [*pieces, length]:
        if at < length:
            end = min(at + piece, length)
            found.append(model(ids[:, at:end], starts[:, at:end], cache=cache))
            at = end
    assert cache.length == length
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids, starts), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cached_decoding_without_document_starts_is_one_document(mode, lively_model):
    model, ids = lively_model(mode), random_ids(2, 9)
    cache = model.new_cache(2)
    found = [model(piece, cache=cache) for piece in (ids[:, :4], ids[:, 4:5], ids[:, 5:])]
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padded_rows_compute_what_each_computes_alone(mode, lively_model):
    model, texts = lively_model(mode), [random_ids(1, n, seed=n) for n in (3, 8, 5)]
    pads = torch.tensor([[8 - text.shape[1]] for text in texts])
    ids = torch.cat([torch.nn.functional.pad(text, (8 - text.shape[1], 0)) for text in texts])
    together = model(ids, torch.where(torch.arange(8) >= pads, pads, 0))
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row, pads[row] :], model(text)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_documents_differ_when_isolation_is_off(mode, lively_model):
    model, ids = lively_model(mode), random_ids(1, 8)
    assert (model(ids) - model(ids, doc_start([4, 4])))[:, 4:].abs().max() > 1e-2


def test_every_parameter_gets_a_gradient_from_the_loss(mode, tiny_recipe):
    model = build_model(tiny_recipe(mode))
    model.init_weights(0)
    ids = random_ids(4, 16)
    loss = model.train().loss(ids, ids.roll(-1, 1), doc_start([9, 7], rows=4), torch.arange(4))
    (loss.total / loss.tokens).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_every_value_that_a_model_logs_has_one_sentence_that_says_what_it_means(mode, tiny_recipe):
    model, meanings = build_model(tiny_recipe(mode)), FAMILIES[mode.split()[0]].meanings
    model.init_weights(0)
    ids = random_ids(4, 16)
    loss = model.train().loss(ids, ids.roll(-1, 1), None, torch.arange(4))
    logged = {**model.schedule(0.5), **loss.aux, **model.diagnostics(loss.tally.means(lambda totals: totals))}
    assert not logged.keys() - meanings.keys()
    assert all(said.endswith(".") and ". " not in said and len(said) < 120 for said in meanings.values())


def test_loss_sums_plain_cross_entropy_over_counted_targets(mode, lively_model):
    model, ids = lively_model(mode), random_ids(2, 16)
    targets = ids.roll(-1, 1)
    targets[:, ::3] = IGNORE
    loss = model.loss(ids, targets)
    plain = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(loss.total, plain)
    assert loss.total.dtype == torch.float32
    assert loss.tokens.item() == (targets != IGNORE).sum().item()


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return found


def test_training_never_holds_the_logits_of_all_positions(mode, tiny_recipe):
    vocab, length = 40_000, 60
    model = build_model(tiny_recipe(mode, vocab_size=vocab))
    model.init_weights(0)
    ids = random_ids(1, length)
    with LargestTensor() as mode:
        model.loss(ids, ids).total.backward()
    biggest_allowed = max(chunk_positions(vocab, ids.device) * vocab, model.embedding.weight.numel())
    assert mode.elements <= biggest_allowed < length * vocab


def test_bf16_autocast_stays_near_fp32(mode, tiny_recipe):
    model = build_model(tiny_recipe(mode))
    model.init_weights(0)
    ids, starts = random_ids(4, 32), doc_start([20, 12], rows=4)
    exact = model.loss(ids, ids.roll(-1, 1), starts)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(ids, ids.roll(-1, 1), starts)
    low.total.backward()
    torch.testing.assert_close(low.total, exact.total, rtol=2e-3, atol=0)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_weights_stored_in_bf16_compute_near_fp32(mode, lively_model):
    model, ids = lively_model(mode), random_ids(2, 16)
    exact = model(ids)
    low = model.to(torch.bfloat16)(ids).float()
    error_BT = (low - exact).norm(dim=-1) / exact.norm(dim=-1)
    if mode.startswith("hydra"):  # a token at the edge of a yes-or-no decision may fall on its other side
        assert (error_BT < 0.05).float().mean() > 0.8
        error_BT = error_BT[error_BT < 0.05]
    assert error_BT.square().mean().sqrt() < 0.05


def test_weights_are_the_same_for_a_seed_also_from_the_meta_device(mode, tiny_recipe):
    first = build_model(tiny_recipe(mode))
    first.init_weights(5)
    with torch.device("meta"):
        second = build_model(tiny_recipe(mode))
    second = second.to_empty(device="cpu")
    for value in second.state_dict().values():
        value.fill_(float("nan"))
    second.init_weights(5)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    second.init_weights(6)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


def test_initialisation_scales_what_writes_into_the_residual_stream(mode, tiny_recipe):
    model = build_model(tiny_recipe(mode, d_model=128, n_heads=8, d_ff=256, n_layers=8, head_dim=16))
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        if name.endswith("gain"):
            assert (parameter == 1).all()
        elif parameter.ndim == 2 and "router" not in name and "mor.embedding" not in name:
            writes_residual = name.endswith(("out.weight", "down.weight"))
            wanted = model.init_std / model.residual_writes**0.5 if writes_residual else model.init_std
            standard_error = (2 * parameter.numel()) ** -0.5
            assert abs(parameter.std().item() / wanted - 1) < max(0.05, 4 * standard_error), name


def test_a_row_longer_than_the_model_accepts_is_refused(mode, lively_model):
    with pytest.raises(Exception, match="max_seq_len=64") as refused:
        lively_model(mode)(random_ids(1, 65))
    assert "\n" not in str(refused.value)
