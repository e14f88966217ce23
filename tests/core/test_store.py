"""The artifact store keeps what it promises under crashes, alterations and company."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout

from athanor.core import store as module
from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.keys import artifact_key
from athanor.core.store import ENGINE_RECORD, MANIFEST, Artifact, Store

RECIPE = {"steps": 3}


def publish(store: Store, text: str = "content", label: str = "toy") -> Artifact:
    artifact = store.artifact("stage", label, artifact_key("stage", 1, RECIPE, {}))
    partial = store.partial(artifact, resume=False)
    (partial / "sub").mkdir()
    (partial / "sub" / "file.txt").write_text(text)
    return publish_partial(store, artifact)


def publish_partial(store: Store, artifact: Artifact) -> Artifact:
    partial = store.partial(artifact, resume=True)
    rest = {"code": "", "versions": {}, "wall_s": 0.0, "cost_usd": 0.0, "facts": {}, "created": ""}
    store.publish(artifact, partial, {"code_version": 1, "recipe": RECIPE, "parents": {}, **rest})
    return artifact


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_a_published_artifact_is_whole_and_found_by_prefix(store):
    artifact = publish(store)
    assert store.problem(artifact, verify=True) is None
    assert store.find(artifact.name[:10]).path == artifact.path
    assert [a.path for a in store.artifacts()] == [artifact.path]


@pytest.mark.parametrize("cut", range(0, 400, 37))
def test_a_torn_manifest_is_no_artifact(store, cut):
    artifact = publish(store)
    text = (artifact.path / MANIFEST).read_text()
    (artifact.path / MANIFEST).write_text(text[:cut])
    assert "manifest.json" in (store.problem(artifact) or "")


def test_a_missing_or_shortened_file_is_named(store):
    artifact = publish(store)
    file = artifact.path / "sub" / "file.txt"
    file.write_text("cont")
    assert store.problem(artifact) == "sub/file.txt has 4 bytes, the manifest says 7"
    file.unlink()
    assert store.problem(artifact) == "sub/file.txt is missing"


def test_a_flipped_byte_is_found_by_verify(store):
    artifact = publish(store)
    (artifact.path / "sub" / "file.txt").write_text("c0ntent")
    assert store.problem(artifact) is None
    assert "sub/file.txt was altered" in (store.problem(artifact, verify=True) or "")


def test_a_manifest_of_another_recipe_does_not_count(store):
    artifact = publish(store)
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    manifest["recipe"]["steps"] = 4
    write_json(artifact.path / MANIFEST, manifest)
    assert "does not belong to key" in (store.problem(artifact) or "")


def test_a_manifest_that_names_another_key_does_not_count(store):
    artifact = publish(store)
    manifest = json.loads((artifact.path / MANIFEST).read_text())
    write_json(artifact.path / MANIFEST, manifest | {"key": "0" * 64})
    assert "does not belong to key" in (store.problem(artifact) or "")


def test_an_unfinished_build_is_no_artifact_and_is_resumed_only_when_asked(store):
    artifact = store.artifact("stage", "toy", artifact_key("stage", 1, RECIPE, {}))
    (store.partial(artifact, resume=False) / "half").write_text("x")
    assert list(store.artifacts()) == []
    assert (store.partial(artifact, resume=True) / "half").exists()
    assert not (store.partial(artifact, resume=False) / "half").exists()


def test_publishing_again_replaces_the_artifact(store):
    publish(store, "old")
    artifact = publish(store, "new")
    assert artifact.file("sub/file.txt").read_text() == "new"
    with pytest.raises(UserError, match=r"holds no other\.txt"):
        artifact.file("other.txt")


def test_an_artifact_that_is_published_anew_is_read_anew(store):
    artifact = publish(store, "old")
    before = artifact.manifest["files"]
    (store.partial(artifact, resume=False) / "file.txt").write_text("new")
    publish_partial(store, artifact)
    assert artifact.manifest["files"] != before and list(artifact.manifest["files"]) == ["file.txt"]


def test_an_artifact_appears_in_one_step_with_all_of_it_on_the_disk(store, monkeypatch):
    done = []
    monkeypatch.setattr(module, "fsync_path", lambda path: done.append(("synced", path.name)))
    monkeypatch.setattr(module, "write_json", lambda path, _: done.append(("written", path.name)))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: done.append(("renamed", new.name)) or rename(old, new))
    artifact = publish(store)
    folder = f".{artifact.path.name}.partial"
    assert done == [
        ("synced", "file.txt"),
        ("written", MANIFEST),
        ("synced", folder),
        ("synced", "sub"),
        ("renamed", artifact.path.name),
        ("synced", "stage"),
    ]
    assert not store.partial_path(artifact).exists()


def test_an_artifact_goes_in_one_step(store, monkeypatch):
    artifact = publish(store)
    assert not store.was_built(artifact)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.remove(artifact)
    assert not artifact.path.exists() and list(store.artifacts()) == []


def test_what_was_deleted_is_told_from_what_never_was(store):
    artifact = store.artifact("stage", "toy", artifact_key("stage", 1, RECIPE, {}))
    assert not store.was_built(artifact)
    with store.lock(artifact, lambda: None):
        publish(store)
    assert not store.was_built(artifact)
    store.remove(artifact)
    assert store.was_built(artifact)


def test_a_manifest_in_the_folder_of_another_key_does_not_count(store):
    artifact = publish(store)
    other = store.artifact("stage", "toy", "0" * 64)
    artifact.path.rename(other.path)
    assert store.problem(other) == f"{MANIFEST} does not belong to key {'0' * 12}"


def test_the_manifest_and_the_record_of_the_engine_are_no_files_of_an_artifact(store):
    artifact = store.artifact("stage", "toy", artifact_key("stage", 1, RECIPE, {}))
    for name in ("file.txt", MANIFEST, ENGINE_RECORD):
        (store.partial(artifact, resume=True) / name).write_text("{}")
    assert list(publish_partial(store, artifact).manifest["files"]) == ["file.txt"]


def test_a_name_that_several_artifacts_have_is_refused_with_theirs(store):
    one, other = publish(store, label="toy"), publish(store, label="toy2")
    with pytest.raises(UserError, match=f"2 artifacts match 'stage/toy' .*{one.name}, {other.name}"):
        store.find("stage/toy")
    with pytest.raises(UserError, match="no artifact matches 'stage/toy3'"):
        store.find("stage/toy3")


HOLD = """
import sys, time
from athanor.core.store import Artifact, Store
store = Store(__import__("pathlib").Path(sys.argv[1]))
with store.lock(store.artifact("stage", "toy", sys.argv[2]), lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_builder_is_free_at_once(store):
    artifact = store.artifact("stage", "toy", artifact_key("stage", 1, RECIPE, {}))
    command = [sys.executable, "-c", HOLD, str(store.root), artifact.key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        waited: list[bool] = []

        def kill_holder() -> None:
            waited.append(True)
            holder.kill()
            holder.wait()

        with store.lock(artifact, kill_holder):
            assert waited == [True]
            with pytest.raises(Timeout):
                FileLock(store._lock_path(artifact), is_singleton=False).acquire(timeout=0)


def test_what_was_begun_is_found_where_no_artifact_is_meant(store):
    artifact = publish(store)
    begun = store.artifact("stage", "begun", "f" * 64)
    store.partial(begun, resume=False)
    assert [a.name for a in store.begun()] == [begun.name]
    assert store.find_or_begun("stage/be").path == begun.path
    assert store.find_or_begun("stage/toy").path == artifact.path
    with pytest.raises(UserError, match="no artifact matches 'stage/z'"):
        store.find_or_begun("stage/z")


def test_what_was_made_from_an_artifact_is_all_that_goes_back_to_it(store):
    def make(label: str, **parents: Artifact) -> Artifact:
        keys = {name: parent.key for name, parent in parents.items()}
        artifact = store.artifact("stage", label, artifact_key("stage", 1, {"label": label}, keys))
        rest = {"code": "", "versions": {}, "wall_s": 0.0, "cost_usd": 0.0, "facts": {}, "created": ""}
        fields = {"code_version": 1, "recipe": {"label": label}, "parents": keys, **rest}
        store.publish(artifact, store.partial(artifact, resume=False), fields)
        return artifact

    text, other = make("text"), make("other")
    shards = make("shards", documents=text)
    model = make("model", shards=shards)
    make("beside", documents=other)
    assert [a.name for a in store.made_from([text])] == sorted([shards.name, model.name])
    assert [a.name for a in store.made_from([text, shards])] == [model.name]
    assert store.made_from([model]) == []
