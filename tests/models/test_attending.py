"""A model says which backend each of its layers attends by."""

import torch

from athanor.kernels.attention import attention
from athanor.kernels.attention_choice import Call, Heads
from athanor.models.attending import attention_backends, heads_of

CPU = torch.device("cpu")


def test_what_layers_say_of_their_heads_is_what_they_ask_in_training(mode, lively_model, monkeypatch):
    model, asked = lively_model(mode).train(), []

    def seen(q, k, v, span, cap=None):
        asked.append(Call.of(q, v, span, cap))
        return attention(q, k, v, span, cap)

    for name in ("blocks.attention", "families.swa_mla.latent", "families.hydra.ccgqa"):
        monkeypatch.setattr(f"athanor.models.{name}.attention", seen)
    starts = torch.where(torch.arange(20) >= 9, 9, 0)[None].expand(2, -1)
    model.loss(torch.ones(2, 20, dtype=torch.int64), torch.ones(2, 20, dtype=torch.int64), starts, torch.arange(2))
    said = {Call.of_training(heads, CPU, torch.float32) for heads in heads_of(model)}
    assert said == set(asked)


def test_one_line_counts_the_layers_of_each_backend_with_the_reasons(lively_model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    model, device = lively_model("swa_mla", head_dim=16), torch.device("cuda")
    said = attention_backends(model, device, torch.bfloat16)
    windows = sum(heads == Heads(16, 16, None, 1) for heads in heads_of(model))
    assert said.startswith(f"{windows} layers by flex (varlen: has no sinks); ")
    reasons = "varlen: values are 6 channels wide, keys 8; flex: heads of 6 channels, fewer than 16"
    assert said.endswith(f"; 1 layers by reference ({reasons})")
    assert attention_backends(model, device, torch.float32).startswith("3 layers by reference (")
