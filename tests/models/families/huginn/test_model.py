"""Huginn: what is iterated and how often, initial states, norms, caches that look back in depth, and early exits."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from athanor.core.errors import UserError
from athanor.data.loader import Batch
from athanor.models.build import build_model
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.families.huginn.model import HuginnBlock
from athanor.models.families.huginn.recipe import HuginnRecipe
from athanor.models.families.huginn.recurrence import draw_recurrence, mean_recurrence
from athanor.models.families.huginn.sizes import SIZES

IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
KEYS = torch.tensor([11, -4, 2**40])
PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


@pytest.fixture
def model(lively_model):
    return lively_model("huginn")


def deeper(lively_model, steps, **section):
    ends = {"prelude_layers": 1, "coda_layers": 1, "backprop_depth": 1}
    return lively_model("huginn", huginn={**ends, "mean_recurrence": steps, **section})


# How often -------------------------------------------------------------------------------------------------------


def test_the_published_sampler_has_its_mean_median_and_tail():
    recipe = HuginnRecipe()
    drawn = [draw_recurrence(recipe, key) for key in range(20_000)]
    steps = torch.tensor([one.steps for one in drawn], dtype=torch.float64)
    assert abs(steps.mean() - 32.9) < 0.3
    assert steps.median() == 29
    assert abs((steps > 64).double().mean() - 0.058) < 0.006
    assert steps.min() >= 1
    assert all(one.with_grad == min(8, one.steps) for one in drawn)
    assert mean_recurrence(recipe) == (33.0, 8.0)


SAMPLERS = {  # with a mean of 20 and a depth of 4: means declared, range of iterations without and with gradient
    "poisson-lognormal-fill": ((20.0, 4.0), None, 4),
    "poisson-lognormal": ((20.5, 4.5), None, 8),
    "poisson-fill": ((20.0, 4.0), None, 4),
    "poisson-unbounded": ((20.5, 4.5), None, 8),
    "poisson-bounded": ((20.5, 4.5), 31, 8),
    "simple": ((20.0, 4.5), 31, 8),
    "bptt": ((19.5625, 4.0625), 31, 8),
    "non-uniform": ((15.96875, 4.5), 30, 8),
}


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_the_other_samplers_have_the_means_and_ranges_they_declare(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=20, backprop_depth=4)
    declared, most_without_grad, most_with_grad = SAMPLERS[sampling]
    drawn = [draw_recurrence(recipe, key) for key in range(4000)]
    steps = torch.tensor([[one.steps, one.with_grad, one.without_grad] for one in drawn], dtype=torch.float64)
    assert mean_recurrence(recipe) == pytest.approx(declared, abs=1e-3)
    standard_errors = steps.std(0) / 4000**0.5
    assert ((steps.mean(0)[:2] - torch.tensor(declared)).abs() <= 4 * standard_errors[:2] + 1e-3).all()
    assert set(steps[:, 1].tolist()) == ({4} if sampling.endswith("-fill") else set(range(1, most_with_grad + 1)))
    assert steps[:, 2].min() >= 0 and (most_without_grad is None or steps[:, 2].max() == most_without_grad)


@pytest.mark.parametrize("sampling", ["poisson-lognormal-filling", *SAMPLERS])
def test_samplers_also_draw_when_every_iteration_carries_gradient(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=1, backprop_depth=1)
    assert min(draw_recurrence(recipe, key).steps for key in range(50)) == 1
    assert mean_recurrence(recipe)[0] >= 1


@pytest.mark.parametrize("sampling", ["poisson-lognormal-filling", "poisson-fill", "simple"])
def test_a_curriculum_lets_recurrence_and_depth_grow_to_their_means(sampling):
    recipe = HuginnRecipe(sampling=sampling, mean_recurrence=20, backprop_depth=4, curriculum_steps=100)

    def means(step):
        drawn = [draw_recurrence(recipe, key, step) for key in range(2000)]
        return [sum(getattr(one, what) for one in drawn) / 2000 for what in ("steps", "with_grad")]

    first, half, last = means(0), means(50), means(100)
    halved = HuginnRecipe(sampling=sampling, mean_recurrence=10, backprop_depth=2)
    for found, wanted in ((half, mean_recurrence(halved)), (last, mean_recurrence(recipe))):
        assert found == pytest.approx(wanted, abs=0.5)
    assert first[0] <= 2.1
    assert draw_recurrence(recipe, 7, 100) == draw_recurrence(recipe, 7, 10**6) == draw_recurrence(recipe, 7)


def test_a_curriculum_goes_on_where_a_checkpoint_left_it(lively_model):
    def fresh():
        return deeper(lively_model, 9, sampling="poisson-fill", curriculum_steps=6).train()

    def drawn(model, keys):
        found = []
        for key in keys:
            model.begin_step(key)
            found.append(model.recurrence)
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
        found.append(model.recurrence)
    assert found[:40] == found[40:80] and len(set(found)) > 3
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_iterates_a_fixed_number_of_times(model, lively_model):
    model.begin_step(5)
    assert model.eval().recurrence.steps == 3
    assert deeper(lively_model, 3, eval_recurrence=7).recurrence.steps == 7


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


# Maths -----------------------------------------------------------------------------------------------------------


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


# Initial states --------------------------------------------------------------------------------------------------


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


def test_initial_states_follow_row_keys_in_training_alone_and_positions_within_documents(model):
    doc_start = torch.tensor([[0] * 5 + [5] * 7] * 3)
    quiet = states(model, IDS, doc_start, KEYS)
    assert torch.equal(quiet, states(model, IDS, doc_start))
    assert torch.equal(quiet[0], quiet[1]) and torch.equal(quiet[:, :5], quiet[:, 5:10])
    model.train()
    drawn = states(model, IDS, doc_start, KEYS)
    assert (drawn[0] != drawn[1]).all()
    assert torch.equal(drawn, states(model, IDS, doc_start, KEYS))
    assert torch.equal(drawn[1:2], states(model, IDS[1:2], doc_start[:1], KEYS[1:2]))


@torch.no_grad()
def test_a_row_trains_on_the_same_numbers_in_any_micro_batch(model):
    model.train().begin_step(3)
    together = model(IDS, row_key_B=KEYS)
    for row in range(3):
        alone = model(IDS[row : row + 1], row_key_B=KEYS[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


# Sizes, counts, maps ---------------------------------------------------------------------------------------------

COUNTS = {
    "nebel-raven-3.5b": 3_564_976_800,
    "corone-raven-3.5b": 3_564_892_320,
    "merseburg-raven-3.5b": 3_508_961_280,
    "deluge-raven-4b": 4_426_421_120,
    "tower-raven-3b": 2_281_803_776,
    "kolk-raven-1.1b": 1_275_121_664,
    "corax-raven-800m": 939_560_960,
    "magpie-150m": 157_168_640,
    "baby-recurrent-200m": 134_755_328,
    "debug-recurrent": 18_352_384,
    "huginn-tiny": 1_019_008,
}


@pytest.mark.parametrize("name", COUNTS)
def test_sizes_have_their_published_counts(name):
    assert parameter_counts(SIZES[name])["total"] == COUNTS[name]


@pytest.mark.parametrize(("name", "core"), [("nebel-raven-3.5b", 1_581_592_320), ("magpie-150m", 60_039_168)])
def test_cores_have_their_published_counts(name, core):
    with torch.device("meta"):
        model = build_model(SIZES[name])
    assert sum(p.numel() for p in model.core.blocks.parameters()) == core


def test_recurrent_sizes_are_all_here_and_baselines_are_vanilla():
    assert {name for name, recipe in SIZES.items() if recipe.family == "huginn"} == COUNTS.keys()
    assert {recipe.family for recipe in SIZES.values()} == {"huginn", "vanilla"}


def test_the_released_cache_takes_2_79_megabytes_a_token():
    with torch.device("meta"):
        model = build_model(SIZES["nebel-raven-3.5b"])
    assert model.cache_bytes_per_token(4096) == pytest.approx(132 * 2 * 5280 * 2, rel=1e-4)


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
    model.train().begin_step(1)
    assert set(model.diagnostics()) == {"recurrence", "recurrence_with_grad"}
    model(IDS, row_key_B=KEYS)
    found = model.diagnostics()
    assert found["recurrence"] == model.recurrence.steps
    assert 0 < found["state_change"] < 3 and found["neighbour_cosine"] < 0.9
    model.core.blocks[-1].register_forward_hook(lambda _m, _a, out: torch.ones_like(out))
    model(IDS, row_key_B=KEYS)
    assert model.diagnostics()["neighbour_cosine"] == pytest.approx(1.0)


def measured(model):
    """Maps of two batches, the second with two documents in each row; and the batches."""
    doc_start = np.array([[0] * 5 + [5] * 7] * 3)
    batches = [
        Batch(IDS.numpy(), None, np.zeros_like(doc_start), KEYS.numpy(), None),
        Batch(IDS.flip(0).numpy(), None, doc_start, KEYS.numpy(), None),
    ]
    return {one.name: one for one in model.maps(batches)}, batches


@torch.no_grad()
def test_loss_by_recurrence_is_that_of_the_model_at_each_depth(lively_model):
    model = deeper(lively_model, 4)
    maps, batches = measured(model)
    for steps in range(1, 5):
        total = tokens = 0
        for batch in batches:
            ids, starts = torch.tensor(batch.ids_BT), torch.tensor(batch.doc_start_BT)
            targets = torch.where(starts[:, 1:] == starts[:, :-1], ids[:, 1:], -100)
            with model.recurring(steps):
                loss = model.loss(ids, torch.nn.functional.pad(targets, (0, 1), value=-100), starts)
            total, tokens = total + loss.total, tokens + loss.tokens
        found = maps["loss_by_recurrence"].values[0][steps - 1]
        assert found == pytest.approx((total / tokens).item(), rel=1e-5)


@torch.no_grad()
def test_latent_trajectory_is_the_relative_move_of_each_iteration(lively_model):
    model = deeper(lively_model, 4)
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
