"""Maps of HYDRA's routers are what its blocks decided."""

import pytest
import torch

from athanor.models.maps import AttentionShare, measure


class Given:
    def __init__(self, ids):
        self.ids_BT, self.doc_start_BT = ids.numpy(), torch.zeros_like(ids).numpy()


@torch.no_grad()
def test_maps_show_depths_capacity_and_load_as_they_are(lively_model, watched, calibrated):
    model, ids = lively_model("hydra hard exit"), torch.arange(48).view(2, 24) % 61
    calibrated(model, ids)
    seen = watched(model)
    maps = {one.name: one for one in measure(model, model.probes(), [Given(ids)])}
    computed = [routed.computed_BT.float().mean().item() for routed in seen.blocks]
    assert maps["capacity"].values[0] == pytest.approx(computed)
    histogram = torch.tensor(maps["depth_histogram"].values)
    assert histogram.shape == (3, 4)
    torch.testing.assert_close(histogram.sum(1), torch.ones(3))
    torch.testing.assert_close(histogram[:, 0], 1 - torch.tensor(computed))
    assert (histogram @ torch.arange(4.0)).tolist() == pytest.approx(maps["mean_depth"].values[0])
    assert maps["depth_histogram"].title.endswith("how deep tokens go")
    assert maps["expert_load"].values[0] == pytest.approx(seen.experts[0].load().tolist())


@torch.no_grad()
def test_mixed_depths_are_not_shown_as_depths_that_were_computed(lively_model):
    model, ids = lively_model("hydra"), torch.arange(48).view(2, 24) % 61
    maps = {one.name: one for one in measure(model, model.probes(), [Given(ids)])}
    assert maps["depth_histogram"].title.endswith("mean depth of the mixtures")
    assert f"Every token runs all {model.section.recursions} recursions" in maps["mean_depth"].note


@torch.no_grad()
def test_attention_is_averaged_over_the_tokens_it_is_computed_for(lively_model):
    """Half of the tokens skipped: the mean is that of the others, not half of it."""

    class Half(torch.nn.Module):
        def forward(self, x_BTD):
            return torch.where(torch.arange(x_BTD.shape[1])[:, None] % 2 == 0, 0.5 * x_BTD, 0.0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = torch.nn.Identity(), Half()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def hidden(self, ids_BT, doc_start_BT):
            return self.attention(self.norm(ids_BT[:, :, None].float() + 1.0))

    model = Model()
    (found,) = measure(model, [AttentionShare([(model.norm, model.attention)])], [Given(torch.arange(20).view(2, 10))])
    assert found.values == [pytest.approx([0.5])] and "(10 in the first layer)" in found.note


@torch.no_grad()
def test_an_expert_that_nothing_falls_on_is_named_below_the_map(lively_model):
    model, ids = lively_model("hydra"), torch.arange(48).view(2, 24) % 61

    def note():
        return {one.name: one for one in measure(model, model.probes(), [Given(ids)])}["expert_load"].note

    for layer in model.expert_layers:
        layer.ffn.router.weight.zero_()
        layer.ffn.router.weight[1] = 1e-3 * layer.ffn.router.weight.new_ones(1)
    assert "Collapsed, less than 0.1 % falls on: expert" in note()
