"""The run on the terminal: every event and evaluation, a step now and then, the last one always."""

from __future__ import annotations

from types import SimpleNamespace

from athanor.tasks.trainer.observers.console import ConsoleLines


def test_events_evaluations_and_the_last_step_are_printed(capsys, monkeypatch):
    monkeypatch.setattr("athanor.tasks.trainer.observers.console.time.monotonic", lambda: 100.0)
    scene = SimpleNamespace(spec=SimpleNamespace(train=SimpleNamespace(steps=3)))
    console = ConsoleLines(scene)
    rates = {"loss": 2.5, "lr": 1e-3, "tokens_per_s": 1234.5, "eta_s": 134.0, "cost_usd": 0.5}
    console.row({"kind": "event", "step": 0, "message": "started"})
    console.row({"kind": "eval", "step": 0, "held_out": {"one": {"loss": 3.0, "bits_per_byte": 1.5}}})
    for step in (1, 2, 3):
        console.row({"kind": "step", "step": step, **rates})
    assert capsys.readouterr().out.replace("\u00a0", " ").splitlines() == [
        "step 0: started",
        "step 0: held-out one 3.0000 nats/token 1.5000 bits/byte",
        "step 1/3  loss 2.5000  lr 1.00e-03  1,234 tok/s  2 min 14 s left  $0.50",
        "step 3/3  loss 2.5000  lr 1.00e-03  1,234 tok/s  2 min 14 s left  $0.50",
    ]
    console.row({"kind": "step", "step": 3, **rates, "cost_usd": 0.0})
    assert "$" not in capsys.readouterr().out  # nobody knows the price
