"""Which backend computes an attention follows from the call alone, with a reason for every other one."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from athanor.kernels.attention_choice import Call, choose, compute_capability
from athanor.kernels.span import Span

TRAINING = Call("cuda", (9, 0), torch.bfloat16, 64, 64)


@pytest.mark.parametrize(
    ("changes", "backend", "reasons"),
    [
        ({}, "varlen", []),
        ({"dtype": torch.float16}, "varlen", []),
        ({"head_dim": 256, "value_dim": 256}, "varlen", []),
        ({"sink": 4}, "flex", ["varlen: has no sinks"]),
        ({"cap": 30.0}, "flex", ["varlen: has no cap"]),
        ({"value_dim": 48}, "flex", ["varlen: values are 48 channels wide, keys 64"]),
        ({"head_dim": 264, "value_dim": 264}, "flex", ["varlen: heads of 264 channels, not a multiple of 8 up to 256"]),
        ({"head_dim": 20, "value_dim": 20}, "flex", ["varlen: heads of 20 channels, not a multiple of 8 up to 256"]),
        ({"head_dim": 8, "value_dim": 8}, "varlen", []),
        (
            {"head_dim": 8, "value_dim": 8, "sink": 1},
            "reference",
            ["varlen: has no sinks", "flex: heads of 8 channels, fewer than 16"],
        ),
        ({"device_type": "cpu"}, "reference", ["has no kernel for cpu"] * 2),
        ({"compute_capability": None}, "reference", ["no GPU holds the tensors"] * 2),
        ({"compute_capability": (7, 5)}, "reference", ["needs compute capability 8.0, the GPU has 7.5"] * 2),
        ({"dtype": torch.float32}, "reference", ["computes in 16 bits, not in float32"] * 2),
        ({"whole_rows": False}, "reference", ["queries and keys are not those of whole rows"] * 2),
        ({"bounded": False}, "reference", ["one document needs no bounds"] * 2),
    ],
)
def test_the_first_backend_that_claims_a_call_takes_it_and_the_others_say_why_not(changes, backend, reasons):
    choice = choose(replace(TRAINING, **changes))
    assert choice.backend == backend
    refused = [f"{name}: {reason}" for name, reason in choice.refused.items()]
    assert len(refused) == len(reasons)
    assert all(found.endswith(reason) for found, reason in zip(refused, reasons, strict=True))
    assert str(choice) == (f"{backend} ({'; '.join(refused)})" if refused else backend)


def test_a_call_is_what_its_tensors_are():
    q, v = torch.zeros(1, 6, 4, 16), torch.zeros(1, 6, 2, 24)
    starts = torch.zeros(1, 6, dtype=torch.int64)
    expected = Call("cpu", None, torch.float32, 16, 24, 2.0, True, True, 3)
    assert Call.of(q, v, Span(starts, window=2, sink=3), 2.0) == expected
    assert Call.of(q, v, Span(starts, offset=1), None) == Call("cpu", None, torch.float32, 16, 24, whole_rows=False)
    assert Call.of(q, v, None, None) == Call("cpu", None, torch.float32, 16, 24, bounded=False)


def test_products_have_the_dtype_of_autocast():
    q, span = torch.zeros(1, 6, 4, 16), Span(torch.zeros(1, 6, dtype=torch.int64))
    with torch.autocast("cpu", torch.bfloat16):
        assert Call.of(q, q, span, None).dtype == torch.bfloat16


def test_tensors_without_storage_are_on_no_gpu():
    with FakeTensorMode():
        assert compute_capability(Span(torch.zeros(1, 6, dtype=torch.int64, device="cuda"))) is None
