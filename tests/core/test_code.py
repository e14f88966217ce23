"""The code fingerprint sees code and nothing else."""

from __future__ import annotations

import ast

import pytest

import athanor.core.code
from athanor.core.code import normalised_code

CODE = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + CODE,
        '"""A module."""\n' + CODE,
        'def f(x):\n    """What f does."""\n    return x + 1  # and why\n',
        "def f(x):\n\n\n    return (x +\n            1)\n",
    ],
)
def test_comments_docstrings_and_layout_leave_no_trace(same):
    assert normalised_code(ast.parse(same)) == normalised_code(ast.parse(CODE))


def test_a_changed_expression_is_seen():
    assert normalised_code(ast.parse(CODE.replace("1", "2"))) != normalised_code(ast.parse(CODE))


def test_a_helper_module_belongs_to_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(athanor.core.code, "ROOT", tmp_path)
    (tmp_path / "toy").mkdir()
    helper = tmp_path / "toy" / "helper.py"
    (tmp_path / "toy" / "stage.py").write_text("from athanor.toy.helper import f\n")

    def fingerprint_with(helper_code: str) -> str:
        helper.write_text(helper_code)
        athanor.core.code.syntax_tree.cache_clear()
        return athanor.core.code.code_fingerprint("athanor.toy.stage")

    first = fingerprint_with(CODE)
    assert fingerprint_with("# said better\n" + CODE) == first
    assert fingerprint_with(CODE.replace("1", "2")) != first
    (tmp_path / "toy" / "page.j2").write_text("a template")
    assert fingerprint_with(CODE) != first


def test_what_a_table_finds_in_its_room_belongs_to_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(athanor.core.code, "ROOT", tmp_path)
    (tmp_path / "toy" / "metals" / "gold").mkdir(parents=True)
    (tmp_path / "toy" / "stage.py").write_text("METALS = Kinds('metal', 'athanor.toy.metals', 'METAL')\n")
    seen = set()
    for name in ("lead.py", "gold/metal.py"):
        for code in (CODE, CODE.replace("1", "2")):
            (tmp_path / "toy" / "metals" / name).write_text(code)
            athanor.core.code.syntax_tree.cache_clear()
            athanor.core.code._imports.cache_clear()
            seen.add(athanor.core.code.code_fingerprint("athanor.toy.stage"))
    assert len(seen) == 4


def test_what_only_a_type_checker_imports_does_not_belong_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(athanor.core.code, "ROOT", tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "stage.py").write_text("if TYPE_CHECKING:\n    from athanor.toy.helper import f\n")
    found = []
    for helper_code in (CODE, CODE.replace("1", "2")):
        (tmp_path / "toy" / "helper.py").write_text(helper_code)
        athanor.core.code.syntax_tree.cache_clear()
        found.append(athanor.core.code.code_fingerprint("athanor.toy.stage"))
    assert found[0] == found[1]


def test_plumbing_does_not_belong_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(athanor.core.code, "ROOT", tmp_path)
    monkeypatch.setattr(athanor.core.code, "PLUMBING", {"athanor.toy.pipes"})
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "stage.py").write_text("import athanor.toy.pipes\n")
    found = []
    for pipes in (CODE, CODE.replace("1", "2")):
        (tmp_path / "toy" / "pipes.py").write_text(pipes)
        athanor.core.code.syntax_tree.cache_clear()
        found.append(athanor.core.code.code_fingerprint("athanor.toy.stage"))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "place",
    [
        "class C:\n    {}",
        "async def g():\n    {}",
        "if a:\n    pass\nelse:\n    {}",
        "for a in b:\n    pass\nelse:\n    {}",
        "with a:\n    {}",
        "try:\n    pass\nexcept E:\n    {}",
        "try:\n    pass\nfinally:\n    {}",
        "match a:\n    case 1:\n        {}",
    ],
)
def test_a_docstring_leaves_no_trace_wherever_its_function_stands(place):
    said, unsaid = (place.format(f"def f(x):{doc} return x") for doc in ("\n            'Says it.'\n           ", ""))
    assert normalised_code(ast.parse(said)) == normalised_code(ast.parse(unsaid))


def test_a_file_is_parsed_once_however_many_stages_stand_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(athanor.core.code, "ROOT", tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "ground.py").write_text(CODE)
    for stage in ("one", "two"):
        (tmp_path / "toy" / f"{stage}.py").write_text("import athanor.toy.ground\n")
    athanor.core.code.syntax_tree.cache_clear()
    assert len({athanor.core.code.code_fingerprint(f"athanor.toy.{stage}") for stage in ("one", "two", "one")}) == 2
    assert athanor.core.code.syntax_tree.cache_info().misses == 3
