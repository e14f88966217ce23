"""What the run at Weights & Biases has of a training, and is given by the report on it."""

from __future__ import annotations

import json

import pytest
import wandb
from trainer_stop import Stop
from wandb_records import logged

from athanor.core.runtime import Runtime
from athanor.core.store import Artifact
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.wandb_run import add_report, sync_command

MEASURED = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 90, "higher_is_better": True, "chance": 0.25}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c636060606000000005000165f62cda0000000049454e44ae426082"
)


@pytest.fixture
def report(tmp_path):
    """A folder such as the report stage fills."""
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "report.html").write_text("<!doctype html><title>a report</title>")
    for name in ("map-usage", "pretrain-loss"):
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
    return folder


def test_the_run_holds_configuration_curves_scores_maps_and_report(make_run, report):
    folder = make_run("run", train={"steps": 3, "eval_every_steps": 1}, runtime={"wandb": "offline"})
    train(folder, Stop())
    trained = logged(folder)
    assert trained["config"] | {"_wandb": None} == json.loads((folder / "run.json").read_text()) | {"_wandb": None}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["loss"] for row in trained["history"] if "loss" in row] == [row["loss"] for row in steps]
    names = set().union(*trained["history"])
    assert {"lr", "grad_norm", "tokens_per_s", *(f"mix/{source}" for source in steps[0]["mix"])} <= names
    assert any(name.startswith("held_out/") and name.endswith("/bits_per_byte") for name in names)

    model = Artifact("pretrain", "run", "0" * 64, folder)
    add_report(report, model, {"sums": {"metrics": {"acc": MEASURED}}}, Runtime(wandb="offline"), pytest.fail)
    added = logged(report)
    assert added["id"] == trained["id"]
    assert added["summary"]["benchmarks/sums/acc/value"] == 0.5 and added["summary"]["benchmarks/sums/acc/n"] == 90
    assert added["summary"]["report/map-usage"]["_type"] == "image-file"
    assert added["summary"]["report/page"]["_type"] == "html-file" and "report/pretrain-loss" not in added["summary"]
    assert (report / "wandb").is_dir() and len(list((folder / "wandb").glob("offline-run-*"))) == 1


def test_nothing_is_written_into_the_report_once_it_is_given(make_run, report):
    folder = make_run("run", train={"steps": 3}, runtime={"wandb": "offline"})
    train(folder, Stop())

    def sizes() -> dict[str, int]:
        return {str(path): path.stat().st_size for path in report.rglob("*") if path.is_file()}

    add_report(report, Artifact("pretrain", "run", "0" * 64, folder), {}, Runtime(wandb="offline"), pytest.fail)
    published = sizes()
    wandb.teardown()  # as at the end of the process
    assert sizes() == published


@pytest.mark.parametrize("mode", ["off", "offline"])
def test_a_training_that_told_nothing_gets_no_report(report, tmp_path, mode):
    add_report(report, Artifact("pretrain", "run", "0" * 64, tmp_path), {}, Runtime(wandb=mode), pytest.fail)
    assert not (report / "wandb").exists()


def test_the_command_names_the_folder_as_it_is_when_it_is_whole(tmp_path):
    found = sync_command(tmp_path / ".mine-0123.partial")
    assert found == f"wandb sync {tmp_path}/mine-0123/wandb/offline-run-*"
