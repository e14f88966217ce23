"""Mutants of what is built at once, and of what that costs."""

from __future__ import annotations

from mutant import Mutant

SIDE, ROOM = "tests/flows/test_side_by_side.py", "tests/flows/test_room.py"

MUTANTS = [
    Mutant(
        "flows/room.py",
        "if gpu not in (place.gpu for place in self.taken)]",
        "]",
        "a model has a GPU for itself",
        (f"{ROOM}::test_never_two_on_one_gpu",),
    ),
    Mutant(
        "flows/room.py",
        " and together_bytes <= self.memory_bytes",
        "",
        "what is built at once fits the memory",
        (f"{ROOM}::test_never_more_memory_than_is_free_but_for_one_that_is_alone",),
    ),
    Mutant(
        "flows/room.py",
        "LOADING * weights_bytes + batch_bytes",
        "LOADING * weights_bytes",
        "a batch is part of what a model needs",
        (f"{ROOM}::test_what_reads_with_a_model_needs_its_weights_and_a_batch_of_its_rows",),
    ),
    Mutant(
        "flows/chain.py",
        "training = [asked for asked in ready if asked.stage.trains]",
        "training: list[Asked] = []",
        "training is run before what else could be",
        (f"{SIDE}::test_training_waits_for_what_needs_none_and_comes_alone_and_then_all_that_is_made_from_it",),
    ),
    Mutant(
        "flows/chain.py",
        "if asked.key not in needs_training]:",
        "if False]:",
        "what needs no training comes first",
        ("tests/flows/test_chain.py::test_conversations_come_before_training_however_much_is_cached",),
    ),
    Mutant(
        "flows/chain.py",
        "                    self._hear(waiting)\n",
        "",
        "what later stages foresee is heard before training is paid for",
        (
            "tests/flows/test_chain.py::test_what_is_refused_after_training_is_refused_before_it_as_soon_as_that_can_be_told",
        ),
    ),
    Mutant(
        "tasks/stage_process.py",
        "            os._exit(1)",
        "            return",
        "a process ends with whoever started it",
        (f"{SIDE}::test_a_process_ends_with_whoever_started_it",),
    ),
    Mutant(
        "core/shared_time.py",
        " / len(self._going_on)",
        "",
        "what overlaps shares the time",
        ("tests/core/test_shared_time.py",),
    ),
]
