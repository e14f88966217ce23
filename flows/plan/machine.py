"""The machine a run happens on: its device, how fast and how large it is, and what it costs.

Prices stand in flows/plan/prices.yaml, a user's own in ATHANOR_HOME/prices.yaml; `runtime.price_usd_per_hour` beats
both. A device nobody has named costs nothing.
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
from athanor.core.recipe import Recipe
from athanor.core.runtime import Runtime

SHIPPED = Path(__file__).with_name("prices.yaml")


class Offer(Recipe):
    """One entry of a price table."""

    usd_per_hour: float = Field(ge=0, description="Of one device")
    memory_gib: float | None = Field(default=None, gt=0, description="Of one device; for `athanor plan --on`")


@dataclass(frozen=True)
class Machine:
    """`peak_flops_per_s` is dense bf16 and infinite where unknown; `memory_bytes` is None where unknown."""

    name: str
    device_type: str
    devices: int
    memory_bytes: int | None
    peak_flops_per_s: float
    usd_per_hour: float
    price_source: str

    def usd(self, wall_s: float) -> float:
        """What the whole machine costs for so long."""
        return wall_s / 3600 * self.usd_per_hour


def this_machine(runtime: Runtime) -> Machine:
    """What torch sees here. Raises UserError for device=cuda without a GPU and for a price table that is not valid."""
    import torch

    from athanor.models.device import choose_device, peak_flops

    device = choose_device(runtime.device)
    if device.type == "cpu":
        name, memory_bytes = _processor(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        name = torch.cuda.get_device_name(device)
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    price, source = _price(name, runtime)
    return Machine(name, device.type, 1, memory_bytes, peak_flops(device), price, source)


def rented_machine(name: str, runtime: Runtime) -> Machine:
    """A GPU that is not here, by a name that the price table or the table of peaks knows. UserError for any other."""
    from athanor.models.device import peak_flops_of

    peak = peak_flops_of(name)
    offer = _offer(name)
    if offer is None and peak == math.inf:
        raise UserError(f"--on {name}: no such GPU in the price table; it has {', '.join(dict(_table()))}")
    price, source = _price(name, runtime)
    memory_gib = offer[1].memory_gib if offer else None
    return Machine(name, "cuda", 1, round(memory_gib * 2**30) if memory_gib else None, peak, price, source)


def priced(runtime: Runtime) -> Runtime:
    """The runtime with this machine's price filled in from the table, if it names none."""
    if runtime.price_usd_per_hour:
        return runtime
    return runtime.model_copy(update={"price_usd_per_hour": this_machine(runtime).usd_per_hour})


def _price(device_name: str, runtime: Runtime) -> tuple[float, str]:
    if runtime.price_usd_per_hour:
        return runtime.price_usd_per_hour, "runtime.price_usd_per_hour"
    offer = _offer(device_name)
    return (0.0, "no price known") if offer is None else (offer[1].usd_per_hour, offer[0])


def _offer(device_name: str) -> tuple[str, Offer] | None:
    for source in (home() / "prices.yaml", SHIPPED):
        for fragment, offer in _read(source).items():
            if fragment.lower() in device_name.lower():
                return str(source) if source != SHIPPED else "flows/plan/prices.yaml", offer
    return None


def _table() -> dict[str, Offer]:
    return {**_read(home() / "prices.yaml"), **_read(SHIPPED)}


def _read(path: Path) -> dict[str, Offer]:
    try:
        fields: Any = yaml.safe_load(path.read_text()) or {}
        return TypeAdapter(dict[str, Offer]).validate_python(fields)
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {where or 'content'}: {first['msg']}; write `H100: {{usd_per_hour: 2.5}}`") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name or 'CPU'}, {os.cpu_count()} cores"
