"""`athanor rm` removes what is meant and nothing in use; `athanor open` opens the newest report or the UI."""

from __future__ import annotations

import json
import os
import webbrowser
from types import SimpleNamespace

import httpx
import pytest

from athanor.core.store import Store
from athanor.flows.plan.survey import Survey


@pytest.fixture
def built(small_preset, publish):
    """Every artifact of a small lifecycle, by `stage label`."""
    stages = Survey(small_preset()).needed_by("lifecycle")
    for number, stage in enumerate(stages):
        page = {"report.html": f"<p>{number}"} if stage.stage == "report" else {"file": "content"}
        publish(stage, files=page)
    return {f"{stage.stage} {stage.artifact.label}": stage.artifact for stage in stages}


@pytest.fixture
def opened(monkeypatch):
    """Addresses that were opened in the browser."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open_new_tab", addresses.append)
    return addresses


def test_an_artifact_is_removed_and_what_was_made_from_it_is_named_and_stays(built, athanor):
    sft = built["sft polychromatic"]
    done = athanor("rm", sft.name, "--yes")
    assert done.returncode == 0, done.stderr
    assert not sft.path.exists()
    assert f"removed {sft.name}" in done.stdout
    stays = {line.rpartition(" ")[2] for line in done.stdout.splitlines() if "made from it, and stays" in line}
    assert built["evaluate bits-per-byte-sft"].name in stays and built["report quickstart"].name in stays
    assert not stays & {built["pretrain polychromatic"].name, built["evaluate bits-per-byte-base"].name}
    assert all(artifact.path.exists() for artifact in built.values() if artifact is not sft)


@pytest.mark.parametrize(("answer", "there"), [("y\n", False), ("n\n", True)])
def test_it_asks_first(built, athanor, monkeypatch, answer, there):
    report = built["report quickstart"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(readline=lambda *_: answer))
    monkeypatch.setattr("builtins.input", lambda *_: answer.strip())
    athanor("rm", report.name)
    assert report.path.exists() is there


def test_a_run_that_was_begun_is_removed_by_the_name_that_runs_list_prints(small_preset, athanor, leave_checkpoint):
    survey = Survey(small_preset())
    (pretrain,) = [stage for stage in survey.needed_by("pretrain") if stage.stage == "pretrain"]
    leave_checkpoint(pretrain, 10)
    assert athanor("rm", pretrain.artifact.name, "-y").returncode == 0
    assert not Store().partial_path(pretrain.artifact).exists()


def test_what_is_being_built_or_read_is_not_removed(built, athanor):
    pretrain, shards = built["pretrain polychromatic"], built["tokenize math"]
    store = Store()
    folder = store.partial(pretrain, resume=False)
    (folder / "run.json").write_text(json.dumps({"shard_dirs": {"math": str(shards.path)}}))
    with store.lock(pretrain, lambda: None):
        for name, why in ((pretrain.name, "is being built"), (shards.name, f"is read by {pretrain.name}")):
            done = athanor("rm", built["report quickstart"].name, name, "-y")
            assert done.returncode == 2
            assert why in done.stderr and len(done.stderr.splitlines()) == 1
        assert "is being built: the run it belongs to" in athanor("rm", built["chat sft.source"].name, "-y").stdout
    assert pretrain.path.exists() and shards.path.exists() and built["report quickstart"].path.exists()
    assert athanor("rm", shards.name, "-y").returncode == 0, "its builder is gone"


def test_a_name_that_means_two_is_refused(built, athanor):
    done = athanor("rm", "evaluate/bits-per-byte", "-y")
    assert done.returncode == 2 and "2 artifacts match" in done.stderr


def test_the_newest_report_is_opened_and_its_address_said(built, publish, small_preset, athanor, opened):
    other = small_preset("name=other", "pretrain.peak_lr=0.001")
    report = Survey(other).needed_by("report")[-1]
    publish(report, files={"report.html": "<p>"}, created="2026-01-02T00:00:00+00:00")
    done = athanor("open")
    assert opened == [(report.artifact.path / "report.html").as_uri()]
    assert done.stdout.strip() == opened[0]


def test_without_a_report_or_a_server_one_line_says_how_to_get_one(athanor, opened, monkeypatch):
    monkeypatch.setitem(os.environ, "PREFECT_API_URL", "http://127.0.0.1:9/api")
    for what, message in (("report", "holds no report: `athanor run"), ("ui", "start one with `prefect server start`")):
        done = athanor("open", what)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert opened == []


def test_the_ui_of_a_server_that_answers_is_opened(athanor, opened, monkeypatch):
    asked = []

    def get(url, **_):
        asked.append(url)
        return httpx.Response(200, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    assert athanor("open", "ui").returncode == 0
    assert asked[0].endswith("/api/health")
    assert opened == [asked[0].removesuffix("/api/health")]
