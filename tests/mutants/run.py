"""Breaks one mechanism after the other and reports those that no test misses: `make mutants`, or with words that the
list, the file or the mechanism holds, `make mutants ONLY="huginn norm"`.

`make mutants-twenty` tries twenty of those that are quick to try, two at a time, as the ordinary checks do: which ones
the hash of the commit decides, so that another twenty come with every commit and the same ones with the same commit,
and those not begun after TWENTY_S are left out. Works in copies of the tracked files; ends with 1 where a mutant
survives.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import hypothesis  # noqa: F401
import pytest
import torch
from mutant import Mutant, mutants_by_list

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")
NOTICED, SURVIVES, ENDLESS, LEFT_OUT = "noticed ", "SURVIVES", "endless ", "left out"
LIMIT_S = 300.0  # what runs longer runs for ever
TWENTY, TWENTY_S, TWENTY_LIMIT_S = 20, 110.0, 40.0


def copy_sources(folder: Path) -> None:
    """The tracked files below `folder`, its rooms importable from `folder/linked`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "linked" / "athanor").mkdir(parents=True)
    for room in ROOMS:
        (folder / "linked" / "athanor" / room).symlink_to(folder / room)


def exit_code(folder: Path, tests: tuple[str, ...], limit_s: float | None) -> int | None:
    """That of pytest on the sources below `folder`; None where it does not end. Forked, so that torch is imported once
    for all."""
    process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(folder, tests))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


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


def fate(folder: Path, mutant: Mutant, limit_s: float) -> str:
    """What its tests say with the mutant in place, which is taken out again."""
    before = (folder / mutant.file).read_bytes()
    mutant.apply(folder)
    try:
        code = exit_code(folder, mutant.tests, limit_s)
    finally:
        (folder / mutant.file).write_bytes(before)
    return ENDLESS if code is None else SURVIVES if code == 0 else NOTICED


def of_words(words: list[str]) -> list[Mutant]:
    """Those whose list, file and mechanism hold all the words."""
    return [
        mutant
        for name, mutants in mutants_by_list().items()
        for mutant in mutants
        if all(word in f"{name} {mutant.file} {mutant.mechanism}" for word in words)
    ]


def of_commit(commit: str) -> list[Mutant]:
    """The twenty of a commit, of all that are quick."""
    quick = [mutant for mutant in of_words([]) if mutant.quick]
    return random.Random(commit).sample(quick, TWENTY)


# Each worker process has a copy of its own, made when it starts.
_copy: Path


def _make_copy(parent: Path) -> None:
    global _copy
    _copy = Path(tempfile.mkdtemp(dir=parent))
    copy_sources(_copy)


def _in_copy(do: Callable[..., object], until_s: float, *arguments: object) -> tuple[object, float]:
    """`do(copy, *arguments)` and its seconds; None if it is later than `until_s`."""
    began = time.monotonic()
    return (do(_copy, *arguments) if began < until_s else None), time.monotonic() - began


def try_all(chosen: list[Mutant], workers: int, limit_s: float, until_s: float) -> int:
    """Tries them and says what became of each; returns the exit code."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, fork, _make_copy, (Path(parent),)) as pool:
            tests = sorted({test for mutant in chosen for test in mutant.tests})
            passing = partial(_in_copy, _passes, float("inf"))
            shares = [tuple(tests[worker::workers]) for worker in range(workers)]
            if not all(found for found, _ in pool.map(passing, filter(None, shares))):
                failing = [test for test in tests if not pool.submit(passing, (test,)).result()[0]]
                print("these tests fail as they are, without any mutant:", *failing)
                return 1
            print(f"{len(tests)} test files pass as they are; {time.monotonic() - started:.0f} s", flush=True)
            trial = partial(_in_copy, partial(fate, limit_s=limit_s), until_s)
            fates = []
            for mutant, (found, took_s) in zip(chosen, pool.map(trial, chosen), strict=True):
                fates.append(found or LEFT_OUT)
                print(fates[-1], f"{took_s:4.0f} s  {mutant.file}: {mutant.mechanism}", flush=True)
    counts = ", ".join(
        f"{fates.count(found)} {found.strip().lower()}" for found in (NOTICED, SURVIVES, ENDLESS, LEFT_OUT)
    )
    print(f"{len(chosen)} mutants: {counts}; {time.monotonic() - started:.0f} s")
    if fates and set(fates) == {LEFT_OUT}:
        print("none could be tried in the time there is: nothing is known")
        return 1
    return 1 if SURVIVES in fates else 0


def _passes(folder: Path, tests: tuple[str, ...]) -> bool:
    return exit_code(folder, tests, None) == 0


def main(words: list[str]) -> int:
    """`--twenty` and perhaps a commit, or words that choose; returns the exit code."""
    if words[:1] != ["--twenty"]:
        return try_all(of_words(words), 1, LIMIT_S, float("inf"))
    asked = ["git", "rev-parse", *(words[1:] or ["HEAD"])]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    print(f"{TWENTY} mutants of commit {commit}", flush=True)
    return try_all(of_commit(commit), 2, TWENTY_LIMIT_S, time.monotonic() + TWENTY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
