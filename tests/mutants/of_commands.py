"""Mutants of what commands choose and count: presets made for a text, sweeps, and benchmarks of a user's own."""

from __future__ import annotations

from mutant import Mutant

OWN, FIT, SWEEP = (
    "tests/tasks/benchmarks/test_own.py",
    "tests/flows/fitting/test_fit.py",
    "tests/flows/cli/test_sweep.py",
)

MUTANTS = [
    Mutant(
        "tasks/benchmarks/own.py",
        """            seen[task_file.parent / f"{module.replace('.', '/')}.py"] = None
""",
        """            pass
""",
        "the Python files of a benchmark are part of its key",
        (f"{OWN}::test_whatever_it_says_is_in_the_key_and_where_it_lies_is_not",),
    ),
    Mutant(
        "tasks/evaluate.py",
        '{"task_sha256": own_sha256(task.name)}',
        "{}",
        "what a benchmark of one's own says is part of its key",
        (f"{OWN}::test_whatever_it_says_is_in_the_key_and_where_it_lies_is_not",),
    ),
    Mutant(
        "tasks/benchmarks/index.py",
        'if content["folder"] == str(root):',
        "if True:",
        "names that another installation defines are searched anew",
        ("tests/tasks/benchmarks/test_index.py",),
    ),
    Mutant(
        "flows/fitting/fit.py",
        "tokens = min(in_time, worth_reading_tokens(chosen.counted, chosen.text_bytes))",
        "tokens = in_time",
        "a written preset reads no text more often than is worth it",
        (f"{FIT}::test_little_text_is_not_read_more_often_than_is_worth_it",),
    ),
    Mutant(
        "flows/fitting/fit.py",
        "left_s = PLANNED_SHARE * self.asked_s - others_s",
        "left_s = self.asked_s",
        "a written preset leaves time for the stages beside training",
        (f"{FIT}::test_too_little_time_and_too_little_text_are_said_with_the_remedy",),
    ),
    Mutant(
        "flows/cli/options.py",
        "={value / len(swept)}",
        "={value}",
        "the budget of a sweep is for all its runs",
        (f"{SWEEP}::test_each_value_is_run_and_the_budget_is_shared_out",),
    ),
]
