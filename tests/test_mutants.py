"""The mutants that `make mutants` runs can be applied, and the tests that must notice them exist."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_mutant_changes_one_place_and_names_tests_that_exist(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutants")
    from mutant import mutants_by_list

    for mutant in [mutant for mutants in mutants_by_list().values() for mutant in mutants]:
        assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1, mutant.mechanism
        assert mutant.old != mutant.new and mutant.tests
        assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests), mutant.tests


def test_the_twenty_of_a_day_are_the_same_all_day_and_others_the_next(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutants")
    import run

    one, again, other = (run.of_day(day) for day in ("2026-01-01", "2026-01-01", "2026-01-02"))
    assert one == again != other and len({(mutant.file, mutant.old) for mutant in one}) == run.TWENTY
    assert all(mutant.quick for mutant in one)
