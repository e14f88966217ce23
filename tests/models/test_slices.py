"""What a step learns, and says of itself, depends on its rows alone, not on how memory or ranks make it cut them."""

from contextlib import nullcontext

import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.data.loader import Batch
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.step.step import Optimization

ROWS, TOKENS = 8, 24
SLICE_ROWS = (4, 2, 1)
OF_A_WHOLE, OF_A_PART = 1e-6, 1e-4  # relative; fp32 rounds the sum of a single parameter, or one logit, further
NOTHING = 1e-4  # a gradient that small is rounding: that of the bias of keys, which attention does not see
DOMAINS = {"domain_experts": {"math": (0, 2), "code": (3,)}}
# Lengths of the conversations of each row; what is left of a row is padding.
CONVERSATIONS = [[24], [3], [10, 9], [2, 2, 2], [17], [1, 22], [6], [24]]


def text(seed: int) -> Batch:
    """Windows of documents, the last of which nothing is learned from."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 61, (ROWS, TOKENS + 1), generator=generator)
    begins = torch.rand(ROWS, TOKENS + 1, generator=generator) < 0.15
    begins[:, 0] = True
    starts = torch.where(begins, torch.arange(TOKENS + 1), 0).cummax(1).values
    targets = torch.where(begins[:, 1:], IGNORE, ids[:, 1:])
    targets[-1] = IGNORE
    return batch(ids[:, :-1], targets, starts[:, :-1], seed)


def chat(seed: int) -> Batch:
    """Packed conversations with padding behind them, whose second halves are learned."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 61, (ROWS, TOKENS), generator=generator)
    targets, starts = torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    for row, lengths in enumerate(CONVERSATIONS):
        at = 0
        for length in lengths:
            learned = slice(at + length // 2, at + length - 1)
            targets[row, learned] = ids[row, learned.start + 1 : learned.stop + 1]
            starts[row, at : at + length] = at
            at += length
        starts[row, at:] = at
        ids[row, at:] = 0
    return batch(ids, targets, starts, seed)


def batch(ids, targets, starts, seed) -> Batch:
    keys, sources = torch.arange(ROWS) + 1000 * seed, torch.arange(ROWS) % 2
    return Batch(*(values.contiguous().numpy() for values in (ids, targets, starts, keys, sources)))


def two_steps(model, rows_of, slice_rows):
    """Of two steps with other rows: losses, diagnostics, gradients, whole and of each parameter; then the buffers."""
    model = model.train()
    optimizer, world, cpu = torch.optim.SGD(model.parameters(), lr=0.0), World(), torch.device("cpu")
    subject = Optimization(
        Engine(model, optimizer, world), 1e9, cpu, nullcontext(), slice_rows * TOKENS, None, pytest.fail
    )
    found = {}
    for step in (1, 2):
        result = subject.measure(rows_of(step), step)
        gradients = {name: parameter.grad.flatten() for name, parameter in model.named_parameters()}
        found[f"gradient {step}"] = torch.cat(list(gradients.values()))
        found |= {f"gradient {step} of {name}": gradient for name, gradient in gradients.items()}
        logged = {"loss": result.loss, **result.aux, **model.diagnostics(result.means)}
        found |= {f"{name} {step}": torch.tensor(value) for name, value in logged.items()}
        subject.discard()
        model.after_step(result.loss)
    return found | {f"buffer of {name}": buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        apart = (found[name] - value).double().norm() / value.double().norm().clamp(min=NOTHING)
        assert apart <= (OF_A_PART if " of " in name else OF_A_WHOLE), name


@pytest.mark.parametrize("rows_of", [text, chat], ids=["text", "chat"])
def test_a_step_is_the_same_in_any_slices(mode, rows_of, lively_model):
    def model():
        built = lively_model(mode)
        if mode.startswith("hydra") and built.recipe.hydra.moe_layers:
            section = built.recipe.hydra.model_dump() | {"router_jitter": 0.3} | DOMAINS
            built = lively_model(mode, hydra=section)
            built.begin_training(["code", "math"])
        return built

    whole = two_steps(model(), rows_of, ROWS)
    for slice_rows in SLICE_ROWS:
        assert_same(two_steps(model(), rows_of, slice_rows), whole)
