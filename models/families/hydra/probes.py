"""What HYDRA's routers do on real text: tokens computed per layer, recursions per token, load of the experts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athanor.data.loader import Batch
from athanor.models.families.hydra.block import HydraBlock, Routed
from athanor.models.families.hydra.moe import Choices, MixtureOfExperts
from athanor.models.maps import Map, unused
from athanor.models.skeleton import LanguageModel


class SkipProbe:
    """Per block, the share of tokens for which what MoD gates is computed, and the mean of the gate r; 1 and 1 where
    nothing is gated."""

    def __init__(self, blocks: Sequence[HydraBlock], capacity: float):
        self._blocks, self._capacity = blocks, capacity
        self._computed, self._gate, self._tokens = ([0.0] * len(blocks) for _ in range(3))

    def attach(self) -> list[RemovableHandle]:
        return [block.register_forward_hook(partial(self._see, i)) for i, block in enumerate(self._blocks)]

    def _see(self, i: int, _block: nn.Module, _args: tuple[Any, ...], out: tuple[Tensor, Any, Routed]) -> None:
        x_BTD, _, routed = out
        gate_BT = x_BTD.new_ones(x_BTD.shape[:2]) if routed.gate is None else routed.gate.logit_BT.sigmoid()
        self._computed[i] += gate_BT.numel() if routed.computed_BT is None else int(routed.computed_BT.sum())
        self._gate[i] += float(gate_BT.double().sum())
        self._tokens[i] += gate_BT.numel()

    def maps(self) -> list[Map]:
        tokens = [max(1.0, count) for count in self._tokens]
        return [
            Map(
                name="capacity",
                title="Mixture of depths: share of the tokens each block computes",
                kind="lines",
                values=[
                    [seen / count for seen, count in zip(self._computed, tokens, strict=True)],
                    [seen / count for seen, count in zip(self._gate, tokens, strict=True)],
                    [self._capacity] * len(tokens),
                ],
                x_label="block",
                y_label="share of tokens",
                series=["computed", "mean gate r", "capacity"],
                note=f"Over {int(tokens[0]):,} tokens of held-out text. The rest passes by "
                + ("the feed-forward layer" if self._blocks[0].gates_mlp else "the block")
                + " unchanged.",
            )
        ]


class DepthProbe:
    """Per block, how many recursions a token went through; 0 where the block was skipped. Where their outputs are mixed
    every token goes through all, and counts at the mean depth of the mixture."""

    def __init__(self, blocks: Sequence[HydraBlock], recursions: int):
        self._blocks = blocks
        self._tokens_LR = torch.zeros(len(blocks), recursions + 1, dtype=torch.float64)
        self._depth_L = [0.0] * len(blocks)

    def attach(self) -> list[RemovableHandle]:
        return [block.register_forward_hook(partial(self._see, i)) for i, block in enumerate(self._blocks)]

    def _see(self, i: int, _block: nn.Module, _args: tuple[Any, ...], out: tuple[Tensor, Any, Routed]) -> None:
        x_BTD, _, routed = out
        depth_BT = x_BTD.new_ones(x_BTD.shape[:2]) if routed.depths is None else routed.depths.depth_BT
        if routed.computed_BT is not None and not self._blocks[i].gates_mlp:
            depth_BT = torch.where(routed.computed_BT, depth_BT, 0.0)
        nearest_N = depth_BT.round().long().flatten()
        self._tokens_LR[i] += torch.bincount(nearest_N, minlength=self._tokens_LR.shape[1]).cpu()
        self._depth_L[i] += float(depth_BT.double().sum())

    def maps(self) -> list[Map]:
        tokens_L = self._tokens_LR.sum(1).clamp(min=1)
        measured = f"Over {int(tokens_L[0]):,} tokens of held-out text."
        mixed = any(block.mor is not None and block.mor.mixes_all for block in self._blocks)
        if mixed:
            measured += (
                f" Every token runs all {self._tokens_LR.shape[1] - 1} recursions, whose outputs are mixed: shown is "
                "the mean depth of each token's mixture, not what is computed."
            )
        return [
            Map(
                name="depth_histogram",
                title=f"Mixture of recursions: {'mean depth of the mixtures' if mixed else 'how deep tokens go'}",
                kind="heatmap",
                values=(self._tokens_LR / tokens_L[:, None]).tolist(),
                x_label="recursions, 0 = skipped",
                y_label="block",
                unit="share of tokens",
                note=f"{measured} A token counts at the nearest whole depth.",
            ),
            Map(
                name="mean_depth",
                title=f"Mean {'depth of the mixture' if mixed else 'recursions'} of a token",
                kind="lines",
                values=[[total / float(tokens) for total, tokens in zip(self._depth_L, tokens_L, strict=True)]],
                x_label="block",
                y_label="recursions",
                series=["mean depth"],
                note=measured,
            ),
        ]


class ExpertProbe:
    """Per expert layer, the share of the choices and of the probability each expert gets."""

    def __init__(self, layers: Sequence[MixtureOfExperts]):
        self._layers = layers
        experts = layers[0].experts.gate.shape[0]
        self._load_LE, self._p_LE = (torch.zeros(len(layers), experts, dtype=torch.float64) for _ in range(2))
        self._divergence_L, self._compared_L = ([0.0] * len(layers) for _ in range(2))
        self._tokens = 0

    def attach(self) -> list[RemovableHandle]:
        return [layer.register_forward_hook(partial(self._see, i)) for i, layer in enumerate(self._layers)]

    def _see(self, i: int, _layer: nn.Module, args: tuple[Any, ...], out: tuple[Tensor, Any, Choices]) -> None:
        choices, x_BTD = out[2], args[0]
        tokens = choices.p_BTE.shape[0] * choices.p_BTE.shape[1]
        self._load_LE[i] += tokens * choices.load().double().cpu()
        self._p_LE[i] += choices.p_BTE.double().sum((0, 1)).cpu()
        every_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        compared = self._layers[i].experts.compared(x_BTD, every_BT)
        self._divergence_L[i] += float(compared.divergence_BS.double().sum())
        self._compared_L[i] += compared.divergence_BS.numel()
        self._tokens += tokens if i == 0 else 0

    def maps(self) -> list[Map]:
        tokens = max(1, self._tokens)
        load_LE, p_LE = self._load_LE / tokens, self._p_LE / tokens
        divergence = [total / max(1.0, n) for total, n in zip(self._divergence_L, self._compared_L, strict=True)]
        return [
            Map(
                name="expert_load",
                title="Mixture of experts: share of the choices by expert",
                kind="heatmap",
                values=load_LE.tolist(),
                x_label="expert",
                y_label="expert layer",
                unit="share",
                note=f"Over {tokens:,} tokens of held-out text; even would be {1 / load_LE.shape[1]:.3g}."
                + unused(load_LE.tolist(), [f"expert {e}" for e in range(load_LE.shape[1])]),
            ),
            Map(
                name="expert_balance",
                title="Balance and divergence of the experts",
                kind="table",
                values=[
                    [float(load_E.max()), float(load_E.min()), float(p_E.max()), apart]
                    for load_E, p_E, apart in zip(load_LE, p_LE, divergence, strict=True)
                ],
                x_ticks=["largest load", "smallest load", "largest mean probability", "divergence"],
                y_ticks=[f"expert layer {i}" for i in range(len(divergence))],
                note="Divergence: 1 - mean cosine between what two experts make of the same token; 0 where they "
                "compute the same, 1 where they are unrelated.",
            ),
        ]


@torch.no_grad()
def mean_loss(model: LanguageModel, batches: Iterable[Batch]) -> float:
    """Cross-entropy in eval mode, nats per target token."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        for batch in batches:
            arrays = (batch.ids_BT, batch.targets_BT, batch.doc_start_BT)
            loss = model.loss(*(torch.as_tensor(array, device=device) for array in arrays))
            total, tokens = total + float(loss.total), tokens + int(loss.tokens)
    finally:
        model.train(training)
    return total / max(1, tokens)


def routing_gap(skipping: float, weighing: float) -> Map:
    """What skipping tokens, as served, costs against weighing all of them, as trained."""
    return Map(
        name="routing_gap",
        title="Loss with tokens skipped and with all tokens weighed",
        kind="table",
        values=[[skipping], [weighing], [skipping - weighing]],
        x_ticks=["loss"],
        y_ticks=["skipping (served)", "weighing (trained)", "cost of skipping"],
        unit="nats per token",
        note="On the same held-out text.",
    )
