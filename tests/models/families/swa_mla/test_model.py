"""Windows and sinks are really masked, latents are absorbed exactly, caches keep what they should and no more."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from visibility import doc_start, visible_by_definition

from athanor.kernels.rope import rope_table
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.build import build_model
from athanor.models.counts import flops_per_token
from athanor.models.decoding.generate import generate
from athanor.models.families.swa_mla.dynamic_tanh import DynamicTanh
from athanor.models.families.swa_mla.latent import LatentAttention

SECTION = dict(window=3, sink=1, kv_rank=6, qk_nope_dim=4, qk_rope_dim=4, v_dim=6)
some_layouts = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
layouts = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def influence(model, ids, doc_start_BT):
    """`[T, T]`: whether changing token j changes anything at position i."""
    length = ids.shape[1]
    changed = ids.repeat(length, 1)
    changed[torch.arange(length), torch.arange(length)] = ids[0] % 60 + 1
    starts = doc_start_BT.expand(length, -1)
    return (model(changed, starts) != model(ids.repeat(length, 1), starts)).any(-1).T


@some_layouts
@given(layouts, st.integers(1, 6), st.integers(0, 3))
@example([30], 3, 1)
@example([2, 20, 9], 4, 2)
def test_one_window_layer_is_influenced_by_exactly_its_window_and_its_documents_sinks(model_of, lengths, window, sink):
    model = model_of(n_layers=1, window=window, sink=sink)
    found = influence(model, random_ids(1, sum(lengths)), doc_start(lengths))
    assert torch.equal(found, visible_by_definition(lengths, window, sink))


def test_window_counts_the_query_itself_and_the_published_count_is_one_more(model_of):
    ids, starts = random_ids(1, 16), doc_start([16])
    for compat, keys in ((False, 5), (True, 6)):
        model = model_of(n_layers=1, window=5, sink=0, window_inclusive_compat=compat)
        assert influence(model, ids, starts)[15].sum() == keys


def test_a_latent_layer_is_influenced_by_the_whole_document_so_far(model_of):
    found = influence(model_of(n_layers=1, n_swa=0), random_ids(1, 12), doc_start([5, 7]))
    assert torch.equal(found, visible_by_definition([5, 7], 12, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 4},
        {"sink": 2},
        {"window_inclusive_compat": True},
        {"rope_factor": 2.0},
        {"n_swa": 1},
        {"n_mla": 0},
        {"norm": "dynamic_tanh"},
        {"kv_norm": "layernorm"},
        {"kv_rank": 5},
        {"q_rank": 5},
    ],
    ids=str,
)
@torch.no_grad()
def test_each_setting_changes_the_output(model_of, changes):
    ids = random_ids(2, 20)
    base, other = model_of(), model_of(**changes)
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    shared = {n: t for n, t in base.state_dict().items() if shapes.get(n) == t.shape}
    other.load_state_dict(shared, strict=False)
    assert (base(ids) - other(ids)).abs().max() > 1e-3


def test_blocks_cycle_windows_first(model_of):
    kinds = [type(block.attention) for block in model_of(n_layers=7).blocks]
    swa, mla = GroupedQueryAttention, LatentAttention
    assert kinds == [swa, swa, mla, swa, swa, mla, swa]
    assert [type(b.attention) for b in model_of(n_layers=5, n_swa=1, n_mla=2).blocks] == [swa, mla, mla, swa, mla]


@torch.no_grad()
def scores(attention, rope):
    """q . k of all pairs of positions when every position has the same input, per head."""
    x = torch.randn(24, generator=torch.Generator().manual_seed(0)).expand(1, rope.shape[2], -1)
    q, k = attention.queries_keys(x, rope)
    return torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(q.shape[2] // k.shape[2], 2))[0]


@pytest.mark.parametrize(("layer", "dim"), [(0, 8), (2, 4)], ids=["window", "latent"])
def test_scores_depend_on_the_distance_alone(model_of, layer, dim):
    attention = model_of().blocks[layer].attention
    near = scores(attention, rope_table(torch.arange(9)[None], dim, 10_000.0))
    far = scores(attention, rope_table(torch.arange(40, 49)[None], dim, 10_000.0))
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)
    for distance in range(9):
        diagonal = near.diagonal(-distance, 1, 2)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert (near[:, :1, 0] - near[:, 1:, 0]).abs().min() > 1e-4


@pytest.mark.parametrize(("layer", "dim"), [(0, 8), (2, 4)], ids=["window", "latent"])
def test_linear_scaling_makes_far_positions_near(model_of, layer, dim):
    attention = model_of().blocks[layer].attention
    plain = scores(attention, rope_table(torch.arange(5)[None], dim, 10_000.0))
    stretched = scores(attention, rope_table(torch.arange(17)[None], dim, 10_000.0, factor=4.0))
    torch.testing.assert_close(stretched[:, ::4, ::4], plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_window_caches_stay_the_same_size_and_latent_caches_grow_by_rank_plus_rope(model_of):
    model = model_of(window=5, sink=2)
    cache = model.new_cache(2)
    seen = []
    for piece in random_ids(2, 40).split([9, 1, 30], dim=1):
        model(piece, cache=cache)
        keys = cache.layers[0].__dict__
        seen.append([tuple(t.shape) for t in keys.values() if isinstance(t, torch.Tensor)])
    assert seen == [[(2, 7, 2, 8)] * 2] * 3
    assert cache.layers[2].length == 40


@torch.no_grad()
def test_decoding_far_beyond_the_window_keeps_each_rows_own_sinks(model_of):
    model = model_of(window=4, sink=3)
    prompts = [[5, 9, 2, 11, 30, 31, 32, 8], [7], [3, 3, 8, 1, 40]]
    answers = generate(model, prompts, max_new_tokens=30, eos_id=-1)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(30):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert answer == ids[len(prompt) :]


@torch.no_grad()
def test_a_document_that_begins_while_decoding_gets_sinks_of_its_own(model_of):
    model = model_of(window=3, sink=2)
    ids, starts = random_ids(1, 30), doc_start([7, 3, 20])
    for pieces in ([1] * 30, [7, 1, 1, 1, 4, 1, 15], [8, 1, 21], [12, 12, 6]):
        cache = model.new_cache(1)
        parts = zip(ids.split(pieces, 1), starts.split(pieces, 1), strict=True)
        found = torch.cat([model(a, b, cache=cache) for a, b in parts], 1)
        torch.testing.assert_close(found, model(ids, starts), atol=1e-5, rtol=1e-5)


def test_initialisation_ignores_depth_unless_asked(tiny_recipe):
    for scaled, wanted in ((False, 0.02), (True, 0.02 / 4.0)):
        section = {**SECTION, "scale_residual_init": scaled, "norm": "dynamic_tanh"}
        model = build_model(tiny_recipe("swa_mla", d_model=128, d_ff=256, n_layers=8, swa_mla=section))
        model.init_weights(0)
        for block in model.blocks:
            for layer in (block.attention.out, block.ffn.down):
                assert abs(layer.weight.std().item() / wanted - 1) < 0.05
        norms = [module for module in model.modules() if isinstance(module, DynamicTanh)]
        assert len(norms) == 2 * 8 + 1
        assert all(norm.alpha.tolist() == [0.5] and (norm.gain == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_flops_count_the_keys_in_window_and_sinks(tiny_recipe):
    length = 50
    recipe = tiny_recipe("swa_mla", n_layers=1, swa_mla={**SECTION, "window": 6, "sink": 2})
    everything = tiny_recipe("swa_mla", n_layers=1, swa_mla={**SECTION, "window": 50})
    saved = flops_per_token(everything, length).forward - flops_per_token(recipe, length).forward
    unseen = length * (length + 1) / 2 - visible_by_definition([length], 6, 2).sum().item()
    assert saved == pytest.approx(unseen / length * 4 * recipe.n_heads * recipe.head_dim)


def test_long_rows_cost_what_their_blocks_cost(tiny_recipe):
    """Blocks score sink + 2 window keys a query, of which the count takes those the query sees."""
    recipe = tiny_recipe("swa_mla", n_layers=1, swa_mla={**SECTION, "window": 8, "sink": 2})
    model = build_model(recipe)
    model.init_weights(0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(random_ids(1, 64))
    scored = 4 * recipe.n_heads * recipe.head_dim * (2 + 2 * 8 - 10)
    early = 4 * recipe.n_heads * recipe.head_dim * 10 * 9 / 2 / 64  # the first queries see fewer keys than 10
    assert counter.get_total_flops() / 64 == pytest.approx(flops_per_token(recipe, 64).forward + scored + early)
