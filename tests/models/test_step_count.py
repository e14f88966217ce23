"""A step is counted from what its own code launches and keeps, from two shallow models where that is the same."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from athanor.kernels import cross_entropy
from athanor.kernels.chunks import ChunkSize
from athanor.models import step_count
from athanor.models.build import build_on_meta
from athanor.models.model_recipe import ModelRecipe
from athanor.models.op_cost import OpCost
from athanor.models.step_count import Watch, count_step

ROWS, LENGTH = 4, 64
SHAPE = {"vocab_size": 256, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 48, "n_layers": 6}
SECTIONS = {
    "vanilla": {},
    "windowed": {"vanilla": {"window": 16}},
    "polychromatic": {},
    "swa_mla": {
        "n_kv_heads": 4,
        "swa_mla": {"window": 16, "sink": 2, "kv_rank": 8, "qk_nope_dim": 8, "qk_rope_dim": 4, "v_dim": 8},
    },
    "hydra": {"hydra": {"recursions": 2}},
}


def recipe_of(name: str, **fields) -> ModelRecipe:
    family = "vanilla" if name == "windowed" else name
    return ModelRecipe.model_validate({"family": family, **SHAPE, **SECTIONS.get(name, {}), **fields})


def recompute(every: int, model) -> None:
    for number, block in enumerate(model.units(), start=1):
        if number % every == 0:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def kinds(count) -> Counter[str]:
    found: Counter[str] = Counter()
    for cost, times in count.launches.items():
        found[cost.kind] += times
    return found


def test_the_launches_of_a_known_product_and_a_known_elementwise_operation_are_those_by_hand():
    rows, wide, deep = 6, 5, 7
    with FakeTensorMode():
        x, weight = torch.empty(rows, deep), torch.empty(wide, deep, requires_grad=True)
        with Watch([x, weight], {}) as watch:
            y = torch.relu(x @ weight.t())
            y.backward(torch.empty_like(y))
    product = 2 * rows * wide * deep
    assert watch.launches == {
        OpCost("mm", "products", 4 * (rows + wide) * deep, 4 * rows * wide, product, "fp32 product"): 1,
        OpCost("relu", "elementwise", 4 * rows * wide, 4 * rows * wide): 1,
        OpCost("threshold_backward", "elementwise", 4 * 2 * rows * wide, 4 * rows * wide): 1,
        OpCost("mm", "products", 4 * (rows * wide + rows * deep), 4 * wide * deep, product, "fp32 product"): 1,
    }
    y_bytes = 4 * rows * wide  # and as much its gradient and that of x w^T, which is gone itself
    assert watch.storages.peaks == [3 * y_bytes + 4 * wide * deep]


@pytest.mark.parametrize(
    ("name", "layers", "every"),
    [
        *(("vanilla", 6, None), ("vanilla", 6, 1), ("vanilla", 9, 2), ("windowed", 8, 1), ("polychromatic", 6, 1)),
        *(("swa_mla", 12, None), ("swa_mla", 12, 1), ("hydra", 8, None)),
    ],
)
def test_a_deep_model_counted_from_two_shallow_ones_is_what_the_whole_one_is(name, layers, every):
    recipe = recipe_of(name, n_layers=layers)
    asked = (ROWS, LENGTH, torch.bfloat16, "cuda", None if every is None else partial(recompute, every))
    followed = step_count._followed(recipe, build_on_meta(recipe).repeating_layers, every or 1, asked)
    whole = step_count._counted(recipe, *asked)
    assert followed is not None
    assert max(followed.peaks) == max(whole.peaks) and followed.left == whole.left
    for figure in ("read_bytes", "written_bytes", "flops"):
        sums = [sum(times * getattr(cost, figure) for cost, times in one.launches.items()) for one in (followed, whole)]
        assert sums[0] == sums[1]
    assert kinds(followed) == kinds(whole)
    if name != "hydra":  # which stacks one value of every layer
        assert followed.launches == whole.launches


@pytest.mark.parametrize("every", [None, 1])
def test_a_peak_that_does_not_depend_on_depth_is_found_too(every):
    recipe = recipe_of("vanilla", vocab_size=60_000)  # whose gradient is all there is to hold
    prepare = None if every is None else partial(recompute, every)
    whole = step_count._counted(recipe, 1, 8, torch.float32, "cpu", prepare)
    assert whole.peaks[2] == max(whole.peaks)
    assert count_step(recipe, 1, 8, torch.float32, "cpu", prepare).peak_bytes == max(whole.peaks)


def test_where_layers_differ_all_of_them_are_counted():
    for section in ({"mor_sharing": "middle_cycle"}, {"experts": 2, "moe_layers": 1}):
        recipe = recipe_of("hydra", n_layers=7, hydra={"recursions": 2, **section})
        assert build_on_meta(recipe).repeating_layers is None
        whole = step_count._counted(recipe, 1, 8, torch.float32, "cpu", None)
        assert count_step(recipe, 1, 8, torch.float32, "cpu").peak_bytes == max(whole.peaks)


def test_chunks_that_are_not_gone_through_are_counted_all_the_same(monkeypatch):
    recipe = recipe_of("polychromatic", n_layers=2)

    def every_chunk(self, length, width, device_type):
        step = self.rows(width, device_type)
        return (slice(start, min(start + step, length)) for start in range(0, length, step))

    with cross_entropy.CHUNKS.instead(10 * 256):
        asked = (recipe, ROWS, LENGTH, torch.float32, "cpu", None)
        some = step_count._counted(*asked)
        monkeypatch.setattr(ChunkSize, "slices", every_chunk)
        all_of_them = step_count._counted(*asked)
    assert some == all_of_them
    assert sum(times for cost, times in some.launches.items() if cost.name == "logsumexp") == -(-ROWS * LENGTH // 10)


def test_the_chunks_are_those_of_the_device_that_is_asked_about():
    recipe = recipe_of("vanilla", n_layers=1, vocab_size=60_000)
    cpu, cuda = (count_step(recipe, ROWS, LENGTH, torch.float32, device) for device in ("cpu", "cuda"))
    names = ("logsumexp", "cross_entropy_pass")  # of torch, and of our kernel
    softmaxes = [sum(n for cost, n in count.launches.items() if cost.name in names) for count in (cpu, cuda)]
    assert softmaxes[0] > softmaxes[1] == 1
    assert cuda.peak_bytes > cpu.peak_bytes


def test_recomputed_blocks_run_forward_twice():
    recipe = recipe_of("vanilla", n_layers=4)
    plain, half, whole = (
        count_step(recipe, ROWS, LENGTH, torch.bfloat16, "cuda", prepare)
        for prepare in (None, partial(recompute, 2), partial(recompute, 1))
    )
    assert [kinds(count)["attention"] for count in (plain, half, whole)] == [2 * 4, 2 * 4 + 2, 3 * 4]


def test_on_a_gpu_latent_attention_holds_no_scores_and_a_mask_is_a_bias_that_repeats_grouped_heads():
    recipe = recipe_of("swa_mla", n_layers=3)
    cpu, cuda = (count_step(recipe, ROWS, LENGTH, torch.bfloat16, device) for device in ("cpu", "cuda"))
    assert kinds(cuda)["attention"] == 2 * 3 > kinds(cpu)["attention"]
    attention = [cost for cost in cuda.launches if cost.kind == "attention"]
    assert {cost.rate for cost in attention} == {"masked attention", "masked attention backward"}
    grouped = count_step(recipe_of("vanilla", n_layers=1), ROWS, LENGTH, torch.float32, "cuda")
    (forward,) = (cost for cost in grouped.launches if cost.rate == "masked attention")
    query = ROWS * 4 * LENGTH * 8
    assert forward.read_bytes == 4 * (3 * query + ROWS * LENGTH * LENGTH)


@pytest.mark.parametrize(("name", "scores"), [("vanilla", 64 * 65 // 2), ("windowed", 64 * 16 - 16 * 15 // 2)])
def test_on_a_gpu_fused_attention_reads_each_head_once_and_computes_the_scores_of_a_document(name, scores):
    count = count_step(recipe_of(name, n_layers=1), ROWS, LENGTH, torch.bfloat16, "cuda")
    forward, backward = (
        next(cost for cost in count.launches if cost.name == op)
        for op in ("flash_attention", "flash_attention_backward")
    )
    tokens, heads, sums = ROWS * LENGTH, 8 * (4 + 2 + 2), 4 * 4
    assert (forward.rate, backward.rate) == ("attention", "attention backward")
    assert forward.flops == ROWS * 4 * scores * 2 * (8 + 8) == backward.flops * 2 // 5
    assert forward.read_bytes == tokens * 2 * heads
    assert forward.written_bytes == tokens * (2 * 8 * 4 + sums)
    assert backward.read_bytes == tokens * (2 * heads + 2 * 2 * 8 * 4 + sums)
    assert backward.written_bytes == tokens * 2 * heads
    assert "where" not in {cost.name for cost in count.launches}, "no mask is made"


def test_kernels_that_a_run_leaves_out_are_not_counted():
    count = partial(count_step, recipe_of("vanilla", n_layers=1), ROWS, LENGTH, torch.bfloat16, "cuda")
    assert kinds(count())["kernels"] > kinds(count(kernels="swiglu"))["kernels"] == 2
    assert kinds(count(kernels="none"))["kernels"] == 0


def test_values_that_a_router_makes_the_host_wait_for_are_counted():
    count = partial(count_step, rows=ROWS, seq_len_tokens=LENGTH, precision=torch.float32, device_type="cuda")
    assert count(recipe_of("vanilla")).host_reads == 0
    experts = recipe_of("hydra", hydra={"recursions": 1, "experts": 3, "moe_layers": 2}, n_layers=6)
    assert count(experts).host_reads >= 2 * 3


def test_a_recurrent_core_runs_as_often_as_on_average():
    def products(mean: int) -> int:
        section = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": mean, "backprop_depth": 2}
        recipe = recipe_of("huginn", n_layers=3, n_kv_heads=4, huginn=section)
        return kinds(count_step(recipe, ROWS, LENGTH, torch.float32, "cuda"))["products"]

    three, four, nine = map(products, (3, 4, 9))
    assert nine - four == 5 * (four - three) > 0


def test_the_same_step_is_counted_once():
    asked = (recipe_of("vanilla", n_layers=1), 1, 8, torch.float32, "cpu")
    assert count_step(*asked) is count_step(*asked)
    assert count_step(*asked).peak_bytes < count_step(asked[0], 2, *asked[2:]).peak_bytes
