"""A benchmark's data sets are those of the commits in the key, whatever the cache of `datasets` holds."""

from __future__ import annotations

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.pinned_sets import UNKNOWN, pinned, unpinned_text

FIRST, SECOND = "1a" * 20, "2b" * 20


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Has `datasets` answer with a copy in a folder of the given name, as without a network; notes the revisions."""
    asked = []

    def copy(name):
        folder = tmp_path / "o___set" / "default" / "0.0.0" / name
        folder.mkdir(parents=True)
        with ArrowWriter(path=str(folder / "set-test.arrow")) as writer:
            writer.write({"question": "2 + 2?"})
            writer.finalize()

        def load(path, revision=None, **_):
            asked.append(revision)
            return datasets.DatasetDict(test=datasets.Dataset.from_file(str(folder / "set-test.arrow")))

        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return copy


def test_a_copy_of_the_commit_in_the_key_is_read_and_nothing_is_said(cached):
    asked = cached(FIRST)
    with pinned({"o/set": FIRST}, ["o/set"]) as unpinned:
        datasets.load_dataset("o/set")
    assert (asked, unpinned) == ([FIRST], {})


def test_a_copy_of_another_commit_is_refused_by_name(cached):
    cached(SECOND)
    with pinned({"o/set": FIRST}, ["o/set"]), pytest.raises(UserError) as caught:
        datasets.load_dataset(path="o/set")
    assert str(caught.value).startswith(
        f"data set o/set: the copy in the cache of `datasets` is of {SECOND}, and {FIRST}"
    )


@pytest.mark.parametrize(("folder", "said"), [(SECOND, SECOND), ("7f3a" * 4, UNKNOWN)])
def test_a_set_without_a_commit_in_the_key_is_named_with_the_one_it_was_read_at(cached, folder, said):
    cached(folder)
    with pinned({}, ["o/set"]) as unpinned:
        datasets.load_dataset("o/set")
    assert unpinned == {"o/set": said}
    assert f"o/set ({said})" in unpinned_text(unpinned)


def test_what_is_no_set_of_the_hub_is_not_spoken_of(cached):
    cached(SECOND)
    with pinned({}, []) as unpinned:
        datasets.load_dataset("json")
    assert unpinned == {}
