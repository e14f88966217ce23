"""A source is one file: its record says all that anybody asks, and no recipe names a source that nobody reads."""

from __future__ import annotations

import importlib
import sys

import pytest
from pydantic import ValidationError

from athanor.core import code
from athanor.core.code import syntax_tree
from athanor.core.errors import UserError
from athanor.core.kinds import Kinds
from athanor.core.runtime import Runtime
from athanor.data import sources
from athanor.data.data_recipe import BUILTIN_SOURCES, ORIGINS, ChatSourceRecipe, SourceRecipe
from athanor.data.documents import read_documents
from athanor.data.sources.source import _ORIGINS, source_of
from athanor.flows.plan.plan import make_plan
from athanor.flows.presets.preset import load_preset
from athanor.tasks.acquire import AcquireRecipe, build
from athanor.tasks.stage import StageRun

TOY = """
from athanor.data.sources.records import Raw
from athanor.data.sources.source import Source

BUILTIN = Source(
    name="poems",
    read=lambda recipe, fields: (Raw({"text": f"poem {n}"}, "poems", n) for n in range(1, 6)),
    identity=lambda recipe: {"edition": 2},
    read_bytes_per_s=1e6,
    document_bytes=6,
    whole_bytes=lambda recipe, identity: 30.0,
)
"""


@pytest.fixture
def poems(tmp_path, monkeypatch):
    """One file dropped into the package of the sources."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    (folder / "poems.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    importlib.invalidate_caches()
    table = Kinds(BUILTIN_SOURCES.what, BUILTIN_SOURCES.package, BUILTIN_SOURCES.variable).table
    monkeypatch.setitem(BUILTIN_SOURCES.__dict__, "table", table)
    yield
    del sys.modules["athanor.data.sources.poems"]


def test_a_source_dropped_into_the_package_is_known_planned_and_acquired(poems, tmp_path):
    recipe = SourceRecipe(builtin="poems", max_documents=4)
    stage = AcquireRecipe.of(recipe)
    assert (stage.asked["builtin"], stage.identity) == ("poems", {"edition": 2})
    facts = build(stage, StageRun(tmp_path / "out", "", Runtime(), print, lambda *done: None))
    assert facts["documents"] == 4
    assert next(read_documents(tmp_path / "out", "train")).text == "poem 1"
    plan = make_plan(load_preset("quickstart", ["data.sources.math={builtin: poems}"]))
    assert plan.errors == []
    (estimate,) = (found for stage, found in plan.stages if (stage.stage, stage.artifact.label) == ("acquire", "math"))
    assert (estimate.source, estimate.wall_s) == ("assumed", pytest.approx(1 + 30 / 1e6))


def test_an_unknown_builtin_source_is_told_with_those_there_are():
    with pytest.raises(ValidationError, match=r"Input should be .*'stdlib-code', 'stdlib-docs' or 'word-problems'"):
        SourceRecipe(builtin="poems")


def test_every_origin_has_one_reader_and_every_reader_a_field():
    assert {"builtin", *_ORIGINS} == set(ORIGINS)
    assert set(ORIGINS) <= set(SourceRecipe.model_fields)


def test_an_origin_without_a_reader_is_refused(monkeypatch):
    monkeypatch.setitem(_ORIGINS.__dict__, "table", {})
    with pytest.raises(UserError, match="no source 'path'"):
        source_of(SourceRecipe(path="text.txt"))


@pytest.mark.parametrize("name", ["stdlib-code", "stdlib-docs"])
def test_conversations_from_a_source_without_any_are_refused_at_once(name):
    with pytest.raises(UserError, match=f"builtin {name}: holds no conversations; use word-problems, or `path`"):
        source_of(ChatSourceRecipe(builtin=name))


@pytest.mark.parametrize(
    ("bounds", "expected_bytes"),
    [({}, 4.1e6), ({"max_bytes": 1000}, 1000), ({"max_documents": 10}, 60_000), ({"max_documents": 10**6}, 4.1e6)],
)
def test_the_text_asked_for_is_the_least_of_its_bounds(bounds, expected_bytes):
    recipe = SourceRecipe(builtin="stdlib-docs", **bounds)
    assert source_of(recipe).text_bytes(recipe, {}) == expected_bytes


def test_the_size_of_an_unbounded_hub_source_is_unknown():
    recipe = SourceRecipe(hub="owner/name")
    assert source_of(recipe).text_bytes(recipe, {}) is None


def test_the_fingerprint_of_acquire_covers_every_source(monkeypatch):
    parsed = []
    monkeypatch.setattr(code, "syntax_tree", lambda path: parsed.append(path.name) or syntax_tree(path))
    code.code_fingerprint("athanor.tasks.acquire")
    assert {"files.py", "hub.py", "stdlib.py", "word_problems.py"} <= set(parsed)
