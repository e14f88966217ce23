"""`athanor plan`: what it says for people and for programs, and where its numbers come from."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from athanor.core.errors import UserError
from athanor.core.numbers import share
from athanor.core.store import Store
from athanor.flows.cli.plan_table import print_plan
from athanor.flows.plan.estimate import Estimator, TrainingEstimate
from athanor.flows.plan.machine import Machine, this_machine
from athanor.flows.plan.plan import make_plan, plan_json
from athanor.flows.plan.survey import Survey
from athanor.flows.plan.training_rate import ALIKE_SIZE, Rate, training_rate
from athanor.flows.presets.preset import load_preset
from athanor.models.counts import flops_per_token
from athanor.models.device import gpu_of
from athanor.tasks.cost import STARTUP_S, TrainingCost
from athanor.tasks.trainer import optimizers
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS
from athanor.tasks.trainer.step.micro_batch import roofline_of

ATHANOR = str(Path(sys.executable).with_name("athanor"))
H100 = Machine("H100", "cuda", 1, 80 << 30, 989e12, 3.0, "given")
ROWS = 4


def page(plan) -> str:
    text = io.StringIO()
    print_plan(plan, Console(file=text))
    return text.getvalue()


def write_log(label: str, flops_per_token: float, flops_per_s: float, utilisation: float, stage="pretrain") -> None:
    folder = Store().root / stage / f"{label}-0123456789ab"
    folder.mkdir(parents=True, exist_ok=True)
    row = {"flops_per_s": flops_per_s, "tokens_per_s": flops_per_s / flops_per_token, "utilisation": utilisation}
    rows = [{"kind": "step", "step": step, **row} for step in range(1, 11)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def rate(small_preset):
    """`training_rate` of the small preset's model on a machine."""

    def of(machine, *overrides):
        preset = small_preset("model.vocab_size=1024", *overrides)
        train = preset.pretrain
        flops = flops_per_token(preset.model, train.seq_len_tokens)
        asked = (Store(), "pretrain", preset.model, flops, train.seq_len_tokens, machine, preset.runtime)
        return training_rate(*asked, lambda: ROWS)

    return of


def test_speed_is_counted_for_a_gpu_and_measured_on_this_kind_of_device_if_it_was_ever(rate, small_preset):
    counted, preset = rate(H100), small_preset("model.vocab_size=1024")
    recipe = preset.model
    utilisation = roofline_of(recipe, preset.runtime, gpu_of("H100"), ROWS, 128).utilisation
    assert counted.flops_per_s == pytest.approx(utilisation * 989e12) and 0 < utilisation < 0.1
    assert counted.source == f"counted, optimistic: {share(utilisation)} of the peak of H100"
    flops = flops_per_token(recipe, 128)
    per_token = flops.forward + flops.backward
    write_log("polychromatic", per_token, flops_per_s=1e9, utilisation=0.0)  # on a device of unknown peak
    assert rate(H100) == counted
    write_log("polychromatic", per_token * ALIKE_SIZE * 1.1, flops_per_s=2e14, utilisation=2e14 / 989e12)
    assert rate(H100) == counted
    write_log("vanilla", per_token, flops_per_s=2e14, utilisation=2e14 / 989e12)
    assert rate(H100) == counted
    write_log("polychromatic", per_token, flops_per_s=2e14, utilisation=2e14 / 989e12)
    measured = rate(H100)
    assert measured.flops_per_s == pytest.approx(2e14)
    assert measured.source == "measured in pretrain/polychromatic-0123456789ab"


def test_a_speed_that_was_not_measured_on_as_many_devices_is_linear_in_them(rate, small_preset):
    eight = replace(H100, devices=8)
    one, counted = rate(H100), rate(eight)
    assert counted.flops_per_s == pytest.approx(8 * one.flops_per_s)
    assert counted.source == f"assumed: linear over 8 devices; {one.source}"
    flops = flops_per_token(small_preset("model.vocab_size=1024").model, 128)
    per_token = flops.forward + flops.backward
    write_log("polychromatic", per_token, flops_per_s=6e14, utilisation=6e14 / (4 * 989e12))  # on four
    found = rate(eight)
    assert found.flops_per_s == pytest.approx(12e14)
    assert found.source.startswith("assumed: linear over 8 devices; measured in pretrain/")
    assert rate(replace(H100, devices=4)).source.startswith("measured in pretrain/")
    write_log("polychromatic", per_token, flops_per_s=1e15, utilisation=1e15 / (8 * 989e12), stage="sft")
    assert rate(eight).flops_per_s == pytest.approx(1e15)


def test_two_optimizers_of_one_name_are_told_before_anything_is_built(small_preset, tmp_path, monkeypatch):
    (tmp_path / "aaa.py").write_text(
        "from athanor.tasks.trainer.optimizers.kind import OptimizerKind\n"
        "DECLARED = OptimizerKind('adamw', defaults={'weight_decay': 0.9}, build=print, state_bytes=print)\n"
    )
    monkeypatch.setattr(optimizers, "__path__", [*optimizers.__path__, str(tmp_path)])
    monkeypatch.delitem(vars(OPTIMIZERS), "table", raising=False)
    with pytest.raises(UserError, match="declares the optimizer 'adamw', which another one does"):
        make_plan(small_preset())


def test_a_model_that_fits_when_it_is_sharded_is_not_refused():
    large = ["model.d_model=4096", "model.d_ff=11008", "model.n_layers=32", "model.vocab_size=2048"]
    large += ["model.n_heads=32", "model.n_kv_heads=8", "model.head_dim=128", "pretrain.batch_tokens=4096"]

    def memory_errors(*runtime):
        plan = make_plan(load_preset("quickstart", [*large, "runtime.ranks=8", *runtime]), on="H100")
        return [finding.message for finding in plan.errors if finding.subject == "memory"]

    (whole,) = memory_errors("runtime.engine=ddp")
    assert "more ranks with engine=fsdp" in whole
    assert memory_errors("runtime.engine=fsdp") == []


def test_on_a_gpu_the_plan_says_by_which_backend_the_layers_attend():
    def attention(*settings, on="H100"):
        return make_plan(load_preset("quickstart", ["model.vocab_size=1024", *settings]), on=on, timing=False).attention

    assert attention() == "4 layers by varlen"
    assert attention("runtime.precision=fp32").startswith("4 layers by reference (varlen: computes in 16 bits")
    assert attention(on=None) is None


@pytest.fixture
def slow(monkeypatch):
    """FLOP/s of each device, whatever it is; reading a model would be all that evaluation takes otherwise."""
    monkeypatch.setattr("athanor.flows.plan.estimate.training_rate", lambda *asked: Rate(1e6 * asked[5].devices, ""))
    return 1e6


def test_all_devices_are_held_and_paid_while_one_of_them_computes(small_preset, slow):
    survey = Survey(small_preset("model.vocab_size=1024"))
    evaluation = next(s for s in survey.needed_by("lifecycle") if s.artifact.label == "word-problems-base")
    one, eight = (Estimator(survey, replace(H100, devices=n)).estimate(evaluation) for n in (1, 8))
    assert one.wall_s == pytest.approx(eight.wall_s) and one.wall_s > 10 * STARTUP_S


def test_a_processor_is_timed_and_a_model_too_large_to_time_is_unknown(rate, small_preset):
    machine = this_machine(small_preset().runtime)
    assert machine.peak_flops_per_s == math.inf
    timed = rate(machine)
    assert "timed here" in timed.source and 1e6 < timed.flops_per_s < 1e13
    assert torch.get_num_threads() >= 1
    assert rate(machine, "model.d_model=2048", "model.n_layers=24", "model.d_ff=8192") is None


def test_the_time_of_a_stage_is_that_of_the_last_of_its_kind(small_preset, publish):
    preset = small_preset()
    survey = Survey(preset)
    stages = survey.needed_by("lifecycle")
    evaluation = next(s for s in stages if s.artifact.label == "word-problems-base")
    assert Estimator(survey, H100).estimate(evaluation).source == "assumed"
    publish(evaluation, wall_s=1234.0)
    again = Survey(small_preset("evaluate.seed=7"))
    evaluation = next(s for s in again.needed_by("lifecycle") if s.artifact.label == "word-problems-base")
    estimate = Estimator(again, H100).estimate(evaluation)
    assert (estimate.wall_s, estimate.source) == (1234.0, "measured before")


def test_training_is_charged_for_the_steps_that_are_left(small_preset, leave_checkpoint):
    preset = small_preset("model.vocab_size=1024")
    survey = Survey(preset)
    stage = next(s for s in survey.needed_by("lifecycle") if s.stage == "pretrain")
    whole = Estimator(survey, H100).estimate(stage)
    assert whole.tokens == 40 * 512
    leave_checkpoint(stage, 30)
    survey = Survey(preset)
    stage = next(s for s in survey.needed_by("lifecycle") if s.stage == "pretrain")
    rest = Estimator(survey, H100).estimate(stage)
    assert (rest.steps, rest.steps_left, rest.step_s) == (40, 10, whole.step_s)
    assert rest.wall_s < whole.wall_s


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("done", [0, 30])
def test_training_takes_the_steps_of_each_phase_and_evaluations_on_every_device(
    small_preset, leave_checkpoint, slow, devices, done
):
    preset = small_preset("model.vocab_size=1024", "pretrain.length_phases=[{seq_len_tokens: 32, until_fraction: 0.5}]")
    train = preset.pretrain
    if done:
        leave_checkpoint(next(s for s in Survey(preset).needed_by("lifecycle") if s.stage == "pretrain"), done)
    survey = Survey(preset)
    stage = next(s for s in survey.needed_by("lifecycle") if s.stage == "pretrain")
    estimator = Estimator(survey, replace(H100, devices=devices))
    found, cost = estimator.estimate(stage), estimator.cost(stage.artifact)
    assert isinstance(found, TrainingEstimate) and isinstance(cost, TrainingCost)
    short, long = (flops_per_token(preset.model, length) for length in (32, train.seq_len_tokens))
    first, second = (train.batch_tokens * (flops.forward + flops.backward) for flops in (short, long))
    assert found.flops == pytest.approx(20 * first + 20 * second)
    left = max(0, 20 - done) * first + min(20, 40 - done) * second
    evaluations = ((40 - done) // train.eval_every_steps + 2) * cost.held_out_sources
    rate = devices * slow
    assert found.step_s == pytest.approx(left / (40 - done) / rate)
    held_out = evaluations * train.eval_tokens * long.forward * devices
    assert found.wall_s == pytest.approx((left + held_out) / rate + STARTUP_S)


def test_of_several_artifacts_alike_the_newest_says_how_long_it_takes(small_preset, publish):
    def evaluation(seed: int):
        survey = Survey(small_preset(f"evaluate.seed={seed}"))
        stages = survey.needed_by("lifecycle")
        return survey, next(s for s in stages if s.artifact.label == "word-problems-base")

    for seed, (wall_s, day) in enumerate([(100.0, 1), (300.0, 3), (200.0, 2)]):
        publish(evaluation(seed)[1], wall_s=wall_s, created=f"2026-01-0{day}T00:00:00+00:00")
    survey, asked = evaluation(9)
    assert Estimator(survey, H100).estimate(asked).wall_s == 300.0


def test_what_a_vocabulary_decides_is_unknown_until_the_tokenizer_is_built(small_preset, publish, monkeypatch):
    monkeypatch.setattr("athanor.flows.plan.plan.access_findings", lambda *_: [])
    preset = small_preset("tokenizer.hub=o/tokenizer")
    plan = plan_json(make_plan(preset))
    pretrain = next(s for s in plan["stages"] if s["stage"] == "pretrain")
    assert plan["model"] is None and plan["memory"] is None
    assert pretrain["wall_s"] is None and re.fullmatch("unknown until tokenizer/.* is built", pretrain["source"])
    assert pretrain["artifact"] in plan["total"]["unknown"]
    assert "parameters unknown until tokenizer/" in page(make_plan(preset))
    publish(next(s for s in Survey(preset).needed_by("data") if s.stage == "tokenizer"))
    assert plan_json(make_plan(preset))["model"]["vocab_size"] == 700


@pytest.mark.parametrize("overrides", [(), ("pretrain.peak_lr=0.001", "runtime.price_usd_per_hour=2")])
def test_the_page_fits_100_columns_and_names_every_artifact(small_preset, publish, overrides):
    for stage in Survey(small_preset()).needed_by("pretrain"):
        publish(stage)
    plan = make_plan(small_preset(*overrides))
    lines = page(plan).splitlines()
    assert max(map(len, lines)) <= 100
    text = re.sub(r"\s+", " ", page(plan))
    for needle in ("pretrain/polychromatic", "report/quickstart", "parameters", "memory", "total", "timed here"):
        assert needle in text
    assert ("train.peak_lr: 0.003 -> 0.001" in text) == bool(overrides)
    assert ("$" in text) == bool(overrides)


def test_a_part_is_planned_with_what_it_needs_and_nothing_else():
    done = subprocess.run([ATHANOR, "plan", "quickstart", "--only", "data", "--json"], capture_output=True, timeout=120)
    assert {stage["stage"] for stage in json.loads(done.stdout)["stages"]} == {"acquire", "tokenizer", "tokenize"}


def test_a_finished_lifecycle_has_nothing_to_build(small_preset, publish):
    for stage in Survey(small_preset()).needed_by("lifecycle"):
        publish(stage)
    plan = make_plan(small_preset())
    assert "nothing to build" in page(plan)
    assert plan.total_s == 0 and plan.memory is None


def test_the_command_plans_for_a_gpu_that_is_not_here_and_writes_json_that_a_program_reads():
    done = subprocess.run(
        [ATHANOR, "plan", "quickstart", "--on", "H100", "--budget-usd", "1", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert set(plan) == {
        "preset",
        "machine",
        "model",
        "stages",
        "memory",
        "attention",
        "total",
        "budget",
        "checks",
        "ok",
    }
    assert plan["ok"] and plan["machine"]["usd_per_hour"] > 0 and plan["budget"]["steps"] == 300
    assert {stage["state"] for stage in plan["stages"]} == {"run"}
    assert plan["total"]["usd"] == pytest.approx(sum(stage["usd"] for stage in plan["stages"]))
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes")
    assert plan["memory"]["total_bytes"] == sum(plan["memory"][part] for part in parts)


def test_a_plan_that_must_fail_says_so_line_by_line_and_run_says_the_same_before_it_starts(tmp_path):
    preset = tmp_path / "broken.yaml"
    preset.write_text("extends: quickstart\ntokenizer: {path: gone}\ndata: {sources: {math: {path: gone.jsonl}}}\n")
    said = []
    for command in ("plan", "run"):
        done = subprocess.run([ATHANOR, command, str(preset)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        said.append(done.stderr.splitlines())
    assert said[0] == said[1]
    assert [line.split(": ")[1] for line in said[0]] == ["data.sources.math", "tokenizer"]
    assert not Store().root.exists()
