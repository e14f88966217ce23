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


def test_the_price_of_a_processor_is_unknown_until_somebody_says_it(private_home):
    assert this_machine(CPU).usd_per_hour is None and this_machine(CPU).usd(3600) is None
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
    assert machine.usd_per_hour is None and machine.price_source == "price unknown"
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


@pytest.mark.parametrize(("asked", "meant"), [("H1000", "H100"), ("h20", "H200"), ("RTX 40900", "RTX 4090")])
def test_a_gpu_is_known_by_whole_words_and_the_nearest_name_is_offered(asked, meant):
    with pytest.raises(UserError, match=f"^--on {asked}: no such GPU is known; did you mean {meant}\\? "):
        rented_machine(asked, Runtime())


def test_a_price_is_that_of_one_device_and_all_that_are_held_are_paid():
    eight = Runtime(engine="fsdp", ranks=4, nodes=2, rendezvous="a:1", price_usd_per_hour=2.0)
    rented = rented_machine("H100", eight)
    assert (rented.devices, rented.usd_per_hour, rented.usd(1800)) == (8, 2.0, 8.0)
    assert this_machine(eight.model_copy(update={"device": "cpu"})).devices == 2  # whatever the ranks


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: type("P", (), {"total_memory": 80 << 30}))
    assert this_machine(Runtime(ranks=2)).devices == 2
    with pytest.raises(UserError, match=r"ranks is more than the 2 GPUs"):
        this_machine(Runtime(ranks=3))
