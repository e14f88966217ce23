"""The built-in sources that come with Python: its code and its documentation."""

import sys
from importlib.metadata import version

import pytest

from athanor.core.errors import UserError
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.sources.records import Raw, Reject
from athanor.data.sources.source import source_of
from athanor.data.sources.stdlib import module_document, read_stdlib_code, read_stdlib_docs


@pytest.fixture(scope="module")
def code() -> list[Raw | Reject]:
    return list(read_stdlib_code())


@pytest.fixture(scope="module")
def docs() -> list[Raw | Reject]:
    return list(read_stdlib_docs())


def test_code_is_the_sorted_library_without_tests_or_packages(code):
    names = [raw.file for raw in code]
    assert names == sorted(names)
    assert {"argparse.py", "asyncio/base_events.py", "json/decoder.py"} <= set(names)
    parts = {part for name in names for part in name.split("/")}
    assert not parts & {"test", "tests", "idle_test", "turtledemo", "site-packages", "__pycache__"}
    assert not any(part.startswith("_sysconfigdata") for part in parts)


def test_code_is_megabytes_of_text_and_nothing_is_rejected(code):
    assert all(isinstance(raw, Raw) and raw.content.strip() for raw in code)
    assert sum(len(raw.content) for raw in code) > 5_000_000


def test_docs_hold_topics_library_and_numpy_in_useful_lengths(docs):
    names = [raw.file for raw in docs]
    assert {"topics/while", "textwrap.py", "numpy/ma/core.py"} <= set(names)
    assert all(isinstance(raw, Raw) for raw in docs)
    modules = [raw for raw in docs if not raw.file.startswith("topics/")]
    assert min(len(raw.content) for raw in modules) >= 200
    assert sum(len(raw.content) for raw in docs) > 2_000_000


def test_docs_are_read_without_importing_a_module(docs):
    assert "textwrap.py" in {raw.file for raw in docs}
    assert "turtle" not in sys.modules and "antigravity" not in sys.modules


def test_one_module_makes_one_document_of_signatures_and_docstrings():
    source = '''
"""Shapes."""

def area(width, height=1.0, *, unit: str = "m"):
    """Area of a rectangle.

    In square units.
    """

def _hidden():
    """Not shown."""

def silent():
    return 1

class Square(Shape):
    """Equal sides."""

    async def grow(self, by):
        """Grow it."""
'''
    assert module_document(source, "shapes") == (
        "shapes\n\nShapes.\n\n"
        "shapes.area(width, height=1.0, *, unit: str='m')\n    Area of a rectangle.\n\n    In square units.\n\n"
        "class shapes.Square(Shape)\n    Equal sides.\n\n"
        "shapes.Square.grow(self, by)\n    Grow it.\n"
    )
    assert module_document("x = 1", "empty") == ""


def test_identity_names_the_versions_that_ship_the_text():
    def identity(name):
        recipe = SourceRecipe(builtin=name)
        return source_of(recipe).identity(recipe)

    assert identity("stdlib-code") == {"python": sys.version.split()[0]}
    assert identity("stdlib-docs") == {"python": sys.version.split()[0], "numpy": version("numpy")}


def test_stdlib_documents_are_written_and_bounded(tmp_path):
    facts = write_documents(SourceRecipe(builtin="stdlib-code", max_documents=40), tmp_path)
    assert facts["documents"] in (40, 41)  # 41 where the last file was divided between the splits
    assert facts["held_out_documents"] >= 1
    assert next(read_documents(tmp_path, "train")).ref == "__future__.py"


def test_stdlib_holds_no_conversations(tmp_path):
    with pytest.raises(UserError, match="builtin stdlib-code: holds no conversations"):
        write_documents(ChatSourceRecipe(builtin="stdlib-code"), tmp_path)
