"""What HYDRA's routers are told in a test, and what they answer."""

from types import SimpleNamespace

import pytest
import torch

from athanor.models.families.hydra.routing import Routing


@pytest.fixture
def routing():
    """What the routers of a pass over `x_BTD` are told: all tokens count, everything is open; or as changed."""

    def make(x_BTD, **changes):
        told = dict(counted_BT=torch.ones(x_BTD.shape[:2], dtype=torch.bool), doc_start_BT=None, row_key_B=None)
        told |= dict(taught_BE=None, mod_open=torch.tensor(1.0), mor_adaptive=torch.tensor(1.0))
        return Routing(**told | dict(moe_dense=torch.tensor(0.0), skipping=0.0, gather=False) | changes)

    return make


@pytest.fixture
def watched():
    """`watched(model)`, filled by its next passes: `blocks`, what each block decided, `experts`, what each expert layer
    chose, and `streams`, what went into each block and came out."""

    def watch(model):
        seen = SimpleNamespace(blocks=[None] * len(model.blocks), experts=[None] * len(model.expert_layers), streams=[])
        seen.streams = [None] * len(model.blocks)

        def see_block(place, args, out):
            seen.streams[place], seen.blocks[place] = (args[0], out[0]), out[2]

        for place, block in enumerate(model.blocks):
            block.register_forward_hook(lambda _b, args, out, place=place: see_block(place, args, out))
        for number, layer in enumerate(model.expert_layers):
            layer.register_forward_hook(lambda _b, _a, out, number=number: seen.experts.__setitem__(number, out[2]))
        return seen

    return watch


@pytest.fixture
def calibrated():
    """The model in eval mode, its thresholds measured on these rows as training does."""

    def calibrate(model, ids, steps=1):
        model.train()
        with torch.no_grad():
            for _ in range(steps):
                model.loss(ids, ids.roll(-1, 1))
                model.after_step(4.0)
        return model.eval()

    return calibrate
