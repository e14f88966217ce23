"""Prices: the shipped table, the user's own before it, the runtime before both; mistakes are one line."""

from __future__ import annotations

import math

import pytest

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.flows.plan.machine import priced, rented_machine, this_machine

CPU = Runtime(device="cpu")


def write_prices(home, text):
    home.mkdir(parents=True, exist_ok=True)
    (home / "prices.yaml").write_text(text)


def test_a_processor_costs_nothing_until_somebody_says_so(private_home):
    assert this_machine(CPU).usd_per_hour == 0
    assert priced(CPU).price_usd_per_hour == 0
    name = this_machine(CPU).name.split(",")[0]
    write_prices(private_home, f"{name}: {{usd_per_hour: 0.25}}")
    assert priced(CPU).price_usd_per_hour == 0.25
    assert priced(Runtime(device="cpu", price_usd_per_hour=2.0)).price_usd_per_hour == 2.0


def test_a_rented_gpu_is_known_by_name_and_the_users_price_goes_first(private_home):
    shipped = rented_machine("NVIDIA H100 80GB HBM3", Runtime())
    assert shipped.usd_per_hour > 0 and shipped.price_source == "flows/plan/prices.yaml"
    assert shipped.memory_bytes == 80 << 30 and shipped.peak_flops_per_s == 989e12
    write_prices(private_home, "h100: {usd_per_hour: 1.5, memory_gib: 79}")
    mine = rented_machine("H100", Runtime())
    assert mine.usd_per_hour == 1.5 and mine.price_source == str(private_home / "prices.yaml")
    assert rented_machine("H200", Runtime()).usd_per_hour != 1.5
    assert mine.usd(7200) == 3.0


def test_a_gpu_of_known_speed_and_unknown_price_can_be_planned_for():
    machine = rented_machine("RTX 4090", Runtime())
    assert machine.usd_per_hour == 0 and machine.price_source == "no price known"
    assert machine.peak_flops_per_s < math.inf and machine.memory_bytes is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100: 2.5", "H100: .*write `H100: {usd_per_hour: 2.5}`"),
        ("H100: {usd_per_hour: -1}", "H100.usd_per_hour: .*greater than or equal to 0"),
        ("H100: {", "cannot be read"),
    ],
)
def test_a_price_table_that_is_not_valid_is_named(private_home, text, message):
    write_prices(private_home, text)
    with pytest.raises(UserError, match=message) as caught:
        this_machine(CPU)
    assert str(caught.value).startswith(str(private_home / "prices.yaml")) and "\n" not in str(caught.value)


def test_an_unknown_gpu_is_named_with_those_that_are_known():
    with pytest.raises(UserError, match=r"--on Voodoo2: no such GPU.*H100"):
        rented_machine("Voodoo2", Runtime())
