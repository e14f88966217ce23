"""What a run happens on: its devices, how fast and how large each is, and what each costs.

Prices stand in flows/plan/prices.yaml, a user's own in ATHANOR_HOME/prices.yaml; `runtime.price_usd_per_hour` beats
both. All are of one device, and a run pays for as many as it holds (`Runtime.devices`). The price of a device nobody
has named is unknown, which is not nothing.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.core.near import did_you_mean
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime
from athanor.core.validation import mistakes

SHIPPED = Path(__file__).with_name("prices.yaml")


class Offer(Recipe):
    """One entry of a price table."""

    usd_per_hour: float = Field(ge=0, description="Of one device")
    memory_gib: float | None = Field(default=None, gt=0, description="Of one device; for `athanor plan --on`")


@dataclass(frozen=True)
class Machine:
    """`devices` alike. The figures are of each: `peak_flops_per_s` is dense bf16 and infinite where unknown;
    `memory_bytes` and `usd_per_hour` are None where unknown."""

    name: str
    device_type: str
    devices: int
    memory_bytes: int | None
    peak_flops_per_s: float
    usd_per_hour: float | None
    price_source: str

    def usd(self, wall_s: float | None) -> float | None:
        """What all devices cost for so long; None where the time or the price is unknown."""
        if wall_s is None or self.usd_per_hour is None:
            return None
        return wall_s / 3600 * self.usd_per_hour * self.devices


def this_machine(runtime: Runtime) -> Machine:
    """What torch sees here. Raises UserError for fewer GPUs than ranks, for a precision that the device lacks, and for
    a price table that is not valid."""
    import torch

    from athanor.models.device import choose_device, choose_precision, peak_flops

    device = choose_device(runtime.device)
    choose_precision(runtime.precision, device)
    if device.type == "cpu":
        name, memory_bytes = _processor(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        name = torch.cuda.get_device_name(device)
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    price, source = _price(name, runtime)
    choose_device(runtime.device, runtime.ranks - 1)  # the last rank's, if there are as many
    return Machine(name, device.type, runtime.devices(device.type), memory_bytes, peak_flops(device), price, source)


def rented_machine(name: str, runtime: Runtime) -> Machine:
    """A GPU that is not here, by a name that the price table or the table of peaks knows. UserError for any other."""
    from athanor.models.device import GPUS, peak_flops_of

    peak = peak_flops_of(name)
    offer = _offer(name)
    if offer is None and peak == math.inf:
        known = list(dict.fromkeys([*_table(), *GPUS]))
        raise UserError(f"--on {name}: no such GPU is known; {did_you_mean(name, known)}there are {', '.join(known)}")
    price, source = _price(name, runtime)
    memory_bytes = round(offer[1].memory_gib * 2**30) if offer and offer[1].memory_gib else None
    return Machine(name, "cuda", runtime.devices("cuda"), memory_bytes, peak, price, source)


def priced(runtime: Runtime) -> Runtime:
    """The runtime with its device's price filled in from the table, if it names none and the table knows it."""
    if runtime.price_usd_per_hour:
        return runtime
    return runtime.model_copy(update={"price_usd_per_hour": this_machine(runtime).usd_per_hour or 0.0})


def _price(device_name: str, runtime: Runtime) -> tuple[float | None, str]:
    if runtime.price_usd_per_hour:
        return runtime.price_usd_per_hour, "runtime.price_usd_per_hour"
    offer = _offer(device_name)
    return (None, "price unknown") if offer is None else (offer[1].usd_per_hour, offer[0])


def _offer(device_name: str) -> tuple[str, Offer] | None:
    from athanor.models.device import is_named

    for source in (home() / "prices.yaml", SHIPPED):
        for name, offer in _read(source).items():
            if is_named(device_name, name):
                return str(source) if source != SHIPPED else "flows/plan/prices.yaml", offer
    return None


def _table() -> dict[str, Offer]:
    return {**_read(home() / "prices.yaml"), **_read(SHIPPED)}


def _read(path: Path) -> dict[str, Offer]:
    try:
        fields: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return TypeAdapter(dict[str, Offer]).validate_python(fields)
    except (FileNotFoundError, NotADirectoryError):  # a home that is no folder is told of elsewhere
        return {}
    except ValidationError as error:
        raise UserError(f"{path}: {mistakes(error)}; write `H100: {{usd_per_hour: 2.5}}`") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name or 'CPU'}, {os.cpu_count()} cores"
