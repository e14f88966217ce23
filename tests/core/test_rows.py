"""Rows that are appended while others read: a torn line is no row, and joins no other."""

from __future__ import annotations

from athanor.core.rows import RowWriter, read_rows, replace_rows


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
