"""Breaks one mechanism after the other and reports those that no test misses: `make mutants`, or with words that the
file or the mechanism holds, `make mutants ONLY="huginn norm"`. `make mutants-of-today` takes as many in turn as are
quick to try, and over some weeks all of them.

Works in a copy of the tracked files; ends with 1 where a mutant survives.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import hypothesis  # noqa: F401
import pytest
import torch
from mutant import Mutant, every_mutant

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")
OF_A_DAY = 20
_LIMIT_S = 300  # a mutant that runs for ever is noticed


def copy_sources(folder: Path) -> None:
    """The tracked files below `folder`, its rooms importable from `folder/linked`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "linked" / "athanor").mkdir(parents=True)
    for room in ROOMS:
        (folder / "linked" / "athanor" / room).symlink_to(folder / room)


def passes(folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether these tests pass on the sources below `folder`. Forked, so that torch is imported once for all."""
    process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(folder, tests))
    process.start()
    process.join(_LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _run_tests(folder: Path, tests: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # or the next mutant of the same second and size would not be compiled
    os.chdir(folder)
    sys.path.insert(0, str(folder / "linked"))
    os.environ["PYTHONPATH"] = str(folder / "linked")  # for the processes that tests start
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def survives(folder: Path, mutant: Mutant) -> bool:
    """Whether its tests pass with the mutant in place, which is taken out again."""
    before = (folder / mutant.file).read_bytes()
    mutant.apply(folder)
    try:
        return passes(folder, mutant.tests)
    finally:
        (folder / mutant.file).write_bytes(before)


def of_today(mutants: list[Mutant], day: int) -> list[Mutant]:
    """OF_A_DAY neighbours, which share tests; the next ones the day after."""
    first = day * OF_A_DAY % len(mutants)
    return (mutants + mutants)[first : first + OF_A_DAY]


def main(words: list[str]) -> int:
    """Runs the mutants whose file and mechanism hold all the words, or `--of-today`; returns the exit code."""
    if words == ["--of-today"]:
        chosen = of_today(every_mutant(), date.today().toordinal())
    else:
        chosen = [m for m in every_mutant() if all(word in f"{m.file} {m.mechanism}" for word in words)]
    if not chosen:
        print(f"no mutant holds {' and '.join(words)} in its file or mechanism")
        return 1
    survivors, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        tests = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
        if not passes(folder, tests):
            print("the tests fail as they are, without any mutant:", *tests)
            return 1
        for mutant in chosen:
            alive = survives(folder, mutant)
            print("SURVIVES" if alive else "noticed ", f"{mutant.file}: {mutant.mechanism}", flush=True)
            survivors += [mutant] if alive else []
    print(f"{len(chosen)} mutants, {len(survivors)} survive, {time.monotonic() - started:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
