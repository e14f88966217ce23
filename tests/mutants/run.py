"""Breaks one mechanism after the other and reports those that no test misses: `make mutants`, or with words that the
list, the file or the mechanism holds, `make mutants ONLY="huginn norm"`.

`make mutants-twenty` tries twenty of those that are quick to try, two at a time, as the ordinary checks do: the date
(UTC) decides which, so that another twenty come every day and the same ones all day, and those not begun after TWENTY_S
are left out. Works in copies of the tracked files; ends with 1 where a mutant survives.
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
from datetime import UTC, datetime
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


def exit_code(folder: Path, tests: tuple[str, ...], limit_s: float) -> int | None:
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
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    os._exit(code)  # what the parent process means to do at its own end is not done here


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


def of_day(day: str) -> list[Mutant]:
    """The twenty of a day, of all that are quick."""
    quick = [mutant for mutant in of_words([]) if mutant.quick]
    return random.Random(day).sample(quick, TWENTY)


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


def try_all(chosen: list[Mutant], workers: int, limit_s: float, trials_s: float) -> int:
    """Tries them and says what became of each; returns the exit code. None is begun once the trials took `trials_s`."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, fork, _make_copy, (Path(parent),)) as pool:
            tests = sorted({test for mutant in chosen for test in mutant.tests})
            failing = []
            whole = pool.map(partial(_in_copy, _passes, float("inf")), tests)
            for test, (passes, took_s) in zip(tests, whole, strict=True):
                failing += [] if passes else [test]
                print("whole   " if passes else "FAILS   ", f"{took_s:4.0f} s  {test}", flush=True)
            if failing:
                print(f"{len(failing)} tests fail as they are, without any mutant")
                return 1
            trial = partial(_in_copy, partial(fate, limit_s=limit_s), time.monotonic() + trials_s)
            fates = []
            for mutant, (found, took_s) in zip(chosen, pool.map(trial, chosen), strict=True):
                fates.append(found or LEFT_OUT)
                print(fates[-1], f"{took_s:4.0f} s  {mutant.file}: {mutant.mechanism}", flush=True)
    counts = ", ".join(
        f"{fates.count(found)} {found.strip().lower()}" for found in (NOTICED, SURVIVES, ENDLESS, LEFT_OUT)
    )
    print(f"{len(chosen)} mutants: {counts}; {time.monotonic() - started:.0f} s")
    if set(fates) == {LEFT_OUT}:
        print("none could be tried in the time there is: nothing is known")
        return 1
    return 1 if SURVIVES in fates else 0


def _passes(folder: Path, test: str) -> bool:
    return exit_code(folder, (test,), LIMIT_S) == 0


def main(words: list[str]) -> int:
    """`--twenty` and perhaps a date, or words that choose; returns the exit code."""
    if words[:1] != ["--twenty"]:
        chosen = of_words(words)
        if not chosen:
            print(f"no mutant holds {' and '.join(words)} in its list, file or mechanism")
            return 1
        return try_all(chosen, 1, LIMIT_S, float("inf"))
    day = words[1] if words[1:] else datetime.now(UTC).date().isoformat()
    print(f"{TWENTY} mutants of {day}", flush=True)
    return try_all(of_day(day), 2, TWENTY_LIMIT_S, TWENTY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
