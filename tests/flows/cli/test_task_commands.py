"""`athanor tasks` lists what a model can be evaluated on."""

from __future__ import annotations

from athanor.tasks.benchmarks.local import local_names


def test_ours_are_listed_with_what_they_measure_and_lm_evals_by_a_word(athanor):
    done = athanor("tasks")
    assert all(name in done.stdout for name in local_names())
    assert "Which of four worked answers is likeliest" in done.stdout
    assert "more in" in done.stdout and "athanor tasks WORD" in done.stdout
    found = athanor("tasks", "MMLU_stem").stdout
    assert "mmlu_stem " in found and "group" in found and "word_problems" not in found


def test_a_word_that_no_task_has_is_one_line(athanor):
    done = athanor("tasks", "no-such-word")
    assert done.returncode == 2
    assert "no task has 'no-such-word' in its name" in done.stderr and len(done.stderr.splitlines()) == 1
