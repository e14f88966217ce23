"""Mutants of the look at a benchmark's own rows."""

from mutant import Mutant

ROOM = "tests/tasks/benchmarks"
FIRST = (
    ("islice(_rows(task, path, fields), most)", "islice(_rows(task, path, fields), 9)", "every row is looked at"),
    ("missing_field(row, fields) or _wrong_answer(row)", "_wrong_answer(row)", "a field that a template names"),
    ("if line.strip():", "if True:", "blank lines are no rows"),
    ("if key not in labels:", "if False:", "an answer among its choices"),
)
SCORED = (
    ("if problem := missing_field(document, fields):", "if problem := None:", "a null is not written into a prompt"),
    ("if as_in_file else", "if True else", "rows that are left out move the numbers"),
    ('if getattr(task, "multiple_input", 0) else target', "if False else target", "the place of the right context"),
    ("0 <= right < len(choices)", "right < len(choices)", "no place before the first"),
    ("limit=limit", "limit=None", "what is not scored is not looked at"),
)
MUTANTS = [
    *(Mutant("tasks/benchmarks/first_rows.py", *change, (f"{ROOM}/test_first_rows.py",)) for change in FIRST),
    *(Mutant("tasks/benchmarks/scored_rows.py", *change, (f"{ROOM}/test_scored_rows.py",)) for change in SCORED),
]
