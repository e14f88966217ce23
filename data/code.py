"""A fingerprint of the code behind a stage, so that a stale result is noticed.

The fingerprint covers the stage's module and every module of this project that it imports, directly or not,
as syntax trees without docstrings: a comment or a docstring changes nothing, a changed expression does. It is
no part of an artifact's key (that would rebuild everything on every edit); a difference is shown as a warning.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("flows", "tasks", "reports", "models", "kernels", "data")
# What every stage stands on but whose edits do not change what a stage computes.
PLUMBING = frozenset(
    {"tasks.stage", "data.store", "data.code", "data.errors", "data.progress", "data.runtime"}
)


def code_fingerprint(module: str) -> str:
    """Hex sha256 over `module` (dotted name) and the project modules it imports, transitively."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in PLUMBING and _source(name) is not None:
            seen.add(name)
            waiting.extend(_imports(name))
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{name}\0{_tree(name)}\0".encode())
    return digest.hexdigest()


@cache
def _source(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _parse(module: str) -> ast.Module:
    path = _source(module)
    assert path is not None
    return ast.parse(path.read_text())


@cache
def _imports(module: str) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


@cache
def _tree(module: str) -> str:
    return normalised_code(_parse(module))


def normalised_code(tree: ast.AST) -> str:
    """A text of the syntax tree in which comments, layout and docstrings leave no trace."""
    for node in ast.walk(tree):
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
