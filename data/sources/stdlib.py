"""Real text every Python carries: the standard library's code, and its documentation.

`stdlib-code` is the library's own .py files. `stdlib-docs` is the language reference topics of `pydoc`,
then one document per module of the standard library and of NumPy with the docstrings of its public
functions and classes, taken from the source by `ast`: nothing is imported. Both are in sorted order and
change only with the Python (and NumPy) version, which their identity puts into the key.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from athanor.core.errors import UserError
from athanor.data.sources.records import Raw, Reject
from athanor.data.sources.source import Source

# Tests, installed packages, and what describes this machine rather than Python.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "turtledemo", "site-packages", "dist-packages", "__pycache__"}
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
_TOPICS = "pydoc_data/topics.py"  # its dictionary is stdlib-docs' first part
_MIN_DOC_CHARACTERS = 200  # a module with less to say makes no useful document

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def read_stdlib_code() -> Iterator[Raw | Reject]:
    """One document per .py file that is not blank of the running interpreter's standard library."""
    for name, path in _python_files(Path(sysconfig.get_paths()["stdlib"])):
        raw = _read(name, path)
        if name != _TOPICS and (isinstance(raw, Reject) or str(raw.content).strip()):
            yield raw


def read_stdlib_docs() -> Iterator[Raw | Reject]:
    """The topics of `pydoc`, then the docstrings of each module of the standard library and of NumPy."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield Raw(topics[topic].strip() + "\n", f"topics/{topic}")
    yield from _module_docs(Path(sysconfig.get_paths()["stdlib"]))
    spec = find_spec("numpy")
    if spec is not None and spec.origin is not None:
        yield from _module_docs(Path(spec.origin).parent, prefix="numpy/")


_PYTHON = sys.version.split()[0]

BUILTIN = (
    Source(
        name="stdlib-code",
        read=lambda recipe, fields: read_stdlib_code(),
        identity=lambda recipe: {"python": _PYTHON},
        read_bytes_per_s=12e6,
        document_bytes=16_000,
        whole_bytes=lambda recipe, identity: 11e6,
        conversations=False,
    ),
    Source(
        name="stdlib-docs",
        read=lambda recipe, fields: read_stdlib_docs(),
        identity=lambda recipe: {"python": _PYTHON, "numpy": version("numpy")},
        read_bytes_per_s=1e6,
        document_bytes=6000,
        whole_bytes=lambda recipe, identity: 4.1e6,
        conversations=False,
    ),
)


def module_document(source: str, module: str) -> str:
    """A module's docstrings as one text: each signature, then its docstring indented below; '' if there are none.

    Raises SyntaxError when `source` is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old invalid escapes in string literals
        tree = ast.parse(source)
    own = ast.get_docstring(tree)
    parts = [f"{module}\n\n{own}" if own else module]
    parts += _definitions(tree.body, module, depth=0)
    return "\n\n".join(parts) + "\n" if own or len(parts) > 1 else ""


def _definitions(body: list[ast.stmt], owner: str, depth: int) -> Iterator[str]:
    for node in body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        name = f"{owner}.{node.name}"
        doc = ast.get_docstring(node)
        if doc:
            yield f"{_signature(node, name)}\n{_indented(doc)}"
        if isinstance(node, ast.ClassDef) and depth == 0:
            yield from _definitions(node.body, name, depth + 1)


def _signature(node: _Definition, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    return f"{name}({ast.unparse(node.args)})"


def _indented(doc: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else "" for line in inspect.cleandoc(doc).splitlines())


def _module_docs(root: Path, prefix: str = "") -> Iterator[Raw | Reject]:
    for name, path in _python_files(root):
        raw = _read(prefix + name, path)
        if isinstance(raw, Reject):
            yield raw
            continue
        module = (prefix + name).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        try:
            text = module_document(str(raw.content), module)
        except (SyntaxError, ValueError, RecursionError) as error:
            yield Reject(raw.file, getattr(error, "lineno", None), f"not Python: {type(error).__name__}")
            continue
        if len(text) >= _MIN_DOC_CHARACTERS:
            yield Raw(text, raw.file)


def _read(name: str, path: Path) -> Raw | Reject:
    try:
        return Raw(path.read_bytes().decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        return Reject(name, None, f"not UTF-8 at byte {error.start}")


def _python_files(root: Path) -> list[tuple[str, Path]]:
    files = [
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not any(
            part in _SKIPPED_FOLDERS or part.startswith(_SKIPPED_PREFIXES) for part in path.relative_to(root).parts
        )
    ]
    if not files:
        raise UserError(f"{root}: this Python ships no .py files; use a full CPython, or a source with `path`")
    return sorted(files)
