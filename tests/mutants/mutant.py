"""What a mutant is: one change of one place that breaks one mechanism, and the tests that must notice."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

# Tests that take more than about five seconds on two idle cores: their mutants wait for a run of the whole list.
SLOW = (
    "tests/data/test_loader.py",
    "tests/data/test_shards.py",
    "tests/data/test_tokenizer.py",
    "tests/flows/plan/test_budget.py",
    "tests/flows/plan/test_plan.py",
    "tests/flows/plan/test_survey.py",
    "tests/flows/test_flow.py",
    "tests/models/families/huginn/test_definition.py",
    "tests/models/test_slices.py",
    "tests/models/test_step_count.py",
    "tests/models/test_twin.py",
    "tests/tasks/test_stage.py",
    "tests/tasks/test_stage_task.py",
    "tests/tasks/trainer/engines/test_engines.py::test_conversations_of_uneven_length_teach_ranks_what_they_teach_one_process",
    "tests/tasks/trainer/step/test_micro_batch.py",
    "tests/tasks/trainer/test_faults.py",
    "tests/tasks/trainer/test_run.py",
)


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; one of `tests`, each a file or `file::test`, must then fail."""

    file: str
    old: str
    new: str
    mechanism: str
    tests: tuple[str, ...]

    @property
    def quick(self) -> bool:
        """Whether its tests take seconds."""
        return not any(test in SLOW for test in self.tests)

    def apply(self, root: Path) -> None:
        """Write it into a copy of the sources. Raises ValueError where `old` does not stand there exactly once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {count} times, not once: {self.mechanism}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def mutants_by_list() -> dict[str, list[Mutant]]:
    """The `MUTANTS` of every `of_*.py` beside this file, which must be importable by its bare name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("of_*.py"))
    return {name: list(importlib.import_module(name).MUTANTS) for name in names}
