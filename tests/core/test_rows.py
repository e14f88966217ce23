"""Rows that are appended while others read: a torn line is no row, and joins no other."""

from __future__ import annotations

import os

import pytest

from athanor.core import rows
from athanor.core.rows import RowWriter, parse_row, read_rows, replace_rows


def test_a_torn_last_line_is_not_a_row_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert list(read_rows(path)) == [{"a": 1}]
    writer = RowWriter(path)
    writer.append({"a": 3})
    writer.close()
    assert list(read_rows(path)) == [{"a": 1}, {"a": 3}]


def test_replacing_the_rows_leaves_those_alone_and_no_other_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    replace_rows(path, [{"a": 2}, {"a": "é"}])
    assert list(read_rows(path)) == [{"a": 2}, {"a": "é"}]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_no_file_has_no_rows(tmp_path):
    assert list(read_rows(tmp_path / "rows.jsonl")) == []


@pytest.mark.parametrize("line", [b"", b"\n", b'{"a": 1}', b'{"a": \n', b"[1]\n", b"1\n", b"\xff\n"])
def test_what_is_no_whole_object_is_no_row(line):
    assert parse_row(line) is None


def test_rows_that_replace_others_are_on_the_disk_first(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(rows, "fsync_path", lambda path: done.append(path.name))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("replaced") or replace(old, new))
    replace_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    assert done == ["rows.jsonl.tmp", "replaced", tmp_path.name]


def test_rows_survive_the_machine_once_they_are_synced_or_closed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = RowWriter(tmp_path / "rows.jsonl")
    writer.append({"a": 1})
    assert synced == []
    writer.sync()
    assert len(synced) == 1
    writer.close()
    assert len(synced) == 2
