"""One attention: what each option adds, and that it computes the formula it says."""

import pytest
import torch
from definitions import Weights, attention, in_window, rms_norm, rope

from athanor.kernels.rope import rope_table, rotate_half_split, rotate_interleaved
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.sliding_window import Window, WindowKeyValues
from athanor.models.cache import Cache
from athanor.models.skeleton import Context

LENGTH = 9
ROTATIONS = {"half-split": rotate_half_split, "interleaved": rotate_interleaved}


@pytest.fixture
def make(tiny_recipe):
    def made(*arguments, **options):
        torch.manual_seed(0)
        module = GroupedQueryAttention(tiny_recipe("vanilla"), *arguments, **options)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return module

    return made


def x_and_rope():
    x_BTD = torch.randn(2, LENGTH, 24, generator=torch.Generator().manual_seed(1))
    return x_BTD, rope_table(torch.arange(LENGTH)[None], 8, 10_000.0)


def by_definition(module, x_BTD, window=LENGTH, sink=0, cap=None, pairing="half-split"):
    """The paper's formula over whole rows of one document."""
    w = Weights(module)

    def heads(x, part):
        y = w.linear(part, x).view(LENGTH, -1, 8)
        gain = f"{part}_norm.gain"
        return rms_norm(y, w[gain], 1e-6) if gain in w else y

    rows = []
    for x in x_BTD.double():
        q, k = (rope(heads(x, part), range(LENGTH), 10_000.0, pairing) for part in ("query", "key"))
        mixed = attention(q, k, heads(x, "value"), in_window([0] * LENGTH, window, sink), cap)
        rows.append(w.linear("out", mixed))
    return torch.stack(rows)


def is_close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pairing", ROTATIONS)
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"qk_norm": False}, {"cap": 1.5}], ids=str)
@torch.no_grad()
def test_full_attention_is_its_formula(make, pairing, options):
    module, (x_BTD, table) = make(ROTATIONS[pairing], **options), x_and_rope()
    wanted = by_definition(module, x_BTD, cap=options.get("cap"), pairing=pairing)
    is_close(module(x_BTD, table, None), wanted)


@torch.no_grad()
def test_within_a_window_it_sees_the_window_and_the_sinks(make):
    module, (x_BTD, table) = make(window=3, sink=2), x_and_rope()
    span = Window.of(Context(0, torch.arange(LENGTH)[None], None, None, None, None), 3, 2).span
    is_close(module(x_BTD, table, span), by_definition(module, x_BTD, 3, 2))


def test_without_rotation_only_the_mask_knows_positions(make):
    module, (x_BTD, _) = make(), x_and_rope()
    last, shuffled = (module(x, None, None)[:, -1] for x in (x_BTD, x_BTD[:, [*torch.randperm(8), 8]]))
    torch.testing.assert_close(last, shuffled)


def test_an_option_that_is_off_has_no_parameters(make):
    matrices = {f"{name}.weight" for name in ("query", "key", "value", "out")}
    biases = {f"{name}.bias" for name in ("query", "key", "value", "out")}
    assert {name for name, _ in make(qk_norm=False).named_parameters()} == matrices
    assert {name for name, _ in make(qk_norm=False, bias=True).named_parameters()} == matrices | biases
    assert {name for name, _ in make().named_parameters()} == matrices | {"query_norm.gain", "key_norm.gain"}


@torch.no_grad()
def test_what_is_remembered_are_rotated_keys_and_what_is_attended_to_is_what_memory_returns(make):
    module, (x_BTD, rope) = make(), x_and_rope()
    seen = []

    def remember(k, v):
        seen.append(k)
        return k, torch.zeros_like(v)

    assert module(x_BTD, rope, None, remember).abs().max() == 0
    torch.testing.assert_close(seen[0], module.queries_keys(x_BTD, rope)[1])


@pytest.mark.parametrize(("options", "kind"), [({}, KeyValues), ({"window": 4, "sink": 1}, WindowKeyValues)])
@torch.no_grad()
def test_its_past_has_the_bytes_it_counts(make, options, kind):
    module, (x_BTD, rope) = make(**options), x_and_rope()
    past = module.new_past()
    assert isinstance(past, kind)
    if options:
        context = Context(0, torch.arange(LENGTH)[None], None, None, None, Cache(2, [past]))
        near = Window.of(context, 4, 1)
        module(x_BTD, rope, near.span, near.remember(past))
    else:
        module(x_BTD, rope, None, past.append)
    held = [tensor for tensor in vars(past).values() if isinstance(tensor, torch.Tensor)]
    assert sum(tensor.numel() for tensor in held) * 2 == 2 * module.cache_bytes(LENGTH)  # 2 rows, 2 bytes each
