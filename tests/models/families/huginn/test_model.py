"""Huginn: what is iterated, from which initial states, behind which norms, and what it costs."""

import math
from itertools import pairwise

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.build import build_model
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.families.huginn.model import HuginnBlock

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
KEYS = torch.tensor([11, -4, 2**40])


def test_a_curriculum_goes_on_where_a_checkpoint_left_it(deeper):
    def fresh():
        return deeper(9, sampling="poisson-fill", curriculum_steps=6).train()

    def drawn(model, keys):
        found = []
        for key in keys:
            model.begin_step(key)
            found += model.drawn
            model.after_step(1.0)
        return found

    whole, first, second = fresh(), fresh(), fresh()
    start = drawn(first, range(4))
    second.load_state_dict(first.state_dict())
    assert start + drawn(second, range(4, 12)) == drawn(whole, range(12))
    assert start[0].steps == 1


def test_a_step_draws_by_its_key_alone_and_leaves_the_global_generator_alone(model):
    state = torch.get_rng_state()
    model.train()
    found = []
    for key in [*range(40), *range(40), 2**63 - 1]:
        model.begin_step(key)
        found += model.drawn
    assert found[:40] == found[40:80] and len(set(found)) > 3
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_iterates_a_fixed_number_of_times(model, deeper):
    model.begin_step(5)
    assert model.eval().recurrence.steps == 3
    assert deeper(3, eval_recurrence=7).recurrence.steps == 7


@torch.no_grad()
def test_every_iteration_changes_the_answer_and_no_iteration_at_all_is_refused(model):
    answers = []
    for steps in range(1, 5):
        with model.recurring(steps):
            answers.append(model(IDS))
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(answers))
    assert torch.equal(model(IDS), answers[2])
    for steps in ((0, 0), (-1, 2)):
        with pytest.raises(UserError, match="1 step or more"), model.recurring(*steps):
            pass


def test_only_the_last_iterations_build_a_graph_and_the_prelude_still_learns(model):
    modes = []
    model.core.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    with model.recurring(3, 2):
        model.loss(IDS, IDS.roll(-1, 1)).total.backward()
    assert modes == [False] * 3 + [True] * 2
    assert all(p.grad.abs().max() > 0 for p in model.prelude.parameters())


@pytest.mark.parametrize("kind", ["sandwich", "pre-norm", "post-norm"])
@torch.no_grad()
def test_a_block_norms_inputs_sums_or_both(kind, tiny_recipe):
    recipe = tiny_recipe("huginn", huginn={"prelude_layers": 1, "coda_layers": 1, "block": kind})
    block = HuginnBlock(recipe, recipe.huginn)
    assert sum("norm" in name for name, _ in block.named_parameters()) == {"sandwich": 4}.get(kind, 2)
    block.attention.forward = lambda x, *_: 3 * x
    block.ffn.forward = lambda x: x.square()
    x = torch.randn(1, 5, recipe.d_model) * 40

    def norm(x):
        return x * (x.square().mean(-1, keepdim=True) + recipe.norm_eps).rsqrt()

    if kind == "sandwich":
        y = norm(x + 3 * norm(x))
        wanted = norm(y + norm(y).square())
    elif kind == "pre-norm":
        y = x + 3 * norm(x)
        wanted = y + norm(y).square()
    else:
        y = norm(x + 3 * x)
        wanted = norm(y + y.square())
    torch.testing.assert_close(block(x, None, None), wanted)


@torch.no_grad()
def test_the_one_final_norm_is_applied_before_and_after_the_coda(model):
    seen = []
    model.final_norm.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    inputs = []
    model.coda[0].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    hidden = model.hidden(IDS)
    assert len(seen) == 2
    assert torch.equal(seen[0][1], inputs[0]) and torch.equal(seen[1][1], hidden)


@torch.no_grad()
def test_the_adapter_reads_the_state_first_and_the_embedding_second(model):
    width = model.recipe.d_model
    s, e = torch.randn(2, 1, 4, width)
    seen = []
    model.core.blocks[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    model.initial_state = lambda *_: s
    model.prelude[0].register_forward_hook(lambda *_: e)
    model.hidden(IDS[:1, :4])
    weight = model.core.adapter.weight
    torch.testing.assert_close(seen[0], s @ weight[:, :width].T + e @ weight[:, width:].T)


@pytest.mark.parametrize(("init", "scale"), [("takase", 24**0.5), ("scaled", 1.0)])
@torch.no_grad()
def test_embedding_scale_applies_to_the_input_and_not_to_the_head(init, scale, lively_model):
    model = lively_model("huginn", huginn={"prelude_layers": 1, "coda_layers": 1, "init": init})
    torch.testing.assert_close(model.embed(IDS), model.embedding.weight[IDS] * scale)
    h = torch.randn(2, 24)
    torch.testing.assert_close(model.logits(h), h @ model.embedding.weight.T)


@torch.no_grad()
def test_initial_weights_are_cut_and_those_that_write_into_the_stream_count_the_effective_depth(tiny_recipe):
    ends = {"prelude_layers": 2, "coda_layers": 2, "mean_recurrence": 32}
    shape = {"d_model": 128, "n_heads": 8, "head_dim": 16, "d_ff": 256, "n_layers": 8}
    model = build_model(tiny_recipe("huginn", **shape, huginn=ends))
    assert model.residual_writes == 2 * 132
    model.init_weights(0)
    std = math.sqrt(2 / 5 / 128)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (1.0 if name.endswith("gain") else 0.0)).all()
            continue
        wanted = std / math.sqrt(264) if name.endswith(("out.weight", "down.weight")) else std
        assert parameter.std().item() == pytest.approx(wanted, rel=0.05)
        assert 2.9 * wanted < parameter.abs().max().item() <= 3 * wanted


@torch.no_grad()
def test_orthogonal_initialisation_is_orthogonal(lively_model, tiny_recipe):
    model = build_model(tiny_recipe("huginn post-norm"))
    model.init_weights(0)
    weight = model.coda[0].ffn.gate_up.weight
    gram = weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(24) * gram[0, 0])
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 24), rel=0.05)


def states(model, ids, doc_start=None, keys=None):
    """The core's first input."""
    seen = []
    handle = model.core.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        model.hidden(ids, doc_start, keys)
    handle.remove()
    return seen[0]


def test_initial_states_have_the_published_spread(lively_model):
    model = lively_model("huginn", max_seq_len=4096)
    drawn = states(model.train(), torch.ones(3, 4096, dtype=torch.int64), keys=KEYS)
    cut_std = 0.98658  # of a standard normal cut at 3
    assert drawn.std().item() == pytest.approx(math.sqrt(2 / 5) * cut_std, rel=0.01)
    assert 2.9 < drawn.abs().max().item() / math.sqrt(2 / 5) <= 3.0
    assert drawn.mean().abs().item() < 0.005
    assert len(drawn.unique()) > 0.99 * drawn.numel()


def test_initial_states_follow_row_keys_and_documents_in_training_alone(model):
    doc_start = torch.tensor([[0] * 5 + [5] * 7] * 3)
    quiet = states(model, IDS, doc_start, KEYS)
    assert torch.equal(quiet, states(model, IDS, doc_start))
    assert torch.equal(quiet[0], quiet[1]) and torch.equal(quiet[:, :5], quiet[:, 5:10])
    model.train()
    drawn = states(model, IDS, doc_start, KEYS)
    assert (drawn[0] != drawn[1]).all() and (drawn[:, :5] != drawn[:, 5:10]).all()
    assert torch.equal(drawn, states(model, IDS, doc_start, KEYS))
    assert torch.equal(drawn[1:2], states(model, IDS[1:2], doc_start[:1], KEYS[1:2]))


@torch.no_grad()
def test_a_row_trains_on_the_same_numbers_in_any_micro_batch(model):
    model.train().begin_step(3)
    together = model(IDS, row_key_B=KEYS)
    for row in range(3):
        alone = model(IDS[row : row + 1], row_key_B=KEYS[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_flops_count_the_mean_recurrence_forward_and_the_backpropagated_steps_backward(tiny_recipe):
    def flops(mean, depth):
        section = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": mean, "backprop_depth": depth}
        return flops_per_token(tiny_recipe("huginn", huginn=section), 16)

    one_more = flops(9, 2).forward - flops(8, 2).forward
    assert one_more > 0
    assert flops(28, 2).forward - flops(8, 2).forward == pytest.approx(20 * one_more)
    assert flops(28, 2).backward == flops(8, 2).backward
    assert flops(8, 3).backward - flops(8, 2).backward == pytest.approx(2 * one_more)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 2}, "n_layers=2 leaves no recurrent core between huginn.prelude_layers=1"),
        ({"huginn": {"mean_recurrence": 2, "backprop_depth": 3}}, "backprop_depth=3 must not exceed mean_recurrence=2"),
        ({"huginn": {"injection": "none"}}, "write backprop_depth=32, as mean_recurrence, and sampling=poisson-fill"),
        (
            {"huginn": {"injection": "none", "mean_recurrence": 2, "backprop_depth": 2}},
            "injection=none teaches the prelude through all iterations or not at all",
        ),
        ({"huginn": {"test_time_noise_type": "geom"}}, "test_time_noise_type=geom needs test_time_noise"),
        ({"huginn": {"test_time_noise": 1.5}}, "test_time_noise"),
        ({"huginn": {"draws_per_step": 1}}, "draws_per_step"),
        ({"family": "vanilla"}, "section huginn belongs to family=huginn"),
    ],
)
def test_an_impossible_recipe_is_refused_in_one_line(changes, message, tiny_recipe):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_recipe("huginn", **changes)
    assert "\n" not in refused.value.errors()[0]["msg"]


def test_an_untied_head_is_a_matrix_of_its_own(lively_model):
    model = lively_model("huginn post-norm")
    assert model.head_weight is model.head.weight and model.head.weight.shape == model.embedding.weight.shape
    assert parameter_counts(model.recipe)["head"] == model.head.weight.numel()


def test_diagnostics_tell_the_recurrence_and_a_collapse_of_the_states(model):
    def diagnostics():
        return model.diagnostics(model.loss(IDS, IDS, row_key_B=KEYS).tally.means(lambda totals: totals))

    model.train().begin_step(1)
    assert set(model.diagnostics({})) == {"recurrence", "recurrence_with_grad"}
    found = diagnostics()
    assert found["recurrence"] == model.drawn[0].steps
    assert 0 < found["state_change"] < 3 and found["neighbour_cosine"] < 0.9
    model.core.blocks[-1].register_forward_hook(lambda _m, _a, out: torch.ones_like(out))
    assert diagnostics()["neighbour_cosine"] == pytest.approx(1.0)
