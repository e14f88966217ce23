"""What a user names becomes sources: how files are grouped, named, and which of a record's fields are text."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from athanor.core.errors import UserError
from athanor.flows.fitting.given import MOST_SOURCES, SAMPLE_BYTES, given_conversations, given_sources


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_records(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_files_that_are_all_of_their_kind_in_a_folder_are_one_source_and_others_one_each(folder):
    (folder / "notes").mkdir()
    for name in ("notes/a.md", "notes/b.md", "notes/c.txt", "Brief an Ada.txt"):
        (folder / name).write_text("some text")
    paths = {name: source.fields["path"] for name, source in given_sources(["notes/a.md", "notes/b.md"]).items()}
    assert paths == {"notes": "notes/*.md"}
    both = given_sources(["notes/a.md", "Brief an Ada.txt", "notes"])
    assert {name: source.fields["path"] for name, source in both.items()} == {
        "notes": "notes",
        "brief-an-ada": "Brief an Ada.txt",
        "a": "notes/a.md",
    }


def test_sources_of_one_name_are_numbered(folder):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("some text")
    assert list(given_sources(["one/notes.txt", "two/notes.txt"])) == ["notes", "notes-2"]


def test_too_many_files_are_refused_with_the_way_to_name_them(folder):
    for number in range(MOST_SOURCES + 2):
        (folder / f"{chr(97 + number)}.txt").write_text("some text")
    with pytest.raises(UserError, match=r"9 files would be as many sources.*a glob in quotes"):
        given_sources([f"{chr(97 + number)}.txt" for number in range(MOST_SOURCES + 1)])


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"text": "a", "title": "b"}, None),
        ({"id": 3, "body": "a", "title": "b"}, "body"),
        ({"id": 3, "said": "a"}, "said"),
        ({"question": "a", "n": 1, "answer": "b"}, "{question}\n\n{answer}"),
    ],
)
def test_the_text_of_records_is_found(folder, record, field):
    write_records(folder / "r.jsonl", record)
    (source,) = given_sources(["r.jsonl"]).values()
    assert source.fields.get("text") == field
    parquet.write_table(pyarrow.table({name: [value] for name, value in record.items()}), folder / "r.parquet")
    (source,) = given_sources(["r.parquet"]).values()
    assert source.fields.get("text") == field


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ({"messages": [{"role": "assistant", "content": "a"}]}, {}),
        ({"conversation": [{"role": "assistant", "content": "a"}]}, {"messages": "conversation"}),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, {}),
        ({"messages": '[{"role": "assistant", "content": "a"}]'}, {}),
        ({"prompt": "a", "completion": "b"}, {}),
        ({"prompt": "a", "response": "b"}, {"user": "{prompt}", "assistant": "{response}"}),
    ],
)
def test_conversations_are_found(folder, record, fields):
    write_records(folder / "chat.jsonl", record)
    assert given_conversations("chat.jsonl").fields == {"path": "chat.jsonl", **fields}


def test_what_a_form_of_conversations_holds_is_read_whole(folder):
    write_records(folder / "alpaca.jsonl", {"instruction": "Add.", "input": "2 + 2", "output": "4"})
    (text,) = given_conversations("alpaca.jsonl").sample
    assert json.loads(text) == [
        {"role": "user", "content": "Add.\n\n2 + 2"},
        {"role": "assistant", "content": "4"},
    ]


def test_what_cannot_be_used_is_one_line(folder):
    write_records(folder / "numbers.jsonl", {"a": 1})
    write_records(folder / "letters.jsonl", {"to": "a", "from": "b"})
    (folder / "whole.txt").write_text("a text")
    (folder / "empty.txt").write_text("")
    for look, message in (
        (lambda: given_sources(["numbers.jsonl"]), "its records have no field that is text, only a"),
        (lambda: given_sources(["gone.txt"]), "gone.txt: no such file or folder"),
        (lambda: given_sources(["empty.txt"]), r"empty.txt: 1 of 1 records are bad .*empty text"),
        (
            lambda: given_conversations("letters.jsonl"),
            "no conversations: none of messages; .*fields: 'to', 'from'",
        ),
        (lambda: given_conversations("whole.txt"), "holds no records; give a .jsonl"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            look()
        assert "\n" not in str(raised.value)


def test_text_is_counted_whole_and_sampled_in_part(folder):
    (folder / "long.txt").write_text("word " * 200_000)
    (source,) = given_sources(["long.txt"]).values()
    assert source.text_bytes == 1_000_000
    assert sum(map(len, source.sample)) == SAMPLE_BYTES
