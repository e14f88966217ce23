"""Every engine makes the run that one process makes: two ranks on this machine, through the real launchers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from trainer_stop import Stop

from athanor.core.rows import read_rows
from athanor.core.runtime import Runtime
from athanor.models.checkpoints.portable import load_portable
from athanor.tasks.trainer.process.commands import command
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.process.launch import run_trainer
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec

PLANTED = Path(__file__).parent / "planted"
STEPS, SAVES = 14, 4
BAD_STEPS = (6, 10, 11, 12)  # one is passed over; three in a row roll back to the anchor at step 8
RECIPE = {
    "steps": STEPS,
    "eval_every_steps": 7,
    "average_from": 0.5,
    "guard": {"anchor_steps": SAVES, "skips": 3, "rollbacks": 1},
}
LOSS, GRAD_NORM = 1e-6, 1e-5  # relative
DIAGNOSTIC = 1e-5  # likewise
WEIGHT = 3e-5  # absolute: where a gradient is as small as its rounding, Adam makes a step of the learning rate of that
# Engine -> the engine and the step of the checkpoint it goes on from, which that engine wrote; None begins the run.
# So ranks go 1 -> 2 -> 1 and checkpoints DDP -> FSDP2 -> ZeRO-2, ZeRO-3 -> ZeRO-1, and from each back to one process.
BEGINS_FROM: dict[str, tuple[str, int] | None] = {
    "ddp": ("single", SAVES),
    "fsdp": ("ddp", 2 * SAVES),
    "deepspeed-2": ("fsdp", 3 * SAVES),
    "deepspeed-3": None,
    "deepspeed-1": ("deepspeed-3", SAVES),
}
ENGINES = [pytest.param(name, marks=pytest.mark.slow) if "-" in name else name for name in BEGINS_FROM]
FAMILIES = {
    "polychromatic": {"n_layers": 3},
    "hydra": {"n_layers": 3, "hydra": {"experts": 4, "moe_layers": 1, "recursions": 2, "capacity": 0.5}},
    "huginn": {
        "n_layers": 3,
        "huginn": {"mean_recurrence": 4, "backprop_depth": 2, "prelude_layers": 1, "coda_layers": 1},
    },
    "swa_mla": {
        "n_layers": 3,
        "swa_mla": {"window": 16, "kv_rank": 8, "qk_nope_dim": 8, "qk_rope_dim": 8, "v_dim": 8, "dropout": 0.2},
    },
}
FAMILIES["huginn draws"] = {**FAMILIES["huginn"], "huginn": {**FAMILIES["huginn"]["huginn"], "draws_per_step": 3}}


def begun(engine: str) -> int:
    """Steps that were done when the engine took over."""
    origin = BEGINS_FROM[engine]
    return origin[1] if origin is not None else 0


def runtime_of(engine: str) -> dict[str, Any]:
    name, _, stage = engine.partition("-")
    return {"engine": name, "ranks": 2, "micro_batch_rows": 2} | ({"zero_stage": int(stage)} if stage else {})


def start_on(folder: Path, runtime: dict[str, Any]) -> Runtime:
    """Let the run go on with other settings of the runtime."""
    fields = json.loads((folder / "run.json").read_text())
    fields["runtime"] |= {"engine": "auto", "ranks": 1, "zero_stage": None} | runtime
    (folder / "run.json").write_text(json.dumps(fields))
    return read_spec(folder).runtime


def at_step(run: Path, step: int, target: Path) -> Path:
    """A copy of a run as it was when `step` steps were saved."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("rows", "bad_samples.jsonl"))
    for checkpoint in (target / "checkpoints").iterdir():
        if checkpoint.name != f"step-{step:08d}":
            shutil.rmtree(checkpoint)
    return target


def curve(folder: Path) -> dict[tuple[str, int], list[float]]:
    found = {}
    for row in read_rows(folder / "metrics.jsonl"):
        if row["kind"] == "step":
            found["step", row["step"]] = [row["loss"]]
            found["norm", row["step"]] = [row["grad_norm"]]
        elif row["kind"] == "eval":
            found["eval", row["step"]] = [m["loss"] for m in row["held_out"].values()]
    return found


def assert_same_run(folder: Path, expected: Path) -> None:
    found, wanted = curve(folder), curve(expected)
    assert found.keys() == wanted.keys()
    for place, values in wanted.items():
        assert found[place] == pytest.approx(values, rel=GRAD_NORM if place[0] == "norm" else LOSS), place


def rows_read(folder: Path) -> dict[tuple[int, int], str]:
    """(step, slot) -> what was read there."""
    lines = [json.loads(line) for line in (folder / "rows").read_text().splitlines()]
    return {(step, slot): json.dumps(row) for step, slot, *row in lines if step < STEPS}


def plant(patch: pytest.MonkeyPatch) -> None:
    """In this process what PLANTED does in the ranks."""
    spec = importlib.util.spec_from_file_location("planted", PLANTED / "sitecustomize.py")
    assert spec is not None
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    planted.install(patch.setattr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, write_run):
    """`runs(engine)`: the vanilla run under it, made once."""
    root = tmp_path_factory.mktemp("engines")
    made: dict[str, Path] = {}

    def run(engine: str) -> Path:
        if engine in made:
            return made[engine]
        begins_from = BEGINS_FROM.get(engine)
        if begins_from is None:
            every = {"permanent_every_steps": SAVES, "checkpoint_every_steps": SAVES}
            folder = write_run(root, engine, train=RECIPE, runtime=every)
        else:
            folder = at_step(run(begins_from[0]), begins_from[1], root / engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ROWS_READ", str(folder / "rows"))
            patch.setenv("BAD_STEPS", json.dumps(BAD_STEPS))
            if engine == "single":
                plant(patch)
                train(folder, Stop())
            else:
                patch.setenv("PYTHONPATH", os.pathsep.join([str(PLANTED), *sys.path]))
                run_trainer(folder, lambda row: None, start_on(folder, runtime_of(engine)))
        made[engine] = folder
        return folder

    return run


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_norms_and_held_out_losses_are_those_of_one_process(runs, engine):
    assert_same_run(runs(engine), runs("single"))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ranks_read_the_samples_that_one_process_reads(runs, engine):
    alone = rows_read(runs("single"))
    assert len(alone) == STEPS * 8
    assert rows_read(runs(engine)) == {place: row for place, row in alone.items() if place[0] >= begun(engine)}


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_steps_are_passed_over_and_rolled_back(runs, engine):
    folder = runs(engine)
    assert json.loads((folder / "summary.json").read_text())["rollbacks"] == 1
    noted = [(row["step"], row["slot"]) for row in read_rows(folder / "bad_samples.jsonl") if row["loss"] == "nan"]
    assert noted == [(step, 3) for step in BAD_STEPS if step > begun(engine)]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_portable_checkpoint_is_the_average_that_one_process_delivers(runs, engine):
    weights, expected = (load_file(runs(name) / "model.safetensors") for name in (engine, "single"))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=WEIGHT)
    load_portable(runs(engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_process_goes_on_from_the_engines_checkpoint(runs, engine, tmp_path, monkeypatch):
    folder = at_step(runs(engine), min(begun(engine) + SAVES, STEPS), tmp_path / "alone")
    start_on(folder, {})
    monkeypatch.setenv("ROWS_READ", str(tmp_path / "rows"))
    monkeypatch.setenv("BAD_STEPS", json.dumps(BAD_STEPS))
    plant(monkeypatch)
    train(folder, Stop())
    assert_same_run(folder, runs("single"))


def test_conversations_of_uneven_length_teach_ranks_what_they_teach_one_process(make_run, corpus):
    section = FAMILIES["hydra"]["hydra"] | {"mor": "token_choice", "router_jitter": 0.1}
    model = {"family": "hydra", "vocab_size": corpus.vocab_size, "d_model": 32, "n_heads": 2, "n_kv_heads": 1}
    model |= {"head_dim": 16, "d_ff": 48, "max_seq_len": 128, "n_layers": 3, "hydra": section}
    before = make_run("before", model=model, train={"steps": 3})
    train(before, Stop())
    fields = {"model": model, "objective": "sft", "init_dir": str(before), "mixture": None}
    fields |= {"shard_dirs": {"chat": str(corpus.root / "chat")}, "runtime": {"micro_batch_rows": 8}}
    fields |= {"train": {"steps": 4, "seq_len_tokens": 128, "batch_tokens": 8 * 128}}
    alone, together = make_run("alone", **fields), make_run("together", **fields)
    train(alone, Stop())
    run_trainer(together, lambda row: None, start_on(together, runtime_of("ddp")))
    assert_same_run(together, alone)
    assert_same_diagnostics(together, alone)


@pytest.mark.parametrize(
    ("mode", "engine", "optimizer"),
    [
        ("polychromatic", "fsdp", "adamw"),
        ("hydra", "fsdp", "lion"),
        ("huginn", "ddp", "sophia-g"),
        ("huginn draws", "fsdp", "adamw"),
        ("swa_mla", "ddp", "adamw"),
    ],
)
def test_uneven_families_and_other_optimizers_learn_the_same(make_run, corpus, mode, engine, optimizer):
    model = {"family": mode.split()[0], "vocab_size": corpus.vocab_size, "d_model": 32, "n_heads": 2, "n_kv_heads": 1}
    model |= {"head_dim": 16, "d_ff": 48, "max_seq_len": 96, **FAMILIES[mode]}
    fields = {"model": model, "train": {"steps": 6, "optimizer": optimizer}, "runtime": {"micro_batch_rows": 8}}
    alone, together = make_run("alone", **fields), make_run("together", **fields)
    train(alone, Stop())
    run_trainer(together, lambda row: None, start_on(together, runtime_of(engine)))
    assert_same_run(together, alone)
    assert_same_diagnostics(together, alone)


def assert_same_diagnostics(folder: Path, expected: Path) -> None:
    """Every step says of all rows what one process says of them in one slice."""
    found, wanted = (
        [row["aux"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"] for run in (folder, expected)
    )
    assert len(found) == len(wanted)
    for ours, alone in zip(found, wanted, strict=True):
        assert ours == pytest.approx(alone, rel=DIAGNOSTIC)


ENDLESS = {"train": {"steps": 1_000_000, "eval_every_steps": 1_000_000}, "runtime": {"checkpoint_every_steps": 50_000}}


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The training processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if "athanor.tasks.trainer" in line and line[-1] == str(folder) and "--module" not in line:
            found.append(process)
    return found


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "step"]


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in (folder / "checkpoints").iterdir()]


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_killed_rank_ends_the_others_and_an_interrupted_launcher_saves_them_all(make_run):
    folder = make_run("run", **ENDLESS)
    runtime = start_on(folder, runtime_of("ddp") | {"checkpoint_every_steps": 2})

    def kill(row):
        if row["kind"] == "step" and row["step"] == 5:
            ranks = ranks_of(folder)
            assert len(ranks) == 2
            ranks[1].kill()

    with pytest.raises(Preempted):
        run_trainer(folder, kill, runtime)
    assert ranks_of(folder) == []

    def interrupt(row):
        if row["kind"] == "event":
            resumed.append(row["message"])
        elif row["step"] > reached:
            raise KeyboardInterrupt

    resumed: list[str] = []
    reached = steps(folder)[-1] + 2
    with pytest.raises(KeyboardInterrupt):
        run_trainer(folder, interrupt, runtime)
    assert ranks_of(folder) == []
    assert "resumed at step" in resumed[0]
    assert f"step-{steps(folder)[-1]:08d}" in checkpoints(folder)
    said = json.loads((folder / "outcome.json").read_text())
    assert (said["exit"], said["message"]) == (75, f"stopped at step {steps(folder)[-1]}: SIGTERM")


def test_ranks_whose_flow_was_killed_save_and_stop(make_run):
    folder = make_run("run", **ENDLESS)
    start_on(folder, runtime_of("ddp"))
    code = (
        "import sys, pathlib; from athanor.tasks.trainer.process.launch import run_trainer;"
        "from athanor.tasks.trainer.start import read_spec;"
        "folder = pathlib.Path(sys.argv[1]); run_trainer(folder, lambda row: None, read_spec(folder).runtime)"
    )
    flow = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    wait_until(lambda: len(steps(folder)) >= 3, 120)
    launcher = ranks_of(folder)[0].parent()
    flow.kill()
    flow.wait()
    wait_until(lambda: not ranks_of(folder) and not launcher.is_running(), 30)
    assert checkpoints(folder) == [f"step-{steps(folder)[-1]:08d}"]
    said = json.loads((folder / "outcome.json").read_text())
    assert said["exit"] == 75
    assert f"parent process {flow.pid} is gone" in said["message"]


def test_two_machines_meet_at_the_rendezvous(make_run, free_port):
    alone, together = make_run("alone", train={"steps": 4}), make_run("together", train={"steps": 4})
    train(alone, Stop())
    runtime = start_on(together, {"engine": "ddp", "nodes": 2, "rendezvous": f"127.0.0.1:{free_port}"})
    other = subprocess.Popen(command(together, runtime, node=1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    said: list[str] = []
    run_trainer(together, lambda row: said.append(row.get("message", "")), runtime)
    assert other.wait(30) == 0
    assert "waiting for node 1; run there" in said[0]
    assert_same_run(together, alone)
