"""What a run would do is known without doing it: cached, resume or run, and the fields that differ."""

from __future__ import annotations

import shutil

import pytest

from athanor.core.store import Store
from athanor.flows.plan.survey import Survey


def survey(preset) -> dict[str, object]:
    """Stage or `evaluate/<label>` -> survey; of several, the last."""
    found = Survey(preset)
    found.needed_by("lifecycle")
    return {stage.stage: stage for stage in found.stages}


@pytest.fixture
def built(small_preset, publish):
    """A store in which everything but the report of the small preset stands."""
    found = Survey(small_preset())
    for stage in found.needed_by("lifecycle"):
        if stage.stage != "report":
            publish(stage)
    return small_preset


def test_an_empty_home_runs_everything_in_the_order_of_the_chain(small_preset):
    stages = Survey(small_preset()).needed_by("lifecycle")
    assert {(stage.state, stage.why) for stage in stages} == {("run", "nothing there yet")}
    order = list(dict.fromkeys(stage.stage for stage in stages if stage.artifact.label != "sft.source"))
    assert order == ["acquire", "tokenizer", "tokenize", "pretrain", "sft", "evaluate", "interpret", "report"]
    assert not Store().root.exists()


def test_a_flow_needs_only_what_leads_to_it(small_preset):
    stages = {stage.stage for stage in Survey(small_preset()).needed_by("pretrain")}
    assert stages == {"acquire", "tokenizer", "tokenize", "pretrain"}


def test_conversations_are_read_for_fine_tuning_alone(small_preset):
    def read_by(flow: str) -> set[str]:
        return {s.wanted.member for s in Survey(small_preset()).needed_by(flow) if s.stage == "acquire"}

    assert read_by("data") == read_by("pretrain") == {"math", "stem", "code"}
    assert read_by("sft") == {"math", "stem", "code", "sft.source"}


def test_what_is_there_is_cached(built):
    states = {name: stage.state for name, stage in survey(built()).items()}
    assert {name for name, state in states.items() if state != "cached"} == {"report"}


def test_a_changed_field_is_named_with_both_values_and_what_follows_names_its_parent(built):
    stages = survey(built("pretrain.peak_lr=0.001"))
    assert stages["tokenize"].state == "cached"
    pretrain = stages["pretrain"]
    assert pretrain.state == "run"
    assert [str(difference) for difference in pretrain.differences] == ["train.peak_lr: 0.003 -> 0.001"]
    nearest = survey(built())["pretrain"].artifact.key
    assert pretrain.why == f"train.peak_lr: 0.003 -> 0.001 (nearest: {nearest[:12]})"
    assert stages["sft"].why.startswith("base is another")


def test_one_that_was_there_is_said_to_be_deleted_whatever_lies_near_it(built, publish):
    stages = survey(built())
    shutil.rmtree(stages["pretrain"].artifact.path)
    publish(survey(built("pretrain.peak_lr=0.001"))["pretrain"])
    with Store().lock(stages["pretrain"].artifact, on_wait=lambda: None):
        pass
    assert survey(built())["pretrain"].why == "deleted since it was built"


def test_a_build_that_was_begun_and_cannot_be_continued_is_said_to_be_so(small_preset):
    stage = survey(small_preset())["tokenizer"]
    Store().partial(stage.artifact, resume=False)
    assert survey(small_preset())["tokenizer"].why == "begun and not finished"


def test_the_nearest_artifact_is_the_one_with_the_fewest_differences(built, publish):
    publish(survey(built("pretrain.peak_lr=0.001", "pretrain.seed=5"))["pretrain"])
    differences = survey(built("pretrain.peak_lr=0.001", "pretrain.seed=5", "pretrain.steps=50"))[
        "pretrain"
    ].differences
    assert [d.field for d in differences] == ["train.steps"]


def test_a_torn_artifact_says_what_is_torn_and_drifted_code_is_told(built, publish):
    stages = survey(built())
    (stages["sft"].artifact.path / "file").write_text("longer than it was")
    publish(stages["pretrain"], code="of yesterday")
    again = survey(built())
    assert again["sft"].state == "run" and again["sft"].why == "torn: file has 18 bytes, the manifest says 7"
    assert again["pretrain"].state == "cached" and "made by other code" in again["pretrain"].why
    assert survey(built("runtime.rebuild_drifted=true"))["pretrain"].state == "run"


def test_an_interrupted_training_resumes_at_its_newest_whole_checkpoint(small_preset, leave_checkpoint):
    stage = survey(small_preset())["pretrain"]
    leave_checkpoint(stage, 10)
    leave_checkpoint(stage, 20)
    found = survey(small_preset())["pretrain"]
    assert (found.state, found.step, found.why) == ("resume", 20, "at step 20")
    newest = Store().partial_path(stage.artifact) / "checkpoints" / "step-00000020"
    (newest / "model.safetensors").write_bytes(b"torn")
    assert survey(small_preset())["pretrain"].step == 10
    shutil.rmtree(newest.parent)
    assert survey(small_preset())["pretrain"].state == "run"


def test_an_interrupted_tokenization_says_how_far_it_came(small_preset):
    stage = survey(small_preset())["tokenize"]
    folder = Store().partial(stage.artifact, resume=True) / "train"
    folder.mkdir()
    (folder / "shards.json").write_text('{"total_tokens": 4096}')
    assert survey(small_preset())["tokenize"].why == "after 4,096 tokens"
