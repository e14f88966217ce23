"""How many rows go forward and backward at once, from the memory a step will take, and the time. The plan and the
trainer ask here.

On a CPU a slice is as long as the caches like; on a GPU the most rows that fit beside what the engine keeps on a rank,
by models/memory.py. Whatever is chosen, the samples of a step and their weights stay the same.
"""

from __future__ import annotations

from functools import cache, partial

import torch

from athanor.core.runtime import Runtime
from athanor.kernels.kind import asked
from athanor.models.attending import attention_backends
from athanor.models.build import build_on_meta
from athanor.models.counts import flops_per_token
from athanor.models.device import Gpu
from athanor.models.gpu_attention import attention_of_gpus
from athanor.models.memory import StepMemory, largest_micro_batch_rows, step_memory
from athanor.models.model_recipe import ModelRecipe
from athanor.models.roofline import Roofline, roofline
from athanor.models.step_count import Prepare, StepCount, count_step
from athanor.tasks.trainer.engines.kind import engine_of
from athanor.tasks.trainer.optimizers.memory import optimizer_bytes_per_parameter
from athanor.tasks.trainer.step.block_transforms import prepare_blocks
from athanor.tasks.trainer.train_recipe import TrainRecipe

CPU_SLICE_TOKENS = 8_192


def memory_of(model: ModelRecipe, train: TrainRecipe, runtime: Runtime, device_type: str, rows: int) -> StepMemory:
    """Peak bytes on a rank of a step of `rows` of the longest rows; the recipe's vocab_size must be filled in."""
    return step_memory(
        _counted(model, runtime, device_type, rows, train.seq_len_tokens),
        device_type=device_type,
        optimizer_bytes_per_parameter=optimizer_bytes_per_parameter(train, build_on_meta(model)),
        layout=engine_of(runtime).layout(runtime),
    )


def roofline_of(model: ModelRecipe, runtime: Runtime, gpu: Gpu, rows: int, seq_len_tokens: int) -> Roofline:
    """What a micro-batch of `rows` takes on such a GPU; the recipe's vocab_size must be filled in."""
    count = _counted(model, runtime, "cuda", rows, seq_len_tokens)
    return roofline(count, gpu, flops_per_token(model, seq_len_tokens), rows * seq_len_tokens)


def attention_on_gpus(model: ModelRecipe, runtime: Runtime) -> str:
    """Which backends would compute the layers' attention on a GPU, and why no other; the vocabulary must be known."""
    with attention_of_gpus():
        return attention_backends(build_on_meta(model), torch.device("cuda"), _precision(runtime, "cuda"))


def _counted(model: ModelRecipe, runtime: Runtime, device_type: str, rows: int, seq_len_tokens: int) -> StepCount:
    precision = _precision(runtime, device_type)
    every = runtime.recompute_blocks
    return count_step(
        model, rows, seq_len_tokens, precision, device_type, _recomputing(every), every or 1, asked(runtime.kernels)
    )


def _precision(runtime: Runtime, device_type: str) -> torch.dtype:
    whole = runtime.precision == "fp32" or (runtime.precision == "auto" and device_type == "cpu")
    return torch.float32 if whole else torch.bfloat16


@cache
def _recomputing(every: int | None) -> Prepare:
    return partial(prepare_blocks, runtime=Runtime(recompute_blocks=every))


def micro_batch_rows(
    model: ModelRecipe,
    train: TrainRecipe,
    runtime: Runtime,
    device_type: str,
    device_bytes: float | None,
    most_rows: int,
) -> int:
    """Rows of the longest length in a slice, at most `most_rows`: what the operator asks for, else what fits.

    `device_bytes` None, a GPU that is not known, takes one row.
    """
    if runtime.micro_batch_rows is not None:
        return min(runtime.micro_batch_rows, most_rows)
    if device_type == "cpu":
        return min(max(1, CPU_SLICE_TOKENS // train.seq_len_tokens), most_rows)
    if device_bytes is None:
        return 1
    return largest_micro_batch_rows(device_bytes, partial(memory_of, model, train, runtime, device_type), most_rows)
