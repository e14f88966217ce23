"""DeepSpeed ZeRO: optimizer state (1), gradients (2) and parameters (3) sharded, if asked for kept in host memory.

The optimizer is the trainer's own, given to DeepSpeed as the client's; learning rate and slices stay the trainer's too.
It makes one vector of all parameters, whose state is read and written here by AdamW's names, so AdamW it must be.
Parameters are fp32 and computed under torch's autocast, as in the other engines; DeepSpeed's own bf16 and its lowered
communication types are off. Every rank must use the same parameters in a slice, which all families do.

DeepSpeed's checkpoints are pickles, so it writes none: parameters and optimizer state are assembled through its
documented `GatheredParameters`, `safe_get_full_*` and `safe_set_full_*` into the checkpoint that every engine reads.
That takes 12 bytes of host memory a parameter on every rank while a checkpoint is written or read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from athanor.core.runtime import Runtime
from athanor.models.memory import Layout
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Computation, Engine
from athanor.tasks.trainer.engines.kind import EngineKind
from athanor.tasks.trainer.process.launchers import DeepSpeedRunner
from athanor.tasks.trainer.process.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")
T = TypeVar("T")
DEFAULT_STAGE = 2
LIVE_PARAMETERS, BUCKET_PARAMETERS = 1_000_000_000, 500_000_000  # DeepSpeed's own, which the configuration leaves alone
NO_STEP_YET = -1  # micro_step_id of stages 1 and 2 between steps


class ZeroEngine(Engine):
    """ZeRO. DeepSpeed clips inside its step, so `clip` only measures."""

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        world: World,
        runtime: Runtime,
        grad_clip: float,
        autocast: torch.dtype,
    ):
        import deepspeed  # takes seconds
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at the first start; gloo serves
        self._stage = runtime.zero_stage or DEFAULT_STAGE
        self._gathered = deepspeed.zero.GatheredParameters
        self._named = dict(model.named_parameters())
        config = _config(self._stage, runtime.offload, world.size, grad_clip, autocast)
        initialized: tuple[Any, ...] = deepspeed.initialize(
            model=Computation(model), optimizer=optimizer, config=config, dist_init_required=False
        )
        self._zero, sharded = initialized[:2]
        super().__init__(model, sharded, world)
        self._create_moments()

    def slice(self, last: bool) -> AbstractContextManager:
        self._zero.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, objective: Tensor) -> None:
        self._zero.backward(objective * self.world.size, scale_wrt_gas=False)  # the exchange averages

    def clip(self, max_norm: float) -> Tensor:
        """The norm; infinite where it is not finite. The clipping itself is configured."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        sharded: Any = self.optimizer
        if self._stage < 3:
            return sharded.scaled_global_norm()
        return combine_grad_norm_groups(sharded._get_norm_groups())

    def update(self, lr: float) -> None:
        self._set_lr(lr)
        self._zero.step()

    def discard(self) -> None:
        """As DeepSpeed itself does on an overflow."""
        sharded: Any = self.optimizer
        sharded.zero_grad(set_to_none=True)
        if self._stage < 3:
            sharded.micro_step_id = NO_STEP_YET
            for group in sharded.averaged_gradients:
                sharded.averaged_gradients[group] = sharded.all_grad_tensors[group] = None
        if self._offloaded:
            sharded.reset_cpu_buffers()

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._zero(function, *arguments)

    def opened(self, parameter: nn.Parameter) -> AbstractContextManager:
        return self._gathered([parameter], modifier_rank=0) if self._stage == 3 else nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors = {f"model.{name}": buffer for name, buffer in self._buffers().items()}
        step = next(iter(self._moments().values()))["step"]
        for name, parameter in self._named.items():
            tensors[f"model.{name}"] = self._whole(parameter)
            for moment in MOMENTS:
                full: Any = safe_get_full_optimizer_state(parameter, moment)
                tensors[f"optimizer.{name}.{moment}"] = full.view(parameter_shape(parameter)).cpu()
            tensors[f"optimizer.{name}.step"] = step.cpu().clone()
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for name, parameter in self._named.items():
            value = tensors[f"model.{name}"].to(parameter.device)
            with self.opened(parameter):
                parameter.data.copy_(value)
            safe_set_full_fp32_param(parameter, value)
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, tensors[f"optimizer.{name}.{moment}"].to(value.device), moment)
        step = tensors[f"optimizer.{next(iter(self._named))}.step"]
        for state in self._moments().values():
            state["step"].copy_(step)

    def weights(self) -> dict[str, Tensor]:
        whole = self._buffers() | {name: self._whole(parameter) for name, parameter in self._named.items()}
        return {name: whole[name] for name in self.model.state_dict() if name in whole} if self.world.first else {}

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        with self.opened(parameter):
            return parameter.detach().cpu().clone()

    def _buffers(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: state[name] for name, _ in self.model.named_buffers() if name in state}

    @property
    def _offloaded(self) -> bool:
        return self._zero.zero_offload_optimizer() is not None

    def _moments(self) -> dict[Any, Any]:
        """AdamW's state of each flat shard."""
        return self.optimizer.optimizer.state  # pyright: ignore[reportAttributeAccessIssue]

    def _create_moments(self) -> None:
        """AdamW's state before the first step, for `tensors` to find."""
        sharded: Any = self.optimizer
        flats = sharded.single_partition_of_fp32_groups if self._stage < 3 else sharded.fp32_partitioned_groups_flat
        for flat in flats:
            step = torch.zeros((), dtype=torch.float32, device=flat.device)
            self._moments()[flat] = {"step": step, **{moment: torch.zeros_like(flat) for moment in MOMENTS}}
        if self._stage < 3:
            sharded._lazy_init_hp_params_optimizer_state()


def parameter_shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter, however it is sharded."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _config(stage: int, offload: str, ranks: int, grad_clip: float, autocast: torch.dtype) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    lowered = autocast != torch.float32
    return {
        "train_micro_batch_size_per_gpu": 1,  # bookkeeping of DeepSpeed's; slices end where `slice` says
        "gradient_accumulation_steps": 1,
        "train_batch_size": ranks,
        "gradient_clipping": grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on the host too, and needs no compiler
        "torch_autocast": {
            "enabled": lowered,
            "dtype": str(autocast).removeprefix("torch."),
            "lower_precision_safe_modules": [],
        },
    }


def _layout(runtime: Runtime) -> Layout:
    """Stages 1 and 2 update a copy of the weights, as does any optimizer in host memory."""
    stage = runtime.zero_stage or DEFAULT_STAGE
    return Layout(
        runtime.world_size,
        stage=stage,
        live_parameters=LIVE_PARAMETERS if stage == 3 else 0,
        bucket_parameters=BUCKET_PARAMETERS,
        copies_weights=stage < 3 or runtime.offload != "none",
        offload=runtime.offload,
    )


DECLARED = EngineKind(
    name="deepspeed",
    launcher=DeepSpeedRunner(),
    build=lambda parts: ZeroEngine(
        parts.model, parts.make_optimizer(parts.model), parts.world, parts.runtime, parts.grad_clip, parts.autocast
    ),
    layout=_layout,
)
