"""The kill harness itself: it kills, it finishes, and it would see a difference."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.core.store import Artifact
from athanor.flows.cli.chaos import _differences, _loss_difference

TINY = (
    *("pretrain.steps=40", "pretrain.batch_tokens=1024", "pretrain.eval_every_steps=20", "pretrain.eval_tokens=512"),
    *("sft.train.steps=12", "sft.train.batch_tokens=1024", "sft.train.eval_tokens=512", "sft.source.max_documents=400"),
    *("data.sources.math.max_documents=800", "data.sources.stem.max_bytes=60000", "data.sources.code.max_bytes=60000"),
    *("tokenizer.vocab_size=400", "model.d_model=32", "model.n_layers=2", "runtime.wandb=off"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "kills"), [((), 3), (("--engines",), 2)], ids=["one-engine", "engines"])
def test_a_run_that_is_killed_several_times_ends_as_an_undisturbed_one(options, kills):
    command = [sys.executable, "-m", "athanor.flows.cli.chaos", "quickstart-vanilla", *options]
    command += ["--kills", str(kills), "--seed", "1"]
    for setting in TINY:
        command += ["--set", setting]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["kills"] == kills
    assert tally["runs_compared"] >= 1
    assert tally["differences"] == []
    assert tally["largest_loss_difference"] <= 1e-5


def test_a_bit_that_differs_is_seen(tmp_path):
    for home in ("peace", "storm"):
        folder = tmp_path / home / "store" / "pretrain" / "vanilla-0123456789ab"
        folder.mkdir(parents=True)
        save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
        (folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "loss": 2.0, "step_s": 0.1}\n')
    assert _differences(tmp_path / "peace", tmp_path / "storm") == []
    weights = load_file(folder / "model.safetensors")
    weights["weight"][0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    save_file(weights, folder / "model.safetensors")
    (folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "loss": 2.0, "step_s": 9.9}\n')
    name = Artifact("pretrain", "vanilla", "0123456789ab", folder).name
    assert _differences(tmp_path / "peace", tmp_path / "storm") == [f"{name}: other weights"]
    shutil.rmtree(folder)
    assert len(_differences(tmp_path / "peace", tmp_path / "storm")) == 2


def test_a_loss_that_differs_and_a_row_that_is_missing_are_seen(tmp_path):
    rows = [
        {"kind": "step", "step": 1, "loss": 2.0, "step_s": 0.1},
        {"kind": "eval", "step": 1, "held_out": {"math": {"loss": 4.0}}},
    ]

    def write(home: str, rows: list) -> None:
        folder = tmp_path / home / "store" / "pretrain" / "vanilla-0123456789ab"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    write("peace", rows)
    for changed, difference in [
        (rows, 0.0),
        ([{**rows[0], "loss": 2.1, "step_s": 9.9}, rows[1]], 0.05),
        ([rows[0], {**rows[1], "held_out": {"math": {"loss": 3.0}}}], 0.25),
        (rows[:1], float("inf")),
    ]:
        write("storm", changed)
        assert _loss_difference(tmp_path / "peace", tmp_path / "storm") == pytest.approx(difference)
