"""The memory estimate is what a real step takes, for every family, and it chooses the largest micro-batch that fits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from athanor.flows.presets.preset import load_preset
from athanor.models import memory as module
from athanor.models.build import build_model
from athanor.models.memory import USABLE_SHARE, Layout, StepMemory, largest_micro_batch_rows
from athanor.models.step_count import count_step

ROWS, LENGTH = 8, 128
QUICKSTARTS = ("quickstart", "quickstart-vanilla", "quickstart-swa-mla", "quickstart-huginn", "quickstart-hydra")


def quickstart_recipe(preset):
    whole = load_preset(preset)
    return whole.model.model_copy(update={"vocab_size": whole.tokenizer.vocab_size})


def step_memory(
    recipe, rows, seq_len_tokens, precision=torch.float32, device_type="cpu", prepare=None, **kept
) -> StepMemory:
    count = count_step(recipe, rows, seq_len_tokens, precision, device_type, prepare)
    return module.step_memory(count, device_type=device_type, **kept)


def measured_peak_bytes(recipe, precision) -> int:
    """Bytes the CPU allocator held at most during the second step, weights and optimizer state included."""
    model = build_model(recipe)
    model.init_weights(0)
    model.train()
    model.apply_schedule(model.schedule(1.0))
    model.begin_step(0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def forward_and_backward():
        ids_BT = torch.randint(0, recipe.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = model.loss(ids_BT, ids_BT, torch.zeros_like(ids_BT), torch.arange(ROWS))
        torch.stack([loss.total, *loss.aux.values()]).sum().backward()

    forward_and_backward()
    optimizer.step()
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    there_bytes = sum(t.nbytes for t in tensors)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward_and_backward()
    live_bytes = peak_bytes = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live_bytes += event.nbytes()
            peak_bytes = max(peak_bytes, live_bytes)
    return there_bytes + peak_bytes


@pytest.mark.parametrize("preset", QUICKSTARTS)
def test_the_estimate_is_within_15_percent_of_the_allocators_peak(preset):
    recipe = quickstart_recipe(preset)
    measured = measured_peak_bytes(recipe, torch.float32)
    assert step_memory(recipe, ROWS, LENGTH).total_bytes == pytest.approx(measured, rel=0.15)


def test_under_autocast_too():
    recipe = quickstart_recipe("quickstart-vanilla")
    measured = measured_peak_bytes(recipe, torch.bfloat16)
    assert step_memory(recipe, ROWS, LENGTH, precision=torch.bfloat16).total_bytes == pytest.approx(measured, rel=0.15)


def test_a_model_that_fits_no_computer_is_counted_all_the_same():
    recipe = quickstart_recipe("quickstart-vanilla").model_copy(
        update={"d_model": 16_384, "n_heads": 128, "n_kv_heads": 8, "head_dim": 128, "d_ff": 65_536, "n_layers": 8}
    )
    memory = step_memory(recipe, 1, LENGTH, precision=torch.bfloat16, device_type="cuda")
    assert memory.weights_bytes > 100 << 30
    assert memory.optimizer_bytes == 2 * memory.gradients_bytes


def test_a_rank_keeps_its_part_by_stage_and_what_is_gathered_meanwhile():
    recipe = quickstart_recipe("quickstart-vanilla")
    memory, whole = partial(step_memory, recipe, 1, LENGTH), step_memory(recipe, 1, LENGTH)
    model = build_model(recipe)
    block = sum(p.numel() for p in model.blocks[0].parameters())
    gathered = 4 * (sum(p.numel() for p in model.parameters()) - (len(model.blocks) - 1) * block)
    for stage in (0, 1, 2, 3):
        part = memory(layout=Layout(4, stage))
        assert part.optimizer_bytes == whole.optimizer_bytes / (4 if stage >= 1 else 1)
        both = gathered if stage == 3 else 0
        assert part.gradients_bytes == whole.gradients_bytes / (4 if stage >= 2 else 1) + both
        assert part.weights_bytes == pytest.approx(whole.weights_bytes / (4 if stage >= 3 else 1) + both, rel=1e-3)
        assert (part.activations_bytes, part.host_bytes) == (whole.activations_bytes, 0)
    many = memory(layout=Layout(4, 3, live_parameters=10**12, bucket_parameters=10**12))
    assert many.weights_bytes == pytest.approx(1.25 * whole.weights_bytes)
    assert many.gradients_bytes == pytest.approx(1.25 * whole.gradients_bytes)
    copied = memory(layout=Layout(4, 1, copies_weights=True))
    assert copied.optimizer_bytes == pytest.approx((whole.optimizer_bytes + whole.weights_bytes) / 4, abs=1)


def test_what_is_offloaded_lies_in_host_memory_unless_the_device_is_the_host():
    memory = partial(step_memory, quickstart_recipe("quickstart-vanilla"), 1, LENGTH)
    for offload, parts in (
        ("optimizer", ("optimizer", "gradients")),
        ("parameters", ("optimizer", "gradients", "weights")),
    ):
        here, away = (memory(layout=Layout(4, 3, offload=o), device_type="cuda") for o in ("none", offload))
        whole = memory()
        assert away.host_bytes == pytest.approx(sum(getattr(whole, f"{part}_bytes") for part in parts) / 4, abs=1)
        assert here.total_bytes - away.total_bytes == pytest.approx(away.host_bytes, abs=2)
        assert memory(layout=Layout(4, 3, offload=offload)).host_bytes == 0


def test_recomputed_activations_are_not_counted():
    def recompute(model):
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    recipe = quickstart_recipe("quickstart-vanilla")
    kept = step_memory(recipe, ROWS, LENGTH).activations_bytes
    assert step_memory(recipe, ROWS, LENGTH, prepare=recompute).activations_bytes < 0.6 * kept


def test_tokens_that_do_not_divide_among_the_experts_are_all_counted():
    recipe = quickstart_recipe("quickstart-hydra")
    three = recipe.model_copy(update={"hydra": recipe.hydra.model_copy(update={"experts": 3})})
    sizes = [step_memory(three, 1, length).activations_bytes for length in (126, 127, 128)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("fitting", [1, 2, 3, 7, 31, 32])
def test_the_largest_micro_batch_fits_and_one_row_more_does_not(fitting):
    asked = []

    def memory_of(rows):
        asked.append(rows)
        return StepMemory(1000, 1000, 2000, 100 + 50 * rows + min(rows, 3) * 20)  # a chunk that soon stops growing

    device_bytes = (memory_of(fitting).total_bytes + 1) / USABLE_SHARE
    assert largest_micro_batch_rows(device_bytes, memory_of, most_rows=32) == fitting
    assert len(asked) <= 8


def test_a_device_too_small_for_one_row_still_gets_one():
    assert (
        largest_micro_batch_rows(
            1.0, partial(step_memory, quickstart_recipe("quickstart-vanilla"), seq_len_tokens=8), 4
        )
        == 1
    )
