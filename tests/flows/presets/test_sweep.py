"""A sweep is one run for each value, and commas in brackets or quotes are part of a value."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.flows.presets.preset import load_preset
from athanor.flows.presets.sweep import settings_of


def test_every_combination_is_a_run_in_order():
    assert settings_of([]) == [()]
    assert settings_of(["pretrain.peak_lr=1e-3, 3e-3", "model.n_layers=2,4"]) == [
        ("pretrain.peak_lr=1e-3", "model.n_layers=2"),
        ("pretrain.peak_lr=1e-3", "model.n_layers=4"),
        ("pretrain.peak_lr=3e-3", "model.n_layers=2"),
        ("pretrain.peak_lr=3e-3", "model.n_layers=4"),
    ]


def test_values_with_commas_stay_whole():
    phases = "[{seq_len_tokens: 64, until_fraction: 0.5}]"
    runs = settings_of([f"pretrain.length_phases=null,{phases}", 'data.sources.math.text="a, {b}",text'])
    loaded = [load_preset("quickstart", list(settings)) for settings in runs]
    assert [preset.pretrain.length_phases is None for preset in loaded] == [True, True, False, False]
    assert [preset.data.sources["math"].text for preset in loaded] == ["a, {b}", "text", "a, {b}", "text"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("pretrain.peak_lr", "write it as key=value,value"),
        ("pretrain.peak_lr=1e-3", "give two values or more"),
        ("pretrain.peak_lr=1e-3,1e-3", "give two values or more"),
        ("pretrain.peak_lr=1e-3,[", "a bracket or a quote is left open"),
    ],
)
def test_a_mistake_is_one_line_with_an_example(sweep, message):
    with pytest.raises(UserError, match=message) as raised:
        settings_of([sweep])
    assert "\n" not in str(raised.value)
