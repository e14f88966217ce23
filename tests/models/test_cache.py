"""What is remembered: every past keeps the contract, and a rewound cache goes on as if nothing had been read."""

import pytest
import torch

from athanor.kernels.packed_row import PackedRow
from athanor.models.cache import Cache, Past, RewindablePast


def pasts_of(layers):
    for past in layers:
        if isinstance(past, list):
            yield from pasts_of(past)
        else:
            yield past


def ids_of(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 61, (length,), generator=generator).tolist() for length in lengths]


def test_every_layer_of_every_family_has_a_past_that_unpacks(mode, lively_model):
    pasts = list(pasts_of(lively_model(mode).new_cache(1).layers))
    assert pasts
    assert all(isinstance(past, Past) for past in pasts)


@torch.no_grad()
def test_documents_read_in_one_row_decode_on_as_rows_of_their_own(mode, lively_model):
    model, prompts = lively_model(mode), ids_of(3, 8, 5)
    _, cache = model.prefill(prompts)
    assert (cache.rows, cache.length) == (3, 8)
    pads = PackedRow((3, 8, 5)).padding(torch.device("cpu"))
    next_ids = torch.tensor([[7], [8], [9]])
    together = model(next_ids, pads, cache=cache)[:, -1]
    for row, prompt in enumerate(prompts):
        alone = model(torch.tensor([[*prompt, int(next_ids[row])]]))[0, -1]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_rewound_cache_goes_on_as_if_the_rest_had_not_been_read(mode, lively_model):
    model, (ids,) = lively_model(mode), ids_of(12)
    cache = model.new_cache(1)
    if not all(isinstance(past, RewindablePast) for past in pasts_of(cache.layers)):
        pytest.skip("something of its past is overwritten as it goes")
    model(torch.tensor([ids[:9]]), cache=cache)
    cache.rewind(5)
    assert cache.length == 5
    found = model(torch.tensor([ids[5:]]), cache=cache)
    torch.testing.assert_close(found, model(torch.tensor([ids]))[:, 5:], atol=1e-5, rtol=1e-5)


def test_a_cache_of_other_rows_than_the_batch_is_refused(lively_model):
    model = lively_model("vanilla")
    with pytest.raises(ValueError, match="the cache holds 2 rows, the batch 1"):
        model(torch.ones(1, 3, dtype=torch.long), cache=Cache(2, model.new_layer_states()))
