"""Windows and sinks are really masked, latents are absorbed exactly, caches keep what they should and no more."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from athanor.data.loader import Batch
from athanor.kernels.attention import visible_keys
from athanor.kernels.rope import rope_table
from athanor.kernels.window_attention import row_mask, window_attention
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.build import build_model
from athanor.models.counts import cache_bytes_per_token, flops_per_token, parameter_counts
from athanor.models.decoding.generate import generate
from athanor.models.families.swa_mla.dynamic_tanh import DynamicTanh
from athanor.models.families.swa_mla.latent import LatentAttention
from athanor.models.families.swa_mla.sizes import SIZES

SECTION = dict(window=3, sink=1, kv_rank=6, qk_nope_dim=4, qk_rope_dim=4, v_dim=6)
some_layouts = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
layouts = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def doc_start(lengths):
    return torch.tensor([[sum(lengths[:i]) for i, n in enumerate(lengths) for _ in range(n)]])


def visible_by_definition(lengths, window, sink):
    """`[T, T]`, from the words: own document, not later, among the newest `window` or the document's first `sink`."""
    rows = []
    for start, n in zip([sum(lengths[:i]) for i in range(len(lengths))], lengths, strict=True):
        for i in range(start, start + n):
            newest = set(range(max(start, i - window + 1), i + 1))
            first = set(range(start, min(start + sink, i + 1)))
            rows.append([j in newest | first for j in range(sum(lengths))])
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def model_of(lively_model):
    """A lively model whose section is SECTION with some fields changed."""

    def make(n_layers=3, **changes):
        return lively_model("swa_mla", n_layers=n_layers, swa_mla={**SECTION, **changes})

    return make


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


@some_layouts
@given(layouts, st.integers(1, 6), st.integers(0, 3))
@example([40], 4, 2)
def test_blockwise_attention_equals_attention_under_the_whole_mask_with_its_gradients(lengths, window, sink):
    generator = torch.Generator().manual_seed(0)
    length, starts = sum(lengths), doc_start(lengths)
    q, k, v = (torch.randn(2, length, h, 4, generator=generator, requires_grad=True) for h in (4, 2, 2))
    mixed = window_attention(q, k, v, row_mask(starts, window, sink))
    scores = torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(2, 2)) / 2.0
    weights = scores.masked_fill(~visible_by_definition(lengths, window, sink), -torch.inf).softmax(-1)
    wanted = torch.einsum("bhts,bshd->bthd", weights, v.repeat_interleave(2, 2))
    torch.testing.assert_close(mixed, wanted, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(mixed.shape, generator=generator)
    for found, exact in zip(*(torch.autograd.grad(y, (q, k, v), cotangent) for y in (mixed, wanted)), strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_long_rows_are_scored_in_blocks_and_not_whole():
    mask = row_mask(torch.zeros(1, 1000, dtype=torch.int64), 10, 2)
    assert mask.visible.shape == (1, 100, 1, 10, 22)
    assert mask.visible.sum() == visible_by_definition([1000], 10, 2).sum()


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
def test_only_the_rope_slice_of_a_latent_head_turns(model_of):
    attention = model_of().blocks[2].attention
    x = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0))
    moved, unmoved = (rope_table(torch.arange(6)[None] + offset, 4, 10_000.0) for offset in (7, 0))
    for a, b in zip(attention.queries_keys(x, moved), attention.queries_keys(x, unmoved), strict=True):
        assert torch.equal(a[..., :4], b[..., :4])
        assert (a[..., 4:] - b[..., 4:]).abs().max() > 0.1


@pytest.mark.parametrize("q_rank", [0, 5])
@torch.no_grad()
def test_absorbed_equals_materialised_under_any_mask(model_of, q_rank):
    attention = model_of(q_rank=q_rank).blocks[2].attention
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    rope = rope_table(torch.arange(9)[None], 4, 10_000.0)
    parts = *attention.queries(x, rope), *attention.latents(x, rope)
    for starts in (None, doc_start([4, 5])):
        visible = visible_keys(starts, 0, 9, x.device)
        absorbed, materialised = attention.absorbed(*parts, visible), attention.materialised(*parts, visible)
        torch.testing.assert_close(absorbed, materialised, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_absorbs_and_never_expands_the_past(model_of):
    model, expanded = model_of(), []
    model.blocks[2].attention.kv_expand.register_forward_hook(lambda _m, args, _o: expanded.append(args[0].shape[1]))
    cache = model.new_cache(1)
    for piece in random_ids(1, 12).split([5, 1, 1, 3, 2], dim=1):
        model(piece, cache=cache)
    assert expanded == [5]


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


@torch.no_grad()
def test_dynamic_tanh_is_a_scaled_and_shifted_tanh():
    norm, x = DynamicTanh(3), torch.tensor([[-4.0, 0.5, 2.0]])
    norm.alpha.fill_(0.7)
    norm.gain.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    wanted = torch.tensor([1.0, 2.0, 3.0]) * torch.tanh(0.7 * x) + torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(norm(x), wanted)


@pytest.mark.parametrize(
    ("name", "total"),
    [("small", 262_516_736), ("base", 982_981_632), ("large", 1_940_808_192), ("xl", 8_578_479_104)],
)
def test_sizes_have_their_true_counts(name, total):
    assert parameter_counts(SIZES[f"swa-mla-{name}"])["total"] == total


def test_a_context_costs_its_latents_and_a_fixed_window():
    """320 numbers a token and latent layer, in bf16; keys and values of 260 positions a window layer."""
    recipe = SIZES["swa-mla-small"]
    short, long = (cache_bytes_per_token(recipe, tokens) * tokens for tokens in (1024, 2048))
    assert (long - short) / 1024 == 4 * 320 * 2
    assert short - 1024 * 4 * 320 * 2 == 8 * (256 + 4) * 2 * 1024 * 2


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_swa": 0, "n_mla": 0}, "n_swa=0 and n_mla=0"),
        ({"qk_rope_dim": 3}, "qk_rope_dim=3 must be even"),
        ({"window": 0}, "greater than or equal to 1"),
        ({"rope_factor": 0.5}, "greater than or equal to 1"),
    ],
)
def test_an_impossible_section_is_refused_in_one_line(tiny_recipe, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_recipe("swa_mla", swa_mla={**SECTION, **changes})
    assert "\n" not in refused.value.errors()[0]["msg"]


def test_a_section_of_another_family_is_refused(tiny_recipe):
    with pytest.raises(ValueError, match="section swa_mla belongs to family=swa_mla, not family=vanilla"):
        tiny_recipe("vanilla", swa_mla={})


@torch.no_grad()
def maps_of_even_attention(model, lengths):
    """Maps of a model whose queries ask nothing, so that each spreads evenly over what it sees."""
    for block in model.blocks:
        block.attention.query.weight.zero_()
    batch = Batch(random_ids(3, sum(lengths)).numpy(), None, doc_start(lengths).expand(3, -1).numpy(), None, None)
    return {one.name: one for one in model.maps([batch, batch])}


def test_reach_is_the_mean_distance_of_the_attention_mass(model_of):
    lengths = [9, 14]
    found = maps_of_even_attention(model_of(window=4, sink=2), lengths)["attention_reach"]
    position = torch.arange(23)
    for layer, seen in enumerate([visible_by_definition(lengths, *s) for s in ((4, 2), (4, 2), (23, 0))]):
        distance = (seen * (position[:, None] - position)).sum(1) / seen.sum(1)
        assert found.values[layer] == pytest.approx([distance.mean().item()] * 4, rel=1e-5)


def test_sink_mass_is_the_attention_on_the_documents_first_tokens(model_of):
    lengths = [9, 14]
    found = maps_of_even_attention(model_of(window=4, sink=2), lengths)["sink_mass"]
    seen = visible_by_definition(lengths, 4, 2)
    start = doc_start(lengths)[0][:, None]
    position = torch.arange(23)
    mass = ((seen & (position < start + 2)).sum(1) / seen.sum(1)).float()
    far = (position[:, None] - start)[:, 0] >= 5  # sinks at 0 and 1, a window of 4
    assert found.x_ticks == ["0", "1"]
    assert found.values[0] == pytest.approx([mass.mean().item()] * 2, rel=1e-5)
    assert found.values[1] == pytest.approx([mass[far].mean().item()] * 2, rel=1e-5)
    assert f"{6 * 23} tokens, {6 * far.sum()} of them" in found.note


def test_maps_of_text_shorter_than_the_window_show_no_share_that_was_not_measured(model_of):
    found = maps_of_even_attention(model_of(window=50), [9])
    assert found["sink_mass"].series == ["all tokens"]


def test_a_model_without_windows_has_no_sinks_to_show(model_of):
    assert "sink_mass" not in maps_of_even_attention(model_of(n_swa=0), [9])
