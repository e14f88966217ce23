"""Mutants of what holds flows and benchmarks to the commits of hub repositories in their keys."""

from mutant import Mutant

PINNED = ("tests/tasks/benchmarks/test_pinned_sets.py",)
CHANGES = (
    ('kwargs["revision"] = commits[path]', "pass", "a data set is asked for at its commit"),
    ("elif read not in (None, asked):", "elif False:", "a copy of another commit is refused"),
    ("unpinned[path] = read or UNKNOWN", "pass", "a set without a commit is named"),
    ("if path in hub_sets:", "if True:", "local data are no set of the hub"),
)
PREFLIGHT = tuple(
    f"tests/flows/plan/test_preflight.py::{name}"
    for name in (
        "test_copies_of_several_commits_fix_none_and_a_copy_of_another_is_of_no_use",
        "test_a_branch_that_moved_on_is_said_of_what_is_still_built_alone",
    )
)
FLOW = (
    ("            _settle_hub(preset, name, rebuilt)\n", "", "a flow that no command started learns the commits"),
    ('if finding.level == "error"', "if False", "what cannot be read ends a flow before it begins"),
)
HUB = (
    ('replace(stage, state="run") if stage.stage in rebuilt else stage', "stage", "what is built again is asked about"),
    ("if len(copies) == 1 else None", "if copies else None", "copies of several commits fix none"),
    ("else commit in copies", "else bool(copies)", "a copy of another commit is of no use"),
)
MUTANTS = [
    *(Mutant("tasks/benchmarks/pinned_sets.py", *change, PINNED) for change in CHANGES),
    *(Mutant("flows/flow.py", *change, ("tests/flows/test_flow.py",)) for change in FLOW),
    *(Mutant("flows/plan/preflight.py", *change, PREFLIGHT) for change in HUB),
]
