"""A file is hashed once while it stays what it was, again when it does not, and nothing depends on the memory of it."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace

import pytest

from athanor.core import digests
from athanor.core.digests import file_digests


@pytest.fixture
def hashed(monkeypatch):
    """Notes every file that is hashed. Files count as settled at once."""
    found = []
    sha256_file = digests.sha256_file

    def spy(path):
        found.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(digests, "sha256_file", spy)
    monkeypatch.setattr(digests, "RACY_S", -1.0)
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_bytes(b"some text")
    return path


def digest(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


def test_a_file_is_hashed_once_and_the_answer_stays(file, tmp_path, hashed):
    other = tmp_path / "other.txt"
    other.write_bytes(b"more")
    for _ in range(3):
        assert file_digests([file, other, file]) == [digest(b"some text"), digest(b"more"), digest(b"some text")]
    assert hashed == ["text.jsonl", "other.txt"]


def test_the_same_size_at_another_time_is_hashed_again(file, hashed):
    file_digests([file])
    file.write_bytes(b"some tent")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert file_digests([file]) == [digest(b"some tent")]
    assert len(hashed) == 2


def test_a_change_whose_time_was_set_back_is_seen(file, hashed):
    before = file.stat()
    file_digests([file])
    file.write_bytes(b"some tent")
    while True:  # until the file system's clock has ticked
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        if file.stat().st_ctime_ns != before.st_ctime_ns:
            break
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert file_digests([file]) == [digest(b"some tent")]


def test_another_file_in_its_place_is_hashed_again(file, tmp_path, hashed):
    file_digests([file])
    replacement = tmp_path / "replacement"
    replacement.write_bytes(b"some tent")
    before = file.stat()
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(replacement, file)
    assert file_digests([file]) == [digest(b"some tent")]


def test_a_link_that_leads_elsewhere_is_hashed_again_though_all_times_are_the_same(tmp_path, hashed, monkeypatch):
    for name, content in (("one", b"some text"), ("other", b"some tent")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.jsonl").write_bytes(content)
    stat, link = os.stat, tmp_path / "link"

    def stat_of_one_tick(path, **options):
        found = stat(path, **options)
        return SimpleNamespace(st_size=found.st_size, st_ino=found.st_ino, st_mtime_ns=1, st_ctime_ns=1)

    for name, content in (("one", b"some text"), ("other", b"some tent")):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(digests, "os", SimpleNamespace(stat=stat_of_one_tick, fsencode=os.fsencode))
            assert file_digests([link / "text.jsonl"]) == [digest(content)]
    assert len(hashed) == 2


def test_what_changed_a_moment_ago_is_not_remembered(file, hashed, monkeypatch):
    monkeypatch.setattr(digests, "RACY_S", 3600.0)
    assert file_digests([file]) == file_digests([file]) == [digest(b"some text")]
    assert hashed == ["text.jsonl"] * 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"\x00\xff" * 100,
        lambda text: b"[]\n{}\n",
        lambda text: text.replace(b'"sha256": "', b'"sha256": "x'),
        lambda text: text.replace(b'"inode": ', b'"inode": [], "old": '),
        lambda text: text.replace(b'"path": "', b'"path": {}, "old": "'),
    ],
)
def test_a_damaged_memory_is_passed_over_and_written_anew(file, private_home, hashed, damage):
    file_digests([file])
    memory = private_home / "digests.jsonl"
    memory.write_bytes(damage(memory.read_bytes()))
    assert file_digests([file]) == file_digests([file]) == [digest(b"some text")]
    assert len(hashed) == 2


def test_a_home_that_cannot_be_written_to_costs_time_alone(file, private_home, hashed):
    (private_home / "digests.jsonl").mkdir(parents=True)
    assert file_digests([file]) == file_digests([file]) == [digest(b"some text")]
    assert len(hashed) == 2


def test_a_name_that_is_no_text_is_remembered_too(tmp_path, hashed):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_bytes(b"x")
    assert file_digests([path]) == file_digests([path]) == [digest(b"x")]
    assert len(hashed) == 1


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        file_digests([tmp_path / "nowhere.txt"])
