"""A run that must fail fails before it starts, one line for each reason; what is cached needs no hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from athanor.core.disk import home
from athanor.core.errors import UserError
from athanor.data import tokenizer
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.hub_access import Access, Repository
from athanor.data.hub_commits import commit_of
from athanor.data.tokenizer import build_tokenizer
from athanor.flows.plan import preflight, training_rate
from athanor.flows.plan.plan import check_ready, make_plan
from athanor.flows.plan.preflight import (
    Finding,
    access_findings,
    disk_finding,
    foreseen_findings,
    hub_findings,
    learn_commits,
    recipe_findings,
    version_findings,
)
from athanor.flows.plan.survey import Survey
from athanor.flows.plan.training_rate import Rate
from athanor.tasks import evaluate
from athanor.tasks.stage import Foreseen

HUB = ("data.sources.math.hub=o/math", "tokenizer.hub=o/tokenizer", "evaluate.tasks.gsm8k.name=gsm8k")


@pytest.fixture
def hub(monkeypatch):
    """The hub's answers by repository; open where nothing is set. Notes what was asked."""
    answers, asked = {}, []

    def answer(kind, repo, revision=None):
        asked.append((kind, repo))
        return answers.get(repo, Access("open"))

    monkeypatch.setattr(preflight, "hub_access", answer)
    return answers, asked


def survey(preset):
    return Survey(preset).needed_by("lifecycle")


def test_every_hub_id_that_is_still_read_is_asked_once(small_preset, hub):
    findings = access_findings(small_preset(*HUB), survey(small_preset(*HUB)), {})
    assert sorted(hub[1]) == [("dataset", "o/math"), ("dataset", "openai/gsm8k"), ("model", "o/tokenizer")]
    assert [(f.level, f.subject) for f in findings] == [
        ("ok", "data.sources.math: hub o/math"),
        ("ok", "tokenizer: hub o/tokenizer"),
        ("ok", "evaluate.tasks.gsm8k: hub openai/gsm8k"),
    ]


def test_what_is_cached_in_the_store_asks_nobody(small_preset, publish, hub):
    for stage in survey(small_preset(*HUB)):
        publish(stage)
    assert access_findings(small_preset(*HUB), survey(small_preset(*HUB)), {}) == []
    assert hub[1] == []


FIRST, SECOND = "1a" * 20, "2b" * 20


def test_a_branch_that_moves_on_changes_no_key_and_is_said_with_the_remedy(small_preset, hub):
    preset = small_preset(*HUB)
    for repo in ("o/math", "o/tokenizer", "openai/gsm8k"):
        hub[0][repo] = Access("open", commit=FIRST)
    before = make_plan(preset, timing=False)
    assert sorted(hub[1]) == sorted(set(hub[1])), "each repository is asked once"
    assert {f.message for f in before.findings if "hub o/" in f.subject} == {f"can be read, at {FIRST[:12]}"}
    recipes = {(s.stage, s.artifact.label): s.wanted.recipe for s, _ in before.stages}
    assert recipes["acquire", "math"].identity["commit"] == FIRST
    assert recipes["tokenizer", "tokenizer"].pinned.hub_revision == FIRST
    assert recipes["evaluate", "gsm8k-base"].commits == {"openai/gsm8k": FIRST}

    hub[0]["o/math"] = Access("open", commit=SECOND)
    after = make_plan(preset, timing=False)
    assert [s.artifact.key for s, _ in after.stages] == [s.artifact.key for s, _ in before.stages]
    (moved,) = (f for f in after.findings if f.level == "warning" and "hub o/math" in f.subject)
    assert moved.message == f"has moved on to {SECOND[:12]} and is read at {FIRST}; hub_revision: {SECOND} takes it"

    hub[0]["o/math"] = Access("open", commit=SECOND)
    pinned = make_plan(small_preset(*HUB, f"data.sources.math.hub_revision={SECOND}"), timing=False)
    keys = {s.stage: s.artifact.key for s, _ in pinned.stages}
    assert keys["acquire"] != before.stages[0][0].artifact.key


def test_a_commit_that_was_seen_needs_no_hub_and_another_home_may_see_another(small_preset, hub, monkeypatch, tmp_path):
    def key():
        stages = survey(small_preset(*HUB))
        return next(s.artifact.key for s in stages if (s.stage, s.artifact.label) == ("acquire", "math"))

    hub[0]["o/math"] = Access("open", commit=FIRST)
    learn_commits(small_preset(*HUB))
    first = key()
    hub[0]["o/math"] = Access("unreachable", "out of reach")
    learn_commits(small_preset(*HUB))
    assert key() == first
    monkeypatch.setenv("ATHANOR_HOME", str(tmp_path / "other"))
    hub[0]["o/math"] = Access("open", commit=SECOND)
    learn_commits(small_preset(*HUB))
    assert key() != first


def test_a_copy_in_the_cache_is_read_at_its_own_commit_where_the_hub_is_out_of_reach(
    small_preset, hub, monkeypatch, tmp_path
):
    hub[0].update({repo: Access("offline", "offline") for repo in ("o/math", "o/tokenizer", "openai/gsm8k")})
    monkeypatch.setattr(tokenizer, "cached_tokenizer_file", lambda *_: Path("snapshots") / FIRST / "tokenizer.json")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path))
    (tmp_path / "openai___gsm8k" / "main" / "0.0.0" / SECOND).mkdir(parents=True)
    (tmp_path / "openai___gsm8k" / "main" / "0.0.0" / f"{SECOND}_builder.lock").touch()
    (tmp_path / "o___math" / "default" / "0.0.0" / SECOND).mkdir(parents=True)
    learn_commits(small_preset(*HUB))
    assert commit_of(Repository("model", "o/tokenizer")) == FIRST
    assert commit_of(Repository("dataset", "openai/gsm8k")) == SECOND
    assert commit_of(Repository("dataset", "o/math", streamed=True)) is None


def test_copies_of_several_commits_fix_none_and_a_copy_of_another_is_of_no_use(small_preset, hub, monkeypatch):
    preset = small_preset("evaluate.tasks.gsm8k.name=gsm8k")
    hub[0]["openai/gsm8k"] = Access("unreachable", "out of reach")
    copies = {FIRST, SECOND}
    monkeypatch.setattr(preflight, "_cached_copies", lambda repo: copies)
    assert [f.level for f in hub_findings(preset, "lifecycle")] == ["warning"]
    assert commit_of(Repository("dataset", "openai/gsm8k")) is None
    copies.remove(SECOND)
    assert [f.level for f in hub_findings(preset, "lifecycle")] == ["warning"]
    assert commit_of(Repository("dataset", "openai/gsm8k")) == FIRST
    copies.clear()
    copies.add(SECOND)
    assert [f.message for f in hub_findings(preset, "lifecycle") if f.level == "error"] == ["out of reach"]


def test_a_branch_that_moved_on_is_said_of_what_is_still_built_alone(small_preset, publish, hub):
    preset = small_preset("data.sources.math.hub=o/math")
    hub[0]["o/math"] = Access("open", commit=FIRST)
    assert [f.level for f in hub_findings(preset, "data")] == ["ok"]
    hub[0]["o/math"] = Access("open", commit=SECOND)
    assert ["has moved on" in f.message for f in hub_findings(preset, "data")] == [True]
    for stage in survey(preset):
        publish(stage)
    hub[1].clear()
    assert hub_findings(preset, "data") == [] and hub[1] == []
    assert ["has moved on" in f.message for f in hub_findings(preset, "data", ["acquire"])] == [True]


def test_a_preset_without_the_hub_surveys_nothing_for_it(small_preset, monkeypatch):
    monkeypatch.setattr(preflight, "Survey", None)
    assert hub_findings(small_preset(), "lifecycle") == []


def test_no_access_fails_the_run_with_a_line_for_each(small_preset, hub):
    hub[0]["o/math"] = Access("gated", "gated; ask")
    hub[0]["o/tokenizer"] = Access("renamed", "renamed to o/new")
    with pytest.raises(UserError) as caught:
        check_ready(small_preset(*HUB), "lifecycle")
    assert str(caught.value).splitlines() == [
        "data.sources.math: hub o/math: gated; ask",
        "tokenizer: hub o/tokenizer: renamed to o/new",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["runtime.ranks=3"], "pretrain: batch_tokens=512 are 4 rows, which 3 ranks cannot share equally"),
        (
            ["runtime.ranks=2", "runtime.engine=fsdp", "sft.train.optimizer=adafactor"],
            "sft.train: runtime.engine=fsdp shar",
        ),
    ],
)
def test_ranks_that_cannot_train_a_recipe_fail_the_plan(small_preset, settings, message):
    (error,) = (f for f in make_plan(small_preset(*settings), timing=False).errors if f.subject in message)
    assert f"{error.subject}: {error.message}".startswith(message)


def test_a_kernel_that_is_not_there_fails_the_plan(small_preset):
    (error,) = make_plan(small_preset("runtime.kernels=swigl"), timing=False).errors
    assert error.subject == "kernels"
    assert error.message.startswith("runtime.kernels=swigl: no kernel 'swigl': did you mean swiglu?")


def test_kernels_are_part_of_no_key(small_preset):
    plain, without = (make_plan(small_preset(*s), timing=False) for s in ([], ["runtime.kernels=none"]))
    keys = [[stage.artifact.key for stage, _ in plan.stages] for plan in (plain, without)]
    assert keys[0] == keys[1] != []


def test_bits_per_byte_of_sources_that_hold_nothing_out_fail_the_plan(small_preset):
    settings = [f"data.sources.{name}.held_out_fraction=0" for name in ("math", "stem", "code")]
    preset = small_preset(*settings, "evaluate.tasks.held-out={name: bits_per_byte}")
    assert any("no source holds any text out" in f.message for f in recipe_findings(preset))
    preset = small_preset(*settings[1:], "evaluate.tasks.held-out={name: bits_per_byte}")
    assert recipe_findings(preset) == []


def test_only_what_the_chosen_part_reads_is_asked(small_preset, hub):
    hub[0]["openai/gsm8k"] = Access("gated", "gated; ask")
    check_ready(small_preset(*HUB), "data")


def test_an_unreachable_hub_is_a_warning_where_a_copy_is_cached_and_else_an_error(small_preset, hub, monkeypatch):
    gone = Access("unreachable", "out of reach")
    hub[0].update({repo: gone for repo in ("o/math", "o/tokenizer", "openai/gsm8k")})
    monkeypatch.setattr(tokenizer, "cached_tokenizer_file", lambda *_: Path("tokenizer.json"))
    monkeypatch.setattr(preflight, "_cached_copies", lambda repo: {FIRST} if repo == "openai/gsm8k" else set())
    levels = [f.level for f in access_findings(small_preset(*HUB), survey(small_preset(*HUB)), {})]
    assert levels == ["error", "warning", "warning"]


def test_every_mistake_of_a_recipe_is_found_at_once_and_the_hub_is_asked_all_the_same(small_preset, hub, tmp_path):
    (tmp_path / "empty.txt").touch()
    preset = small_preset(
        *HUB,
        f"data.sources.stem.path={tmp_path / 'empty.txt'}",
        "data.sources.code.path=missing.jsonl",
        "evaluate.tasks.wrong.name=gsm9k",
    )
    hub[0]["o/tokenizer"] = Access("missing", "not found")
    subjects = [f.subject for f in make_plan(preset).errors]
    assert subjects == ["data.sources.stem", "data.sources.code", "evaluate.tasks.wrong", "tokenizer: hub o/tokenizer"]
    messages = [f.message for f in recipe_findings(preset)]
    assert "holds nothing" in messages[0] and "no such file" in messages[1] and "gsm9k" in messages[2]


def test_a_vocabulary_smaller_than_the_tokenizers_fails_the_plan(small_preset, publish):
    preset = small_preset("model.vocab_size=500")
    publish(next(stage for stage in survey(preset) if stage.stage == "tokenizer"))
    (error,) = make_plan(preset).errors
    assert error.message.startswith("model.vocab_size=500 is smaller than the tokenizer's 700 ids")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"vocab": {}}, "added_tokens": []}', '{"model": null}'])
def test_a_file_that_is_no_tokenizer_fails_the_plan_in_one_line(small_preset, tmp_path, text):
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    (error,) = make_plan(small_preset(f"tokenizer.path={file}")).errors
    assert error.subject == "tokenizer" and error.message.startswith(f"{file}: not a tokenizer.json")
    assert "\n" not in error.message


def test_a_gpu_that_is_not_here_fails_the_plan(small_preset, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (error,) = make_plan(small_preset("runtime.device=cuda")).errors
    assert error.subject == "device" and "torch sees no GPU" in error.message


def test_the_disk_must_hold_what_is_written():
    assert disk_finding(1.0).level == "ok"
    full = disk_finding(1e18)
    assert full.level == "error" and "set ATHANOR_HOME to another disk" in full.message


@pytest.mark.parametrize("there", ["home", "store", "nothing"])
def test_a_home_or_store_that_cannot_be_written_to_fails_the_plan(private_home, monkeypatch, there):
    folder = {"home": private_home, "store": private_home / "store", "nothing": private_home.parent}[there]
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("os.access", lambda path, mode: path != folder)
    found = disk_finding(1.0)
    assert found.level == "error"
    assert (
        found.message == f"{folder} cannot be written to; set ATHANOR_HOME (now {home()}) to a folder you can write to"
    )


def test_a_store_that_is_a_file_fails_the_plan(private_home):
    private_home.mkdir(parents=True, exist_ok=True)
    (private_home / "store").touch()
    assert disk_finding(1.0).message.startswith(f"{private_home}/store is no folder; set ATHANOR_HOME")


def test_a_precision_that_the_device_lacks_fails_the_plan(small_preset):
    (error,) = make_plan(small_preset("runtime.precision=fp8")).errors
    assert error.message.startswith("runtime.precision=fp8, but the CPU has no float8")


def test_a_vocabulary_smaller_than_that_of_a_tokenizer_to_be_trained_fails_the_plan(small_preset):
    (error,) = make_plan(small_preset("model.vocab_size=500")).errors
    assert error.message.startswith("model.vocab_size=500 is smaller than the tokenizer's 1024 ids")
    assert make_plan(small_preset("model.vocab_size=500", "tokenizer.vocab_size=400")).errors == []


def test_records_that_cannot_be_read_fail_the_plan(small_preset, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"body": "no text"}\n')
    (error,) = make_plan(small_preset(f"data.sources.math.path={file}")).errors
    assert error.subject == "data.sources.math" and "rows.jsonl:1: no field 'text'" in error.message


def test_a_package_of_another_version_than_tested_is_a_warning(monkeypatch):
    monkeypatch.setattr(preflight, "version", lambda package: "0.0.1")
    warned = {f.subject: f for f in version_findings()}
    assert warned["torch"].level == "warning" and "pip install torch==" in warned["torch"].message


def test_what_is_all_in_the_store_is_ready_on_any_machine_unless_it_is_to_be_built_again(
    small_preset, publish, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    preset = small_preset("runtime.device=cuda")
    for stage in survey(preset):
        publish(stage)
    check_ready(preset, "lifecycle")
    with pytest.raises(UserError, match="torch sees no GPU"):
        check_ready(preset, "lifecycle", rebuild=True)
    with pytest.raises(UserError, match="torch sees no GPU"):
        check_ready(small_preset("runtime.device=cuda", "runtime.rebuild_drifted=true"), "lifecycle")


def test_nothing_is_timed_before_a_run_without_a_budget(small_preset, monkeypatch):
    timed = []
    monkeypatch.setattr(training_rate, "_timed", lambda *asked: timed.append(asked) or Rate(1e9, "timed"))
    check_ready(small_preset(), "lifecycle")
    assert not timed
    check_ready(small_preset("runtime.budget_hours=10000"), "lifecycle")
    assert timed


def test_a_tokenizer_without_chat_tags_fails_the_plan_of_conversations_wherever_it_comes_from(
    small_preset, hub, tmp_path, monkeypatch
):
    file = tmp_path / "tokenizer.json"
    spec = json.loads(_trained_tokenizer(tmp_path).read_text(encoding="utf-8"))
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] == "<|endoftext|>"]
    for tag in ("<|im_start|>", "<|im_end|>"):
        del spec["model"]["vocab"][tag]
    file.write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setattr(tokenizer, "cached_tokenizer_file", lambda repo, revision: file)
    for origin in (f"tokenizer.path={file}", "tokenizer.hub=o/tokenizer"):
        (error,) = make_plan(small_preset(origin)).errors
        assert error.subject == "tokenizer" and f"{file} has no <|im_start|>" in error.message
        assert not make_plan(small_preset(origin, "sft=null")).errors


def test_a_tokenizer_in_the_store_that_was_built_for_text_alone_fails_the_plan_of_conversations(
    small_preset, publish, hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(tokenizer, "cached_tokenizer_file", lambda repo, revision: None)
    spec = _trained_tokenizer(tmp_path).read_text(encoding="utf-8").replace("<|im_", "<|other_")
    built = next(stage for stage in survey(small_preset(*HUB)) if stage.stage == "tokenizer")
    publish(built, files={"tokenizer.json": spec})
    (error,) = make_plan(small_preset(*HUB), timing=False).errors
    assert error.subject == "chat" and "tokenizer.json has no <|im_start|> and no <|im_end|>" in error.message
    assert not make_plan(small_preset(*HUB, "sft=null"), timing=False).errors


def _trained_tokenizer(folder):
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["a text to train on"]), folder / "trained")
    return folder / "trained" / "tokenizer.json"


def test_what_built_inputs_say_of_a_stage_stands_in_the_plan(small_preset, publish):
    def foresee(recipe, preset, *, chat=None, **others):
        if chat is None:
            return
        if recipe.max_lost_fraction == 0:
            raise UserError("too much is lost")
        yield Foreseen(f"fits {recipe.train.seq_len_tokens}")
        yield Foreseen("but barely", warning=True)

    def findings(preset):
        found = Survey(preset)
        stages = {stage.stage: stage for stage in found.needed_by("lifecycle")}
        record = replace(stages["sft"].record, foresee=foresee)
        return stages["chat"], foreseen_findings(found, [replace(stages["sft"], record=record)])

    chat, before = findings(small_preset())
    assert before == []
    publish(chat)
    fits, barely = Finding("ok", "sft", "fits 256"), Finding("warning", "sft", "but barely")
    assert findings(small_preset())[1] == [fits, barely]
    assert findings(small_preset("sft.max_lost_fraction=0"))[1] == [Finding("error", "sft", "too much is lost")]


def test_prompts_that_cannot_fit_the_model_are_pointed_out_and_answers_that_leave_no_prompt_refused(small_preset):
    examples = ("evaluate.tasks={shots: {name: word_problems, num_fewshot: 0}}",)
    assert not [f for f in make_plan(small_preset(*examples)).findings if f.subject == "evaluate"]
    (error,) = make_plan(small_preset("evaluate.tasks.word-problems.max_new_tokens=512")).errors
    assert "max_new_tokens=512 leaves no room for a prompt in model.max_seq_len=512" in error.message
    recipe = SimpleNamespace(label="gsm8k", task=SimpleNamespace(num_fewshot=8))
    (line,) = evaluate.foresee(recipe, small_preset())
    assert line.warning and "prompts with 8 examples have about 1,080 tokens, the model reads 512" in line.message
