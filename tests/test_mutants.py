"""The mutants that `make mutants` runs can be applied, and the tests that must notice them exist."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_mutant_changes_one_place_and_names_tests_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutants")
    from mutant import every_mutant

    for mutant in every_mutant():
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant.mechanism
        assert mutant.old != mutant.new and mutant.tests
        assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests), mutant.tests


def test_every_mutant_has_its_day(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutants")
    import run

    mutants = run.every_mutant()
    days = -(-len(mutants) // run.OF_A_DAY) * 2
    seen = [mutant for day in range(days) for mutant in run.of_today(mutants, day)]
    assert all(mutant in seen for mutant in mutants)
