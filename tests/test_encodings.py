"""Files and pipes are UTF-8 whatever the locale: nothing in the code leaves the encoding to it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")
LATIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def left_to_the_locale(source: str) -> Iterator[int]:
    """Lines of calls that read or write text without saying in which encoding."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(word.arg in ("encoding", None) for word in node.keywords):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
            modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            binary = any("b" in mode for mode in modes if set(mode) <= set("rwxabt+"))
            of_text = any(word.arg in ("text", "universal_newlines") for word in node.keywords)
            if name in ("read_text", "write_text") or of_text:
                yield node.lineno
            if (name == "open" or name == "fdopen") and not binary and not _opens_no_file(node):
                yield node.lineno


def _opens_no_file(call: ast.Call) -> bool:
    """Whether `open` is a function of ours, or opens something in binary whatever it is asked."""
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(of, ast.Name) and (of.id[0].isupper() or of.id in ("os", "gzip", "bz2", "lzma"))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("path.open('w')", True),
        ("subprocess.run(command, text=True)", True),
        ("open(path, 'rb')", False),
        ("path.open(mode='ab')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("HarnessLM.open(folder)", False),
    ],
)
def test_the_rule_finds_what_it_should(code, found):
    assert bool(list(left_to_the_locale(code))) is found


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_read_or_written_in_the_encoding_of_the_locale(room):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in left_to_the_locale(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_commands_work_on_text_that_the_terminal_cannot_show(tmp_path):
    (tmp_path / "ключ.txt").write_text("привет, 世界\n\n" * 500, encoding="utf-8")
    text = 'extends: quickstart\ndescription: "печь → 世界"\ndata: {sources: {notes: {path: "ключ.txt"}}}\n'
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    athanor = str(Path(sys.executable).with_name("athanor"))
    environment = {**os.environ, **LATIN, "ATHANOR_HOME": str(tmp_path / "дом")}
    for arguments in (["presets", "mine.yaml"], ["presets", "ключ"], ["run", "mine.yaml", "--only", "data"]):
        done = subprocess.run([athanor, *arguments], cwd=tmp_path, env=environment, capture_output=True)
        said = (done.stdout + done.stderr).decode()
        assert "Traceback" not in said and done.returncode == (2 if arguments[1] == "ключ" else 0), said
        assert "ключ" in said or "печь → 世界" in said or "is done" in said
