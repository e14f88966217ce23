"""Where, in what precision and with which kernels to compute, and how fast the device could be."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.kernels.kind import asked, switch


class Gpu(NamedTuple):
    """What a data sheet promises: dense bf16 FLOP/s, and bytes a second between the chip and its memory."""

    peak_flops_per_s: float
    memory_bytes_per_s: float


# By words of the device's name; the vendors' data sheets. First match wins.
GPUS = {
    "B200": Gpu(2250e12, 8.0e12),
    "H200": Gpu(989e12, 4.8e12),
    "H100 PCIe": Gpu(756e12, 2.0e12),
    "H100 NVL": Gpu(835e12, 3.9e12),
    "H100": Gpu(989e12, 3.35e12),
    "A100 SXM4 40GB": Gpu(312e12, 1.555e12),
    "A100 PCIE 40GB": Gpu(312e12, 1.555e12),
    "A100": Gpu(312e12, 2.039e12),
    "A10G": Gpu(70e12, 0.6e12),
    "L40S": Gpu(362e12, 0.864e12),
    "L4": Gpu(121e12, 0.3e12),
    "RTX 5090": Gpu(209e12, 1.792e12),
    "RTX 4090": Gpu(165e12, 1.008e12),
    "RTX 3090": Gpu(71e12, 0.936e12),
}


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` takes a GPU if there is one, that of the process's place on its machine: by its number, as process groups
    and wrappers want it. UserError where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "runtime.device=cuda, but torch sees no GPU: use device=cpu or auto, or install a CUDA build of torch"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank and local_rank >= (found := torch.cuda.device_count()):
        raise UserError(
            f"runtime.ranks is more than the {found} GPUs torch sees on this machine: lower it, or use device=cpu"
        )
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def set_up(runtime: Runtime) -> None:
    """This process computes with the threads and the kernels that the runtime, or ATHANOR_KERNELS, says. UserError for
    a kernel that is not there."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    switch(asked(runtime.kernels))


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The autocast type: `auto` is bfloat16 on GPUs that compute it natively, else float32; `fp8` is bfloat16 around
    matrix products in float8. UserError for bf16 or fp8 on a device without it."""
    if name == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        what = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
        raise UserError(
            f"runtime.precision=fp8, but {what} has no float8 matrix products (Hopper, Ada and later do): use bf16"
        )
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "bf16" and device.type == "cuda" and not native:
        raise UserError(
            f"runtime.precision=bf16, but {torch.cuda.get_device_name(device)} has no native bf16: use precision=fp32"
        )
    return torch.bfloat16 if name in ("bf16", "fp8") or (name == "auto" and native) else torch.float32


def peak_flops(device: torch.device) -> float:
    """Dense bf16 peak in FLOP/s; infinity when unknown, so that utilisation reads 0 and not a wrong number."""
    if device.type != "cuda":
        return math.inf
    return peak_flops_of(torch.cuda.get_device_name(device))


def peak_flops_of(device_name: str) -> float:
    """The same by the device's name."""
    gpu = gpu_of(device_name)
    return math.inf if gpu is None else gpu.peak_flops_per_s


def gpu_of(device_name: str) -> Gpu | None:
    """What is known of the GPU of that name; None of others."""
    return next((gpu for name, gpu in GPUS.items() if is_named(device_name, name)), None)


def is_named(device_name: str, name: str) -> bool:
    """Whether a device's full name, such as NVIDIA A100-SXM4-80GB, has the words of `name` in it, one after another;
    H100 is no part of H1000, nor L4 of L40S."""
    have, words = (re.findall(r"[a-z0-9]+", text.lower()) for text in (device_name, name))
    return bool(words) and any(have[i : i + len(words)] == words for i in range(len(have)))
