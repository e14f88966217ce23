"""The page on extending is true: its examples, written into a copy of the repository, are all it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stranger import ROOT, make_clone

PAGE = ROOT / "docs" / "extending.md"
OF_ALL = {  # tests that every one of a kind has to pass -> the example's name in them
    "tests/models/test_family_contracts.py": "average",
    "tests/tasks/trainer/optimizers/test_steps.py": "sign-sgd",
}


@dataclass(frozen=True)
class Example:
    """The files of a section of the page, path -> content."""

    kind: str
    files: dict[str, str]

    @property
    def code(self) -> list[str]:
        return [path for path in self.files if not path.startswith("tests/")]

    @property
    def tests(self) -> list[str]:
        return [path for path in self.files if path.startswith("tests/")]


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
        if blocks:
            found.append(Example(section.partition("\n")[0], dict(blocks)))
    return found


EXAMPLES = examples()


def plant(clone: Path) -> None:
    """Write every example into the clone; a file that is there gets it at its end."""
    for example in EXAMPLES:
        for path, content in example.files.items():
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            before = f"{(clone / path).read_text()}\n\n" if (clone / path).exists() else ""
            (clone / path).write_text(before + content)
    subprocess.run(["make", "linked"], cwd=clone, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of the repository with the examples."""
    clone = make_clone(tmp_path_factory.mktemp("extended"))
    plant(clone)
    return clone


@pytest.fixture(scope="module")
def outcomes(clone) -> dict[tuple[str, str], str]:
    """(module, test) -> its failure, or nothing, of all tests of the examples."""
    result = clone / "result.xml"
    ours = {test for example in EXAMPLES for test in example.tests} | OF_ALL.keys() | {"tests/support/extended.py"}
    chosen = " and ".join(f"({name} or not {Path(test).stem})" for test, name in OF_ALL.items())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={result}", "-k", chosen, *sorted(ours)],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone / "build" / "linked")},
        capture_output=True,
        text=True,
    )
    assert result.is_file(), done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(result).iter("testcase"):
        problems = [child.text or child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        found[case.get("classname", ""), case.get("name", "")] = "\n".join(problems)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind)
def test_the_files_of_the_page_are_all_it_takes_to_add(example, outcomes):
    modules = {test.removesuffix(".py").replace("/", ".") for test in example.tests}
    about = f"test_the_{example.kind.split()[-1]}_"
    concerned = {name: problem for (module, name), problem in outcomes.items() if module in modules or about in name}
    if example.kind == "A family":
        concerned |= {name: problem for (_, name), problem in outcomes.items() if name.endswith("[average]")}
        assert len(concerned) > 10
    assert concerned
    assert not {name: problem for name, problem in concerned.items() if problem}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.kind)
def test_the_page_counts_the_files_and_none_of_them_is_there(example):
    rows = dict(re.findall(r"^\| \[(an? \w+)\]\(#[\w-]+\) \|[^|]*\| (\d+) \|$", PAGE.read_text(), re.MULTILINE))
    assert len(example.code) == int(rows[example.kind.lower()])
    assert not [path for path in example.code if (ROOT / path).exists()]
    assert len(rows) == len(EXAMPLES)


def test_the_examples_are_as_tidy_as_the_code(clone):
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
