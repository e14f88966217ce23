"""Maps of HYDRA's routers are what its blocks decided."""

import pytest
import torch

from athanor.models.maps import measure


@torch.no_grad()
def test_maps_show_depths_capacity_and_load_as_they_are(lively_model, watched, calibrated):
    model, ids = lively_model("hydra hard exit"), torch.arange(48).view(2, 24) % 61
    calibrated(model, ids)

    class Given:
        ids_BT, doc_start_BT = ids.numpy(), torch.zeros_like(ids).numpy()

    seen = watched(model)
    maps = {one.name: one for one in measure(model, model.probes(), [Given()])}
    computed = [routed.computed_BT.float().mean().item() for routed in seen.blocks]
    assert maps["capacity"].values[0] == pytest.approx(computed)
    histogram = torch.tensor(maps["depth_histogram"].values)
    assert histogram.shape == (3, 4)
    torch.testing.assert_close(histogram.sum(1), torch.ones(3))
    torch.testing.assert_close(histogram[:, 0], 1 - torch.tensor(computed))
    assert (histogram @ torch.arange(4.0)).tolist() == pytest.approx(maps["mean_depth"].values[0])
    assert maps["expert_load"].values[0] == pytest.approx(seen.experts[0].load().tolist())
