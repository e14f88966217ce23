"""The documentation says what is so: commands, presets, settings, messages, paths and links are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer
from athanor.flows.cli.chaos import chaos
from athanor.flows.cli.main import app
from athanor.flows.plan.machine import rented_machine
from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import Preset, load_preset
from athanor.flows.server.deployments import WORK_POOL, prefect_yaml
from athanor.models.build import build_model
from athanor.models.checkpoints.portable import save_portable
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.runs.read import query, reading
from athanor.tasks.runs.schema import database_path, emptied
from athanor.tasks.trainer.wandb_run import sync_command

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
MOST_WORDS = 970  # of the README
ELLIPSIS = "…"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fenced(page: Path) -> Iterator[tuple[str, str]]:
    """(language and title, content) of every fenced block."""
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        yield found[1], found[2]


def prose(page: Path) -> str:
    """The text outside of fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def quoted(page: Path) -> list[str]:
    """What stands between backticks in a line of prose, each once and in order."""
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", prose(page))))


def blocks(*languages: str) -> list[Any]:
    """The blocks of these languages in all texts, as parameters of a test; what uses the examples of `extending.md` is
    tried by test_extending.py, where they are."""
    return [
        pytest.param(content, title, id=f"{name_of(page)}-{number}")
        for page in TEXTS
        if page != DOCS / "extending.md"
        for number, (info, content) in enumerate(fenced(page), start=1)
        for language, _, title in [info.partition(" ")]
        if language in languages
    ]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= MOST_WORDS


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    inside = DOCS if page in PAGES else ROOT
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert file.is_relative_to(inside), f"{target} leaves the site"
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_path_of_the_repository_that_is_named_exists(page):
    for path in quoted(page):
        if re.match(rf"({'|'.join(ROOMS)}|docs|tests)/\S+$", path):
            pattern = re.sub(r"<\w+>", "*", path).rstrip("/")
            assert list(ROOT.glob(pattern)), path


def test_every_guarantee_names_tests_that_are_there():
    rows = re.findall(r"^\| (?!promise)([^|]+) \| ([^|]+) \|$", (DOCS / "guarantees.md").read_text(), re.MULTILINE)
    assert len(rows) >= 30
    for promise, held_by in rows:
        patterns = re.findall(r"`(tests/[^`]+)`", held_by)
        assert patterns or "athanor-chaos" in held_by, promise
        for pattern in patterns:
            files = list(ROOT.glob(pattern))
            assert files, pattern
            assert all("\ndef test_" in file.read_text() for file in files), pattern


def test_the_tree_in_the_readme_is_that_of_the_repository():
    (tree,) = [content for info, content in fenced(ROOT / "README.md") if "flows/  " in content and not info]
    above: list[str] = []
    named = set()
    for line in tree.splitlines():
        indent, folder = re.match(r"( *)(\S+)/ ", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        above = [*above[: len(indent) // 2], folder]
        named.add("/".join(above))
        assert ROOT.joinpath(*above).is_dir(), line
    assert {*ROOMS, "docs", "tests"} <= named


def test_every_page_is_in_the_navigation_once():
    def targets(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for target in entry.values():
                yield from targets(target) if isinstance(target, list) else [target]

    listed = list(targets(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page_in_the_reference(room):
    assert any(re.search(rf"^::: athanor\.{room}$", page.read_text(), re.MULTILINE) for page in PAGES)


def save_small_checkpoint(folder: Path) -> None:
    """Write a model and its tokenizer."""
    tokenizer = folder.with_name("tokenizer")
    facts = build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["two hens sat on two eggs"]), tokenizer)
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 16, "d_ff": 16}
    recipe = ModelRecipe.model_validate({"family": "vanilla", "vocab_size": facts["vocab_size"], **shape})
    save_portable(folder, build_model(recipe), tokenizer)


@pytest.mark.parametrize(("content", "title"), blocks("yaml"))
def test_every_preset_loads(content, title, tmp_path, private_home, monkeypatch):
    if "prices.yaml" in title:
        private_home.mkdir()
        (private_home / "prices.yaml").write_text(content)
        for device in yaml.safe_load(content):
            assert rented_machine(device, load_preset("quickstart").runtime).price_source.endswith("home/prices.yaml")
        return
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    fields = yaml.safe_load(content)
    if (place := fields.get("model", {}).get("checkpoint")) is not None:
        monkeypatch.chdir(tmp_path)
        save_small_checkpoint(Path(place))
    preset = load_preset(str(file))
    if (base := fields.get("extends")) is None:
        assert place is not None
        return
    assert preset != load_preset(base).model_copy(update={"name": preset.name, "description": preset.description})


def commands() -> list[Any]:
    """Every line of every block of commands, and every command in the prose, as parameters of a test."""
    found = []
    for page in TEXTS:
        lines = [line for info, content in fenced(page) if info in ("", "sh") for line in content.splitlines()]
        lines += [text for text in quoted(page) if text.startswith(("athanor ", "make ")) and " ... " not in text]
        found += [pytest.param(line, id=f"{name_of(page)}: {line[:60].strip()}") for line in lines if _starts(line)]
    return found


def _starts(line: str) -> bool:
    """Whether a line of a block is a command: the tree of folders is none."""
    return bool(line.strip()) and not re.match(r" *\w+/ ", line)


@pytest.mark.parametrize("line", commands())
def test_every_command_exists_with_its_options(line):
    words = shlex.split(line, comments=True)
    words = words[: next((n for n, word in enumerate(words) if word in ("|", ">")), len(words))]
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, *arguments = words
    CHECKS[program](arguments)


def new_database() -> AbstractContextManager[sqlite3.Connection]:
    """The metrics database, to be written: all its tables and no run."""
    database_path().parent.mkdir(exist_ok=True)
    return emptied()


def test_the_tables_of_the_metrics_database_are_described_with_their_columns():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+(?:, \w+)+) \|$", (DOCS / "reports.md").read_text(), re.MULTILINE)
    with new_database() as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")} - {"followed"}
        columns = {table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}
    assert {table: names.split(", ") for table, names in rows} == columns


def _check_athanor(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    if arguments and arguments[0].startswith("--"):  # of the application itself
        assert arguments[0] in {name for option in command.params for name in option.opts}
        return
    while hasattr(command, "commands") and arguments:
        command = command.commands[arguments.pop(0)]
    if not arguments:  # spoken of, not given
        return
    context = command.make_context(command.name, [*arguments])
    given = context.params
    if (preset := given.get("preset")) in preset_names():
        load_preset(preset, given.get("settings") or ())
    if sql := given.get("sql"):
        with new_database():
            pass
        with reading() as db:
            query(db, sql)


def _check_chaos(arguments: list[str]) -> None:
    single = typer.Typer()
    single.command()(chaos)
    typer.main.get_command(single).make_context("athanor-chaos", arguments)


def _check_make(arguments: list[str]) -> None:
    for target in arguments:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def _check_prefect(arguments: list[str]) -> None:
    written = yaml.safe_load(prefect_yaml())["deployments"]
    names = {f"{one['entrypoint'].partition(':')[2].replace('_', '-')}/{one['name']}" for one in written}
    assert set(filter(lambda word: "/" in word, arguments)) <= names
    assert [pool for flag, pool in pairwise(arguments) if flag == "--pool"] in ([], [WORK_POOL])


def _check_python(arguments: list[str]) -> None:
    assert arguments[0] == "-m"
    assert find_spec(arguments[1]), arguments[1]


def _check_wandb(arguments: list[str]) -> None:
    command, pattern = arguments
    written = sync_command(Path(".athanor/store/pretrain/.vanilla-0123.partial")).replace("*", "20260101_000000-a")
    assert command == "sync" and Path(written.split()[-1]).match(pattern)


CHECKS = {
    "athanor": _check_athanor,
    "athanor-chaos": _check_chaos,
    "make": _check_make,
    "prefect": _check_prefect,
    "python": _check_python,
    "wandb": _check_wandb,
    "export": lambda arguments: None,
    ".": lambda arguments: None,
}


@cache
def settings() -> frozenset[str]:
    """Every field of a preset by its dotted path; a mapping's own keys are `*`."""
    schema = Preset.model_json_schema()

    def walk(node: dict[str, Any], path: str) -> Iterator[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for branch in (*node.get("anyOf", ()), *node.get("allOf", ())):
            yield from walk(branch, path)
        if isinstance(node.get("items"), dict):
            yield from walk(node["items"], path)
        if isinstance(node.get("additionalProperties"), dict):
            yield from walk(node["additionalProperties"], f"{path}.*")
        for name, inner in node.get("properties", {}).items():
            yield f"{path}.{name}"
            yield from walk(inner, f"{path}.{name}")

    return frozenset(walk(schema, ""))


@pytest.mark.parametrize("page", [page for page in TEXTS if page.parent != DOCS / "api"], ids=name_of)
def test_every_setting_that_is_named_is_a_field_of_a_preset(page):
    sections = {path.split(".")[1] for path in settings()} - {"name", "description", "report"}
    nested = {"train", "guard", "mixture", "source", "polychromatic", "hydra", "huginn", "swa_mla", "vanilla"}
    for text in quoted(page):
        found = re.match(rf"((?:{'|'.join(sections | nested)})(?:\.[a-z_]+)+)(?:[=:]|$)", text)
        if found and not text.endswith((".json", ".jsonl", ".py", ".safetensors")):
            assert any(path.endswith(f".{found[1]}") for path in settings()), text


@pytest.mark.parametrize("page", [page for page in TEXTS if page.parent != DOCS / "api"], ids=name_of)
def test_every_name_with_an_underscore_is_one_of_the_code(page):
    known = words_of_the_code()
    texts = [text for text in quoted(page) if "tests/" not in text]  # those are looked for as paths
    names = {name for text in texts for name in re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", text)}
    assert not names - known


@cache
def words_of_the_code() -> frozenset[str]:
    files = [file for room in ROOMS for kind in ("*.py", "*.yaml") for file in (ROOT / room).rglob(kind)]
    return frozenset(word for file in files for word in re.findall(r"\w+", file.read_text()))


@cache
def sayings() -> frozenset[str]:
    """Every text in the code, what varies in it as an ellipsis."""
    found = set()
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else ELLIPSIS for part in node.values)
                    found.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value.replace("%s", ELLIPSIS))
    return frozenset(text.replace("`", "") for text in found)


def test_every_message_in_troubleshooting_is_one_the_code_says():
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for message in rows if not message.startswith("athanor")]
    assert len(messages) > 40
    for message in messages:
        assert any(message in text for text in sayings()), message


def test_the_page_of_fields_has_all_of_them():
    spec = spec_from_file_location("preset_fields", DOCS / "preset_fields.py")
    assert spec is not None and spec.loader is not None
    hook = module_from_spec(spec)
    spec.loader.exec_module(hook)
    written = hook.on_page_markdown((DOCS / "preset.md").read_text())
    for path in settings():
        assert f"\n| `{path.rpartition('.')[2]}` | " in written, path


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    subprocess.run(["make", "linked"], cwd=ROOT, check=True, capture_output=True)
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(mkdocs, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="([^"]+)"', page.read_text())
        assert not [target for target in loaded if target.startswith(("http:", "https:", "//"))], page
        assert 'class="mermaid"' not in page.read_text(), "the theme fetches mermaid from the network"
