"""Maps measure what the layers do on given text, with noise off, and leave the model as it was."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from athanor.models.maps import Map, measure


def batches(count=2, rows=2, length=10):
    generator = np.random.default_rng(0)
    start = np.repeat([[0] * 6 + [6] * (length - 6)], rows, axis=0)
    rows_of_ids = [generator.integers(1, 61, (rows, length)) for _ in range(count)]
    return [SimpleNamespace(ids_BT=ids, targets_BT=np.roll(ids, -1, 1), doc_start_BT=start) for ids in rows_of_ids]


def found(model, given=None):
    return {one.name: one for one in model.maps(batches() if given is None else given)}


def test_every_family_has_rectangular_finite_labelled_maps_that_survive_json(mode, lively_model):
    for one in found(lively_model(mode)).values():
        assert Map.model_validate(json.loads(one.model_dump_json())) == one
        assert len({len(row) for row in one.values}) == 1
        assert np.isfinite(one.values).all()
        if one.kind == "lines":
            assert len(one.series) == len(one.values)
        if one.x_ticks:
            assert len(one.x_ticks) == len(one.values[0])


@torch.no_grad()
def test_attention_share_is_the_mean_norm_ratio_over_the_tokens_it_is_computed_for(mode, lively_model):
    model = lively_model(mode)
    seen = []
    first = next(part for block in model.units() for part in block.modules() if hasattr(part, "attention_norm"))
    added = getattr(first, "attention_branch_norm", first.attention)
    first.attention_norm.register_forward_hook(lambda _m, args, _o: seen.append(args[0].norm(dim=-1)))
    added.register_forward_hook(lambda _m, _a, out: seen.append(out.norm(dim=-1)))
    share = next(one for one in measure(model, model.probes(), batches()) if one.name == "attention_share").values[0]
    ratios = torch.cat([out / residual for residual, out in zip(seen[::2], seen[1::2], strict=True)])
    assert len(share) == model.recipe.n_layers
    computed = ratios[ratios > 0]  # nothing comes of tokens that a router skips
    assert share[0] == pytest.approx(computed.mean().item(), rel=1e-5)


def test_measuring_runs_in_eval_mode_and_leaves_mode_hooks_and_gradients_alone(mode, lively_model):
    model, modes = lively_model(mode).train(), []
    handle = model.blocks[0].register_forward_pre_hook(lambda module, _args: modes.append(module.training))
    found(model)
    handle.remove()
    assert len(modes) >= 2 and not any(modes)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
