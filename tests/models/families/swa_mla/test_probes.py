"""How far attention looks and what lies on the sinks, against counting by hand."""

import pytest
import torch
from visibility import doc_start, visible_by_definition

from athanor.data.loader import Batch


def random_ids(rows, length, seed=0):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


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
