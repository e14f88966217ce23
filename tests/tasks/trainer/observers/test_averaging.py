"""Averaged weights: what is delivered is the mean over the last part."""

import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.tasks.trainer.run import train


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def checkpoint(folder, step: int) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "checkpoints" / f"step-{step:08d}").glob("*.safetensors")))


def test_the_weights_delivered_are_the_mean_over_the_last_part(make_run):
    plain = make_run("plain", train={"steps": 8}, runtime={"permanent_every_steps": 1, "checkpoint_every_steps": 1})
    averaged = make_run("averaged", train={"steps": 8, "average_from": 0.75})
    train(plain, Stop())
    train(averaged, Stop())
    name = "blocks.0.ffn.up.weight"
    mean = torch.stack([checkpoint(plain, step)[f"model.{name}"] for step in (7, 8)]).mean(0)
    assert torch.allclose(weights(averaged)[name], mean, atol=1e-7)
    assert not torch.allclose(weights(plain)[name], mean, atol=1e-5)
