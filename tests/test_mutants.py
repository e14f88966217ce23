"""The mutants that `make mutants` runs can be applied, the tests that must notice them exist, and a commit has its own
twenty."""

import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HALF = "def half(x):\n    return x / 2\n"
TEST = "from half import half\n\n\ndef test_half():\n    assert half(4) == 2\n"


@pytest.fixture
def lists(monkeypatch):
    """The module of the runner and that of the lists."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "mutants")
    before = set(sys.modules)
    import mutant
    import run

    yield run, mutant
    for name in set(sys.modules) - before:
        if name in ("run", "mutant") or name.startswith("of_"):
            del sys.modules[name]


@pytest.mark.filterwarnings("error")  # what a compiler warns of fails by itself, whatever the tests hold
def test_every_mutant_changes_one_place_and_names_tests_that_exist(lists):
    for mutant in lists[0].of_words([]):
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert source.count(mutant.old) == 1, mutant.mechanism
        assert mutant.old != mutant.new and mutant.tests
        compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
        assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests), mutant.tests


def test_words_choose_by_list_file_and_mechanism(lists):
    chosen = lists[0].of_words(["of_money", "budget.py", "devices"])
    assert chosen and {mutant.file for mutant in chosen} == {"flows/plan/budget.py"}


def test_a_day_has_its_own_twenty_of_the_quick_ones(lists):
    run, _ = lists
    one, same, other = run.of_day("2026-01-01"), run.of_day("2026-01-01"), run.of_day("2026-01-02")
    assert one == same != other
    assert len(set(one)) == 20 and all(mutant.quick for mutant in one + other)
    seen = {mutant for number in range(500) for mutant in run.of_day(str(number))}
    assert seen == {mutant for mutant in run.of_words([]) if mutant.quick}, "each has its turn"


def test_a_mutant_is_noticed_survives_or_does_not_end(lists, tmp_path, monkeypatch):
    run, mutant = lists
    monkeypatch.setattr(threading, "_threading_atexits", [lambda: 1 / 0])  # as a library may leave some behind
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "half.py").write_text(HALF)
    (tmp_path / "test_half.py").write_text(TEST)

    def fate(new: str, limit_s: float = 100.0) -> str:
        broken = mutant.Mutant("linked/half.py", "return x / 2", new, "halves", ("test_half.py",))
        return run.fate(tmp_path, broken, limit_s)

    assert fate("return x * 2") == run.NOTICED
    assert fate("return x // 2") == run.SURVIVES
    assert fate("while True: pass", limit_s=1.0) == run.ENDLESS
    assert (tmp_path / "linked" / "half.py").read_text() == HALF


def test_a_survivor_and_tests_that_fail_by_themselves_are_errors(lists, monkeypatch, capsys):
    run, mutant = lists

    def copy_sources(folder: Path) -> None:
        (folder / "linked").mkdir()
        (folder / "linked" / "half.py").write_text(HALF)
        (folder / "test_half.py").write_text(TEST)
        (folder / "test_wrong.py").write_text("def test_wrong():\n    assert False\n")

    monkeypatch.setattr(run, "copy_sources", copy_sources)

    def tried(new: str, test: str = "test_half.py", trials_s: float = float("inf")) -> tuple[int, str]:
        broken = mutant.Mutant("linked/half.py", "return x / 2", new, "halves", (test,))
        return run.try_all([broken], 1, 100.0, trials_s), capsys.readouterr().out

    assert tried("return x * 2")[0] == 0
    code, said = tried("return x // 2")
    assert code == 1 and "SURVIVES" in said
    code, said = tried("return x * 2", "test_wrong.py")
    assert code == 1 and "1 tests fail as they are" in said
    code, said = tried("return x // 2", trials_s=0.0)
    assert code == 1 and "none could be tried" in said, "nothing was seen to be noticed"
