"""Weights & Biases: one run there for one run here, and its failures stop nothing."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from trainer_stop import Stop
from wandb_records import logged

from athanor.core.rows import read_rows
from athanor.tasks.trainer.observers.kind import Scene
from athanor.tasks.trainer.observers.wandb_sink import WandbSink
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec


def rows(folder, kind):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == kind]


def test_wandb_keeps_one_id_and_all_its_files_in_the_run_folder(make_run, capfd):
    folder = make_run("run", train={"steps": 3}, runtime={"wandb": "auto"})
    with pytest.raises(Preempted):
        train(folder, Stop(looks=2))
    train(folder, Stop())
    logs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert logs
    assert len({path.name for path in logs}) == 1
    assert not any("wandb" in row["message"] for row in rows(folder, "event"))


def test_a_failing_wandb_is_said_once_and_stops_nothing(make_run, monkeypatch):
    import wandb

    class Broken:
        def log(self, values):
            raise RuntimeError("no network\nreally none")

        def define_metric(self, *names, **options):
            pass

    monkeypatch.setattr(wandb, "init", lambda **options: Broken())
    folder = make_run("run", train={"steps": 3}, runtime={"wandb": "offline"})
    train(folder, Stop())
    messages = [row["message"] for row in rows(folder, "event")]
    assert [said for said in messages if "epochs" not in said and "held-out" not in said] == [
        "started",
        "wandb is off from here on: RuntimeError: no network",
    ]
    assert len(rows(folder, "step")) == 3


@pytest.mark.parametrize(("mode", "rank", "started"), [("offline", 0, True), ("off", 0, False), ("offline", 1, False)])
def test_it_is_started_on_the_first_rank_alone_and_not_when_it_is_off(
    make_run, monkeypatch, tmp_path, mode, rank, started
):
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options) or MagicMock())
    spec = read_spec(make_run("run", runtime={"wandb": mode}))
    sink = WandbSink(Scene(tmp_path, spec, SimpleNamespace(world=World(rank, 2)), pytest.fail))
    sink.begin(0)
    sink.row({"kind": "step", "step": 1, "loss": 2.0})
    assert bool(asked) is started


@pytest.mark.parametrize("key", [None, "a" * 40])
def test_without_a_key_or_a_network_the_run_is_kept_offline_and_how_to_send_it_is_said(
    make_run, monkeypatch, tmp_path, key
):
    monkeypatch.setattr("athanor.tasks.trainer.wandb_run.PATIENCE_S", 1.0)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key may lie
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    folder = make_run("run", train={"steps": 3}, runtime={"wandb": "online"})
    train(folder, Stop())
    (said,) = [row["message"] for row in rows(folder, "event") if "wandb" in row["message"]]
    assert said.startswith("wandb is kept offline: ")
    assert said.endswith(f"; send it later with: wandb sync {folder}/wandb/offline-run-*")
    assert [row["step"] for row in logged(folder)["history"] if "loss" in row] == [1, 2, 3]
    assert logged(folder)["config"]["train"]["steps"] == 3
