"""A block is a function of what it is given: it may run again, be compiled and be watched, and nothing else changes."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

ROUTED = ["hydra", *(f"hydra {kind}" for kind in ("expert_choice", "token_choice", "static", "first keys", "mlp"))]
ROUTED += [f"hydra {kind}" for kind in ("hard exit", "wide", "attention alone", "middle_cycle")]

IDS = torch.randint(1, 61, (4, 24), generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([[0] * 11 + [11] * 13] * 4)


def recomputed(block):
    forward = block.forward
    block.forward = lambda *args: checkpoint(forward, *args, use_reentrant=False)


def step(model):
    """Loss, gradients and buffers after a step of two micro-batches."""
    model.begin_step(1)
    losses = []
    for rows in (slice(0, 3), slice(3, 4)):
        ids = IDS[rows]
        loss = model.loss(ids, ids.roll(-1, 1), STARTS[rows], torch.arange(4)[rows], torch.zeros(len(ids)).long())
        objective = loss.total / loss.tokens + sum(loss.aux.values())
        objective.backward()
        losses.append(objective.detach())
    noted = [len(samples) for samples in model._samples]
    model.after_step(4.0)
    return [*losses, *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()], noted


def held(blocks):
    """Everything the blocks keep: which objects, how much is in them and how often they were written to."""
    kept = {}
    for place, block in enumerate(blocks):
        for name, module in block.named_modules():
            for key, value in {**vars(module), **module._buffers}.items():
                size = len(value) if isinstance(value, list | dict) else None
                kept[place, name, key] = (id(value), size, getattr(value, "_version", None))
    return kept


@pytest.mark.parametrize("routed", ROUTED)
def test_recomputed_blocks_change_no_bit_and_note_nothing_twice(routed, lively_model):
    plain, again = (lively_model(routed).train() for _ in range(2))
    for block in again.blocks:
        recomputed(block)
    values, noted = step(plain)
    other_values, other_noted = step(again)
    assert all(torch.equal(a, b) for a, b in zip(values, other_values, strict=True))
    assert noted == other_noted == [2] * len(noted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("routed", ROUTED)
def test_a_pass_leaves_nothing_in_the_blocks(routed, training, lively_model):
    model = lively_model(routed).train(training)
    before = held([*model.blocks, *model.expert_layers])
    model.loss(IDS, IDS.roll(-1, 1), STARTS)
    assert held([*model.blocks, *model.expert_layers]) == before


def test_blocks_compile_whole_and_once_for_all_micro_batches(lively_model):
    plain, compiled = (lively_model("hydra").train() for _ in range(2))
    torch._dynamo.reset()
    for block in compiled.blocks:
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True)
        recomputed(block)
    step(compiled)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled.zero_grad()
        found, _ = step(compiled)
    step(plain)
    plain.zero_grad()
    for value, wanted in zip(found, step(plain)[0], strict=True):
        torch.testing.assert_close(value, wanted)
