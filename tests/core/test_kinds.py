"""Kinds: a record declared in a file of its room is in the table, and nowhere else need it be named."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from athanor.core.errors import UserError
from athanor.core.kinds import Kinds, NameOf

RECORD = "from types import SimpleNamespace as Record\n"


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Write the modules of a package of that name and return its table."""

    def make(package: str, **modules: str) -> Kinds:
        (tmp_path / package).mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / package / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return Kinds("metal", package, "METALS")

    return make


def test_every_record_of_every_module_is_in_the_table(room):
    metals = room(
        "metals",
        lead=RECORD + "METALS = Record(name='lead')",
        noble=RECORD + "METALS = Record(name='gold'), Record(name='silver')",
        furnace="HEAT = 3",
    )
    assert list(metals) == ["lead", "gold", "silver"]
    assert metals["gold"].name == "gold"


def test_the_room_is_not_imported_before_it_is_asked(room):
    class Recipe(BaseModel):
        metal: Annotated[str, NameOf(room("broken_metals", lead="raise RuntimeError('imported')"))]

    with pytest.raises(RuntimeError, match="imported"):
        Recipe(metal="lead")


def test_what_comes_after_a_record_is_not_imported_for_it(room):
    metals = room("lazy_metals", lead=RECORD + "METALS = Record(name='lead')", zinc="raise RuntimeError('imported')")
    assert metals["lead"].name == "lead"
    assert "lead" in metals
    with pytest.raises(RuntimeError, match="imported"):
        list(metals)


def test_an_unknown_name_is_told_with_those_there_are(room):
    metals = room("two_metals", noble=RECORD + "METALS = Record(name='gold'), Record(name='silver')")
    with pytest.raises(UserError, match="no metal 'tin': there are gold, silver"):
        metals["tin"]

    class Recipe(BaseModel):
        metal: Annotated[str, NameOf(metals)]

    with pytest.raises(ValidationError, match="Input should be 'gold' or 'silver'"):
        Recipe(metal="tin")
    assert Recipe.model_json_schema()["properties"]["metal"]["enum"] == ["gold", "silver"]


def test_where_each_has_a_folder_the_record_lies_in_one_file_of_it(tmp_path, monkeypatch):
    for metal in ("gold", "lead"):
        (tmp_path / "mine" / metal).mkdir(parents=True)
        (tmp_path / "mine" / metal / "__init__.py").touch()
        (tmp_path / "mine" / metal / "metal.py").write_text(f"{RECORD}METALS = Record(name='{metal}')")
        (tmp_path / "mine" / metal / "furnace.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "mine" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert list(Kinds("metal", "mine", "METALS", module="metal")) == ["gold", "lead"]


def test_two_records_of_one_name_are_refused(room):
    metals = room("same_metals", one=RECORD + "METALS = Record(name='tin')", two=RECORD + "METALS = Record(name='tin')")
    with pytest.raises(UserError, match="'tin', which another one does"):
        list(metals)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RECORD + "METAL = Record(name='tin')", "declares METAL: a metal is declared in METALS"),
        ("METALS = ['tin']", "METALS holds .'tin'., which is no metal"),
    ],
)
def test_a_declaration_that_is_almost_one_is_told(room, request, text, told):
    metals = room(f"odd_metals_{request.node.callspec.indices['text']}", noble=text)
    with pytest.raises(UserError, match=told):
        list(metals)


def test_a_folder_without_its_declaration_is_told(tmp_path, monkeypatch):
    (tmp_path / "folders_of_metals" / "tin").mkdir(parents=True)
    for folder in ("", "tin"):
        (tmp_path / "folders_of_metals" / folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    metals = Kinds("metal", "folders_of_metals", "METAL", module="metal")
    with pytest.raises(UserError, match=r"tin is no metal: its metal.py, with METAL, is missing"):
        list(metals)
