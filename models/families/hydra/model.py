"""HYDRA: compressed convolutional attention, and routers that decide how much of the model a token passes through.

    layer      h = h + CCGQA(norm h);  h = h + SwiGLU(norm h)
    block      x = MoD(x, MoR(x, layer))
    between    x += alpha * MoE(norm x)                             after some of the blocks
    loss       CE + w_mod BCE + 0.01 ponder + 0.01 balance          w_mod = 0.01 (L / 32) sqrt(D / 768)

Every auxiliary loss is one value for each row, the mean over its tokens that count (`counted_tokens`), and rows weigh
by how many those are. No value of a row depends on the rows it is computed beside, so a step is the same in any slices
and on any ranks; see `balance_loss` for the one that is often defined otherwise.

L = n R counts the layers a token passes at full depth. Mixture of depths (MoD) wraps a block that a mixture of
recursions (MoR) runs up to R times with the same weights, attention included, so decoding keeps R caches a layer, or
one with `mor_kv="first"`. In training every token is computed and the routers weigh; in serving the tokens a MoD router
turns away are skipped, but their keys, values and convolution rows are written. `mod_scope="mlp"` gates feed-forward
layers alone, see models/families/hydra/block.py. A block is one layer, or with `mor_sharing="middle_cycle"` all those
between the first and the last (Middle-Cycle of Bae et al. 2025), which then are the only ones to recur.
`routing="static"` weighs in serving too: no shape depends on data.

Curriculum, owned by this class alone: `schedule` (pure in progress) and `after_step` (the loss gate), both kept in
persistent buffers. MoD is off at first; from `mod_from` on it opens once the loss is below `mod_gate_loss` and ramps
over `mod_ramp_steps`; at `mod_forced` it opens anyway and is fully open a tenth of the training later. From
`mod_skip_from` on what is added to the tokens that serving will skip fades to nothing in a tenth of the training, which
closes the gap between the two. MoR runs at full depth until `mor_from` and adapts fully from `mor_full` on. Experts are
dense during `moe_dense`.

Domains: until `domain_until` the expert routers of rows whose source is in `domain_experts` also learn from
`domain_loss` times -ln of the probability they give that source's experts (`teaching_loss`); the choice itself is
never overruled, and rows of other sources, serving and fine-tuning know nothing of it.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from athanor.data.loader import Batch
from athanor.kernels.rope import rope_table
from athanor.models.families.hydra.block import ExpertLayer, HydraBlock, Routed
from athanor.models.families.hydra.ccgqa import CCGQAState, Positions
from athanor.models.families.hydra.moe import ALPHA_START, Choices, positions_among
from athanor.models.families.hydra.probes import DepthProbe, ExpertProbe, SkipProbe, mean_loss, routing_gap
from athanor.models.families.hydra.recipe import HydraRecipe, ParameterKind
from athanor.models.families.hydra.routing import LinearRouter, Routing, Sample, calibrate
from athanor.models.maps import AttentionShare, Map, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context, LanguageModel
from athanor.models.tally import Means, Tally

LOSS_MEMORY = 0.99  # decay of the running mean of the loss that opens MoD
MOD_FORCED_RAMP = 0.1  # of the training
MOD_SKIP_RAMP = 0.1


class Hydra(LanguageModel):
    """CCGQA + MoD + MoR + MoE."""

    smallest_shares = ("expert_load_min",)
    progress: Tensor
    mod_floor: Tensor
    mod_skip: Tensor
    mor_adaptive: Tensor
    moe_dense: Tensor
    mod_ramp: Tensor
    loss_mean: Tensor
    loss_steps: Tensor

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        self.section = section = recipe.section(HydraRecipe)
        self.cacheable = section.mod_infer == "threshold" or section.capacity == 1
        if not self.cacheable:
            warnings.warn(
                "hydra.mod_infer=topk lets later tokens of a document decide about earlier ones: scores are optimistic "
                "and decoding cannot be cached; mod_infer=threshold avoids both",
                stacklevel=2,
            )
        self.weighs = section.routing == "static"  # weigh in serving as in training, skip nothing
        shape = section.layers_of_blocks(recipe.n_layers)
        blocks = (HydraBlock(recipe, section, layers, place, len(shape)) for place, layers in enumerate(shape))
        self.blocks = cast("Sequence[HydraBlock]", nn.ModuleList(blocks))
        self.expert_layers = cast(
            "Sequence[ExpertLayer]",
            nn.ModuleList(ExpertLayer(recipe, section) for _ in range(section.moe_layers)),
        )
        self._experts_after = {
            after: number for number, after in enumerate(positions_among(len(shape), section.moe_layers))
        }
        self._experts_of_SE: Tensor | None = None  # bool, by source; all of them where a source is not mapped
        self._thresholds = [router for block in self.blocks for router in block.thresholds]
        self._samples: list[list[Sample]] = [[] for _ in self._thresholds]  # of this step's micro-batches
        for name in (
            "progress",
            "mod_floor",
            "mod_skip",
            "mor_adaptive",
            "moe_dense",
            "mod_ramp",
            "loss_mean",
            "loss_steps",
        ):
            self.register_buffer(name, torch.zeros((), dtype=torch.float32))

    @property
    def repeating_layers(self) -> tuple[int, int] | None:
        same = self.section.mor_sharing != "middle_cycle" and not self.section.moe_layers
        return (3, 1) if same else None  # the first block and the last skip nothing

    def embed(self, ids_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(ids_BT)
        return x_BTD * self.recipe.d_model**0.5 if self.section.scale_embedding else x_BTD

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        positions, routing = self._positions(x_BTD, context), self._routing(x_BTD, context)
        found: list[dict[str, Tensor]] = []
        routed_of_block: list[Routed] = []
        choices_of_layer: list[Choices] = []
        for place, block in enumerate(self.blocks):
            states = None if context.cache is None else context.cache.layers[place]
            x_BTD, losses, routed = block(x_BTD, positions, routing, states)
            found.append(losses)
            routed_of_block.append(routed)
            number = self._experts_after.get(place)
            if number is not None:
                x_BTD, losses, choices = self.expert_layers[number](x_BTD, routing, number)
                found.append(losses)
                choices_of_layer.append(choices)
        if self.training:
            samples = (sample for routed in routed_of_block for sample in routed.samples)
            for of_router, sample in zip(self._samples, samples, strict=True):
                of_router.append(sample)
            context.aux |= self._weighted(found, routing.counted_BT.sum(1))
        if context.tallied_BT is not None:
            _show(context.tally, routed_of_block, choices_of_layer, context.tallied_BT)
        return x_BTD

    def _positions(self, x_BTD: Tensor, context: Context) -> Positions:
        rope = rope_table(context.position_BT, self.recipe.head_dim, self.recipe.rope_base)
        return Positions(context.offset, context.position_BT.expand(x_BTD.shape[:2]), rope, context.span)

    def _routing(self, x_BTD: Tensor, context: Context) -> Routing:
        mod_open = torch.maximum(self.mod_floor, self.mod_ramp)
        serving = not self.training and not self.weighs
        skipping = 0.0
        if serving or (self.training and self.section.mod_skip_from is not None):
            skipping = float(mod_open == 1) * (1.0 if serving else float(self.mod_skip))
        every_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        return Routing(
            counted_BT=every_BT if context.counted_BT is None else context.counted_BT,
            doc_start_BT=context.doc_start_BT,
            row_key_B=context.row_key_B,
            taught_BE=self._taught(context),
            mod_open=mod_open,
            mor_adaptive=self.mor_adaptive,
            moe_dense=self.moe_dense,
            skipping=skipping,
            gather=serving,
        )

    def _taught(self, context: Context) -> Tensor | None:
        if self._experts_of_SE is None or context.source_B is None or self.progress >= self.section.domain_until:
            return None
        return self._experts_of_SE[context.source_B]

    def _weighted(self, found: list[dict[str, Tensor]], counted_B: Tensor) -> dict[str, Tensor]:
        """Auxiliary losses of the model from those `[B]` of its layers: their mean over the layers and, by the tokens
        that count in each, over the rows, times its weight."""
        recipe, section = self.recipe, self.section
        depth = self.effective_layers
        weights = {
            "mod": section.mod_loss * depth / 32 * math.sqrt(recipe.d_model / 768),
            "ponder": section.ponder_loss,
            "moe": section.moe_loss,
            "domain": section.domain_loss,
        }
        by_name: dict[str, list[Tensor]] = defaultdict(list)
        for losses in found:
            for name, loss_B in losses.items():
                by_name[name].append(loss_B)
        share_B = counted_B / counted_B.sum().clamp(min=1)
        means = {name: (torch.stack(losses_B).mean(0) * share_B).sum() for name, losses_B in by_name.items()}
        return {name: weights.get(name, 1.0) * mean for name, mean in means.items()}

    def new_layer_states(self) -> list[list[list[CCGQAState]]]:
        return [block.new_states() for block in self.blocks]

    @property
    def effective_layers(self) -> int:
        """Layers a token passes at full depth, repetitions counted."""
        return sum(block.recursions * len(block.layers) for block in self.blocks)

    @property
    def residual_writes(self) -> int:
        return 2 * self.effective_layers

    def init_weights(self, seed: int) -> None:
        super().init_weights(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, LinearRouter):
                    module.reset()
            for buffer in (self.mod_ramp, self.loss_mean, self.loss_steps):
                buffer.zero_()

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name.endswith(("attention.beta", "mor.embedding.weight")):  # the latter would drown unscaled tokens
            parameter.zero_()
        elif name.endswith("ffn.alpha"):
            parameter.fill_(ALPHA_START)
        elif name.endswith(("conv.weight", "mixing.weight")):
            scale_preserving = parameter[0].numel() ** -0.5  # smaller, and the head means alone would speak
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, scale_preserving, generator=generator))
        else:
            super().init_parameter(name, parameter, generator)
            if name.endswith("experts.down"):
                parameter.div_(self.residual_writes**0.5)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Decayed parameters, then the others; further groups where the section scales learning rate or decay."""
        section, groups = self.section, defaultdict(list)
        for name, parameter in self.named_parameters():
            kind = _kind(name)
            lr, decay = (
                (1.0, 1.0) if kind is None else (section.lr_scale.get(kind, 1.0), section.decay_scale.get(kind, 1.0))
            )
            groups[weight_decay * decay if self.decays(name, parameter) else 0.0, lr].append(parameter)
        return [{"params": found, "weight_decay": decay, "lr_scale": lr} for (decay, lr), found in groups.items()]

    def schedule(self, progress: float) -> dict[str, float]:
        section = self.section
        skip_from = section.mod_skip_from
        skip = 0.0 if skip_from is None else _ramp(progress, skip_from, skip_from + MOD_SKIP_RAMP)
        if not section.curriculum:
            return {"progress": progress, "mod_floor": 1.0, "mod_skip": skip, "mor_adaptive": 1.0, "moe_dense": 0.0}
        return {
            "progress": progress,
            "mod_floor": _ramp(progress, section.mod_forced, section.mod_forced + MOD_FORCED_RAMP),
            "mod_skip": skip,
            "mor_adaptive": _ramp(progress, section.mor_from, section.mor_full),
            "moe_dense": float(progress < section.moe_dense),
        }

    def begin_training(self, sources: Sequence[str]) -> None:
        section = self.section
        if not section.domain_experts:
            return
        everyone = range(section.experts)
        mapped = [section.domain_experts.get(source, everyone) for source in sources]
        marks = [[expert in experts for expert in everyone] for experts in mapped]
        self._experts_of_SE = torch.tensor(marks, device=self.progress.device)

    def begin_step(self, step_key: int) -> None:
        self._samples = [[] for _ in self._thresholds]

    @torch.no_grad()
    def after_step(self, loss: float) -> None:
        section = self.section
        self.loss_steps.add_(1)
        self.loss_mean.lerp_(torch.full_like(self.loss_mean, loss), 1.0 - LOSS_MEMORY)
        mean = self.loss_mean / (1.0 - LOSS_MEMORY**self.loss_steps)  # as if it had begun at the first loss
        opens = (self.progress >= section.mod_from) & (mean < section.mod_gate_loss)
        opens = opens | (self.progress >= section.mod_forced) | (self.mod_ramp > 0)
        self.mod_ramp.add_(opens / section.mod_ramp_steps).clamp_(max=1)
        calibrate(self._thresholds, self._samples, _sum_over_ranks)
        self._samples = [[] for _ in self._thresholds]

    def diagnostics(self, means: Means) -> dict[str, float]:
        """How far MoD is open; as means over the layers: share of tokens above the threshold and above r = 1/2,
        variance of r, mean depth, largest and smallest share of an expert, divergence of the experts on some tokens."""
        found: dict[str, list[float]] = defaultdict(list)
        for name, parts in means.items():
            if name.startswith("mod_gate "):
                mean, square = parts
                found["mod_variance"].append(max(0.0, square - mean * mean))
            elif name.startswith("expert_load "):
                found["expert_load_max"].append(max(parts))
                found["expert_load_min"].append(min(parts))
            else:
                found[name] += parts
        mod_open = float(torch.maximum(self.mod_floor, self.mod_ramp))
        return {**{name: fmean(values) for name, values in found.items()}, "mod_open": mod_open}

    def probes(self) -> Sequence[Probe]:
        blocks, experts = list(self.blocks), [layer.ffn for layer in self.expert_layers]
        layers = [layer for block in blocks for layer in block.layers]
        probes: list[Probe] = [AttentionShare([(layer.attention_norm, layer.attention) for layer in layers])]
        if self.section.capacity < 1:
            probes.append(SkipProbe(blocks, self.section.capacity))
        if any(block.mor is not None for block in blocks):
            probes.append(DepthProbe(blocks, self.section.recursions))
        return [*probes, ExpertProbe(experts)] if experts else probes

    def maps(self, batches: Iterable[Batch]) -> list[Map]:
        batches = list(batches)
        found = super().maps(batches)
        if self.weighs or self.section.capacity == 1:
            return found
        served = mean_loss(self, batches)
        self.weighs = True
        try:
            return [*found, routing_gap(served, mean_loss(self, batches))]
        finally:
            self.weighs = False

    def active_parameters(self) -> int:
        section = self.section
        experts = [weight.numel() for layer in self.expert_layers for weight in layer.ffn.experts.parameters()]
        idle = sum(experts) * (section.experts - section.experts_per_token) // max(1, section.experts)
        return super().active_parameters() - idle

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        return 2.0 * sum(block.cache_values_per_token(context_tokens) for block in self.blocks)

    def body_flops_per_token(self, context_tokens: float) -> float:
        """In training, and where routing is static, every token is computed."""
        serving = not self.training and not self.weighs
        experts = sum(layer.ffn.flops_per_token() for layer in self.expert_layers)
        return experts + sum(block.flops_per_token(context_tokens, serving) for block in self.blocks)


@torch.no_grad()
def _show(tally: Tally, routed: Sequence[Routed], choices: Sequence[Choices], counted_BT: Tensor) -> None:
    """Tally what the blocks and the expert layers decided. What all add under one name becomes the mean over them; the
    others are a number of each, computed from these means."""
    for place, of_block in enumerate(routed):
        if of_block.gate is not None:
            gate_BT = of_block.gate.logit_BT.double().sigmoid()
            tally.add("mod_passing", of_block.gate.chosen_BT, counted_BT)
            tally.add("mod_above_half", gate_BT > 0.5, counted_BT)
            tally.add(f"mod_gate {place}", torch.stack((gate_BT, gate_BT.square()), dim=-1), counted_BT)
        if of_block.depths is not None:
            tally.add("mor_depth", of_block.depths.depth_BT, counted_BT)
    for layer, of_layer in enumerate(choices):
        tally.add(f"expert_load {layer}", of_layer.share_BTE, counted_BT)
        if of_layer.compared is not None:
            tally.add("expert_divergence", *of_layer.compared)


def _ramp(progress: float, start: float, stop: float) -> float:
    """0 until `start`, 1 from `stop`, linear between."""
    return min(1.0, max(0.0, (progress - start) / (stop - start)))


def _kind(name: str) -> ParameterKind | None:
    """What the scales of the section call a parameter."""
    if name == "embedding.weight":
        return "embedding"
    owners = name.split(".")
    kinds: dict[str, ParameterKind] = {"embedding": "recursion", "router": "router", "experts": "expert"}
    return next((kind for owner, kind in kinds.items() if owner in owners), None)


def _sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
