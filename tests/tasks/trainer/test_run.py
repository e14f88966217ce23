"""Whole runs in this process: what they leave behind, how they stop and continue."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainer_stop import Stop

from athanor.core.errors import UserError
from athanor.core.rows import read_rows
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.loader import MixtureLoader
from athanor.data.phases import Phase
from athanor.models.checkpoints.portable import load_portable
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.records.ledger import ledger_total
from athanor.tasks.trainer.records.metrics import reproducible_rows
from athanor.tasks.trainer.run import train
from athanor.tasks.trainer.start import read_spec

CHAT_ROWS = {"seq_len_tokens": 96, "batch_tokens": 4 * 96}  # a conversation has about 75 tokens


def rows(folder, kind):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == kind]


def test_a_run_logs_every_step_and_leaves_a_portable_checkpoint(make_run, corpus):
    folder = make_run("run", family="polychromatic", train={"steps": 12, "eval_every_steps": 5})
    train(folder, Stop())
    steps = rows(folder, "step")
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.3
    assert steps[-1]["tokens"] == 12 * 256
    assert steps[0]["lr"] == pytest.approx(3e-3 / 2)
    taus = [row["schedule"]["tau"] for row in steps]
    assert taus == pytest.approx([1 - 0.9 * step / 12 for step in range(12)])
    mixture = MixtureRecipe(start={"one": 0.7, "two": 0.3}, end=None, anneal_fraction=0.2)
    shard_dirs = {source: corpus.root / source for source in ("one", "two")}
    loader = MixtureLoader(shard_dirs, mixture, seed=0, steps=12, phases=(Phase(0, 32, 8),))
    assert [row["mix"] for row in steps] == [loader.counts(step) for step in range(12)]
    assert [row["step"] for row in rows(folder, "eval")] == [0, 5, 10, 12]
    assert load_portable(folder).tau == pytest.approx(0.1)
    assert steps[-1]["cost_usd"] == pytest.approx(ledger_total(folder).usd, abs=0.01)
    assert json.loads((folder / "heartbeat.json").read_text())["step"] >= 1


def test_a_stopped_run_saves_says_so_and_continues_to_the_same_end(make_run):
    whole, cut = make_run("whole"), make_run("cut")
    train(whole, Stop())
    with pytest.raises(Preempted, match="stopped at step 4: SIGTERM"):
        train(cut, Stop(looks=5))
    assert [path.name for path in (cut / "checkpoints").iterdir()] == ["step-00000004"]
    assert [row["step"] for row in rows(cut, "eval")] == [0], "stopping does not wait for an evaluation"
    train(cut, Stop())
    assert reproducible_rows(cut) == reproducible_rows(whole)
    weights, expected = load_file(cut / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [row["message"].split(";")[0] for row in rows(cut, "event")] == [
        "started",
        "epochs of each source: one 0.178, two 0.0716",
        "held-out tokens that an evaluation reads: one 221 of 250 (88.4\u00a0%), two 253 of 279 (90.7\u00a0%)",
        "preempted: SIGTERM",
        "resumed at step 4",
    ]


def test_stopping_before_the_first_step_leaves_nothing_to_resume_and_loses_nothing(make_run):
    whole, cut = make_run("whole", train={"steps": 3}), make_run("cut", train={"steps": 3})
    train(whole, Stop())
    with pytest.raises(Preempted):
        train(cut, Stop(looks=1))
    train(cut, Stop())
    assert reproducible_rows(cut) == reproducible_rows(whole)


def test_a_torn_checkpoint_is_reported_and_the_run_ends_the_same(make_run):
    whole = make_run("whole")
    cut = make_run("cut", runtime={"checkpoint_every_steps": 3})
    train(whole, Stop())
    with pytest.raises(Preempted):
        train(cut, Stop(looks=9))
    with open(next((cut / "checkpoints" / "step-00000008").glob("*.safetensors")), "ab") as file:
        file.write(b"?")
    train(cut, Stop())
    messages = [(row["step"], row["message"]) for row in rows(cut, "event")]
    assert (6, "resumed at step 6") in messages
    assert any(step == 6 and "step-00000008 is damaged" in text for step, text in messages)
    assert reproducible_rows(cut) == reproducible_rows(whole)


def test_running_a_finished_run_again_changes_no_row(make_run):
    folder = make_run("run", train={"steps": 3})
    train(folder, Stop())
    before = reproducible_rows(folder)
    train(folder, Stop())
    assert reproducible_rows(folder) == before


def test_resuming_on_other_shards_is_refused_naming_both_fingerprints(make_run, corpus):
    folder = make_run("run")
    with pytest.raises(Preempted):
        train(folder, Stop(looks=3))
    spec = read_spec(folder)
    swapped = spec.model_copy(update={"shard_dirs": {"one": spec.shard_dirs["two"], "two": spec.shard_dirs["one"]}})
    (folder / "run.json").write_text(swapped.model_dump_json())
    with pytest.raises(UserError, match=r"written for loader_fingerprint \w{64}, this run has \w{64}"):
        train(folder, Stop())


def test_fine_tuning_starts_from_the_base_and_keeps_its_schedule_at_the_end(make_run, corpus):
    base = make_run("base", family="polychromatic", train={"steps": 3})
    train(base, Stop())
    chat = {
        "family": "polychromatic",
        "objective": "sft",
        "shard_dirs": {"chat": str(corpus.root / "chat")},
        "mixture": None,
        "init_dir": str(base),
        "train": {"steps": 3, "peak_lr": 0.0} | CHAT_ROWS,
    }
    frozen = make_run("frozen", **chat)
    train(frozen, Stop())
    before, after = load_file(base / "model.safetensors"), load_file(frozen / "model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == []

    save_file(before | {"tau": torch.tensor(0.7)}, base / "model.safetensors")
    warm = make_run("warm", **chat)
    train(warm, Stop())
    assert reproducible_rows(warm) == reproducible_rows(frozen), (
        "a base that stopped before its schedule's end is taken to it"
    )

    tuned = make_run("tuned", **(chat | {"train": {"steps": 8, "peak_lr": 3e-3} | CHAT_ROWS}))
    train(tuned, Stop())
    steps = rows(tuned, "step")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [row["schedule"]["tau"] for row in steps] == pytest.approx([0.1] * 8)
    assert list(rows(tuned, "eval")[-1]["held_out"]) == ["chat"]

    other = make_run("other", **(chat | {"family": "vanilla"}))
    with pytest.raises(UserError, match="model is not the model of init_dir"):
        train(other, Stop())
