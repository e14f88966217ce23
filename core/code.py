"""A fingerprint of the code behind a stage, so that a stale result is noticed.

The fingerprint covers the stage's module and every module of this project that it imports, directly or not, or finds
in the room of a kind (core/kinds.py). They count as syntax trees without docstrings (a comment or a docstring changes
nothing, a changed expression does), and so do the templates and task files beside them. What is imported for type
checkers alone does not run and is not covered. The fingerprint is no part of an artifact's key (that would rebuild
everything on every edit); a difference is shown as a warning.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "athanor"
ROOT = Path(__file__).parent.parent  # the folder of the package: its parts lie directly below
RESOURCES = ("*.yaml", "*.j2")  # templates and task files beside the code that reads them
# What every stage stands on but whose edits do not change what a stage computes.
PLUMBING = frozenset(
    {
        "athanor.tasks.cost",
        "athanor.tasks.external",
        "athanor.tasks.stage",
        "athanor.tasks.runs.follow",
        "athanor.core.keys",
        "athanor.core.disk",
        "athanor.core.digests",
        "athanor.core.store",
        "athanor.core.code",
        "athanor.core.errors",
        "athanor.core.near",
        "athanor.core.progress",
        "athanor.core.runtime",
    }
)


def code_fingerprint(module: str) -> str:
    """Hex sha256 over `module` (dotted name) and the project modules it imports, transitively."""
    sources: dict[str, Path | None] = {}  # of every name met; None where it is no module of ours
    waiting = {module}
    while waiting:
        name = waiting.pop()
        sources[name] = None if name in PLUMBING else _source(name)
        if (path := sources[name]) is not None:
            waiting |= {imported for imported in _imports(syntax_tree(path)) if imported not in sources}
    covered = {name: path for name, path in sorted(sources.items()) if path is not None}
    digest = hashlib.sha256()
    for name, path in covered.items():
        digest.update(f"{name}\0{normalised_code(syntax_tree(path))}\0".encode())
    for folder in sorted({path.parent for path in covered.values()}):
        for file in sorted(file for pattern in RESOURCES for file in folder.glob(pattern)):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _source(module: str) -> Path | None:
    package, *parts = module.split(".")
    if package != PACKAGE or not parts:
        return None
    path = ROOT.joinpath(*parts)
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def syntax_tree(path: Path) -> ast.Module:
    """The parsed file, read once per process."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(tree: ast.Module) -> tuple[str, ...]:
    names: list[str] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Kinds":
            names += _room(ast.literal_eval(node.args[1]))
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _room(package: str) -> list[str]:
    """Every module below a package of the project: what a table of `Kinds` imports without naming it."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    files = sorted(path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    return [".".join((package, *file.parts)) for file in files]


@cache
def normalised_code(tree: ast.AST) -> str:
    """A text of the syntax tree in which comments, layout and docstrings leave no trace."""
    for node in _blocks(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:]
    return ast.dump(tree)


def _blocks(tree: ast.AST) -> Iterator[ast.AST]:
    """The tree and every statement, handler and case below it, which is where definitions can stand."""
    yield tree
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inner in getattr(tree, field, ()):
            yield from _blocks(inner)
