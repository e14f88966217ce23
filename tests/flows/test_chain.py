"""The chain finds what it needs or builds it, and reads a user's files no oftener than it must."""

from __future__ import annotations

import json

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from athanor.core import digests
from athanor.flows.chain import Chain
from athanor.flows.plan.plan import check_ready, make_plan
from athanor.flows.presets.preset import Preset


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=120):
        yield


@flow
def acquire_flow(preset: Preset) -> None:
    chain = Chain(preset)
    chain.check()
    _ = chain.documents


def test_a_users_file_is_hashed_once_over_a_plan_and_two_runs(tmp_path, small_preset, monkeypatch):
    hashed = []
    sha256_file = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    monkeypatch.setattr(digests, "RACY_S", -1.0)  # however new the file is
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(50)))
    preset = small_preset(*(f"data.sources.{name}.path={text}" for name in ("math", "stem")))

    assert make_plan(preset).errors == []
    for _ in range(2):
        check_ready(preset, "data")
        assert acquire_flow(preset, return_state=True).is_completed()
    assert hashed == ["text.jsonl"]
    with text.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert make_plan(preset).errors == []
    assert hashed == ["text.jsonl"] * 2
