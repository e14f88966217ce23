"""A model is found by its artifact's name or its preset's, and a name that means several says so."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from athanor.core.errors import UserError
from athanor.core.keys import artifact_key
from athanor.core.store import Artifact, Store
from athanor.tasks.model_place import find_model, trained_for

MANIFEST = {"code_version": 1, "code": "", "versions": {}, "wall_s": 0.0, "cost_usd": 0.0, "facts": {}}


@pytest.fixture
def made() -> Callable[..., Artifact]:
    """Put an artifact into the store: a model, or a report of the models given."""

    def publish(stage: str, label: str, seed: int = 0, day: int = 1, **models: Artifact) -> Artifact:
        store, recipe = Store(), {"seed": seed}
        parents = {f"models.{name}": model.key for name, model in models.items()}
        artifact = store.artifact(stage, label, artifact_key(stage, 1, recipe, parents))
        partial = store.partial(artifact, resume=False)
        (partial / ("report.html" if stage == "report" else "model.safetensors")).write_text("x")
        (partial / "run.json").write_text(json.dumps({"objective": stage}))
        created = f"2026-01-{day:02}T00:00:00+00:00"
        store.publish(artifact, partial, {**MANIFEST, "recipe": recipe, "parents": parents, "created": created})
        return artifact

    return publish


def test_a_folder_is_itself_whatever_the_store_holds(made, tmp_path, monkeypatch):
    made("sft", "vanilla")
    (tmp_path / "sft").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("sft").path.absolute() == tmp_path / "sft"


def test_a_preset_or_its_file_means_its_last_model_and_a_stage_before_its_name_that_one(made, tmp_path):
    base, tuned = made("pretrain", "vanilla"), made("sft", "vanilla")
    made("report", "notes", base=base, sft=tuned)
    for name in ("notes", "sft/notes", "sft/van", tuned.key[:12]):
        assert (find_model(name).path, find_model(name).name, find_model(name).note) == (tuned.path, tuned.name, "")
    assert find_model("pretrain/notes").path == base.path
    (tmp_path / "notes.yaml").write_text("extends: quickstart\n")
    (tmp_path / "other.yaml").write_text("name: notes\n")
    assert find_model(str(tmp_path / "notes.yaml")).path == find_model(str(tmp_path / "other.yaml")).path == tuned.path
    made("report", "judged", base=made("checkpoint", "vanilla"))
    assert find_model("judged").name.startswith("checkpoint/vanilla-")


def test_of_several_that_a_preset_made_the_newest_is_taken_and_said(made):
    old, new = made("sft", "vanilla", 1), made("sft", "vanilla", 2)
    made("report", "notes", 1, day=2, sft=new)
    made("report", "notes", 2, day=1, sft=old)
    found = find_model("notes")
    assert (found.path, found.note) == (new.path, f"{new.name} is the newest of 2 that preset notes made")


def test_a_name_that_means_several_lists_them(made):
    base, tuned = made("pretrain", "vanilla"), made("sft", "vanilla")
    with pytest.raises(UserError, match=f"2 models match 'vanilla': {base.name}, {tuned.name}; give a folder"):
        find_model("vanilla")
    made("report", "sft", sft=made("sft", "hydra"))
    with pytest.raises(UserError, match=r"2 models match 'sft': sft/hydra-.*, sft/vanilla-"):
        find_model("sft")


def test_a_preset_whose_model_was_deleted_and_a_name_of_nothing_match_no_model(made):
    tuned = made("sft", "vanilla")
    made("report", "notes", sft=tuned)
    Store().remove(tuned)
    for name in ("notes", "nothing", "report/notes"):
        with pytest.raises(UserError, match=f"no model matches '{name}'; give a folder, .* a preset that has run"):
            find_model(name)


def test_an_artifact_that_is_not_whole_is_named(made):
    tuned = made("sft", "vanilla")
    (tuned.path / "run.json").unlink()
    with pytest.raises(UserError, match=f"artifact {tuned.name} is torn: run.json is missing"):
        find_model("sft/vanilla")


def test_what_it_was_trained_for_is_in_its_folder(made, tmp_path):
    assert trained_for(made("sft", "vanilla").path) == "sft"
    assert trained_for(tmp_path) is None
    (tmp_path / "imported.json").write_text('{"objective": "pretrain"}')
    assert trained_for(tmp_path) == "pretrain"
