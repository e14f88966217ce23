"""The documents artifact: what is kept, where it goes, what is refused, and that it is always the same bytes."""

import gzip
import hashlib
import json

import pytest
from pyarrow import parquet

from athanor.core.errors import UserError
from athanor.data import documents
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import Document, check_first_records, read_documents, write_documents
from athanor.data.sources.files import BEGINNING_BYTES

CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def texts(folder, split):
    return [document.text for document in read_documents(folder, split)]


def rejects(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


@pytest.fixture
def rows(tmp_path):
    return jsonl(tmp_path / "rows.jsonl", [{"text": f"document {n}"} for n in range(2000)])


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_documents_come_back_in_order_with_their_refs(rows, out):
    facts = write_documents(SourceRecipe(path=rows, held_out_fraction=0.0), out)
    assert facts == {
        "documents": 2000,
        "held_out_documents": 0,
        "text_bytes": sum(len(f"document {n}") for n in range(2000)),
        "rejected": 0,
        "held_out_bytes": 0,
        "held_out_asked_bytes": 0,
    }
    kept = list(read_documents(out, "train"))
    assert kept == [Document(f"document {n}", f"rows.jsonl:{n + 1}") for n in range(2000)]
    assert sorted(path.name for path in out.iterdir()) == ["rejects.jsonl", "train-00000.parquet"]


def test_every_document_is_in_exactly_one_split_near_the_asked_share(rows, out):
    facts = write_documents(SourceRecipe(path=rows, held_out_fraction=0.1), out)
    train, held_out = texts(out, "train"), texts(out, "held_out")
    assert sorted(train + held_out) == sorted(f"document {n}" for n in range(2000))
    assert 140 < len(held_out) == facts["held_out_documents"] < 260


def test_writing_twice_gives_the_same_bytes(tmp_path, rows):
    def digests(folder):
        write_documents(SourceRecipe(path=rows), folder)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_parts_roll_over_and_no_document_is_lost_between_them(rows, out, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 1000)
    monkeypatch.setattr(documents, "PART_BYTES", 5000)
    write_documents(SourceRecipe(path=rows, held_out_fraction=0.0), out)
    parts = sorted(out.glob("train-*.parquet"))
    assert len(parts) >= 4 and parts[1].name == "train-00001.parquet"
    sizes = [sum(map(len, parquet.read_table(part)["text"].to_pylist())) for part in parts]
    assert all(5000 <= size < 6100 for size in sizes[:-1])
    assert texts(out, "train") == [f"document {n}" for n in range(2000)]


def test_memory_holds_one_row_group_at_a_time(rows, out, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 1000)
    held = []
    flush = documents._PartWriter._flush

    def spy(writer):
        held.append(sum(map(len, writer._texts)))
        flush(writer)

    monkeypatch.setattr(documents._PartWriter, "_flush", spy)
    write_documents(SourceRecipe(path=rows), out)
    assert len(held) > 20 and max(held) < 1100


def test_limits_stop_the_source_early(tmp_path, rows):
    few = write_documents(SourceRecipe(path=rows, max_documents=7, held_out_fraction=0.0), tmp_path / "a")
    assert few["documents"] == 7
    small = write_documents(SourceRecipe(path=rows, max_bytes=30, held_out_fraction=0.0), tmp_path / "b")
    assert (small["documents"], small["text_bytes"]) == (3, 30)


def test_progress_is_reported_in_documents(rows, out):
    seen = []
    write_documents(SourceRecipe(path=rows), out, lambda done, total, unit: seen.append((done, total, unit)))
    assert seen[0] == (500, None, "documents") and seen[-1] == (2000, 2000, "documents")


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": ""}', "empty text"),
        ('{"text": " \\n\\t"}', "empty text"),
        ('{"text": 7}', "field 'text' is int, not a string"),
        ('{"text": null}', "field 'text' is NoneType, not a string"),
        ('{"body": "x"}', "no field 'text'; fields: 'body'"),
        ('{"text": "a \\ud800 b"}', "a lone surrogate at character 2; it has no UTF-8 form"),
        ('{"a\\nb\\ud800": 1}', "no field 'text'; fields: 'a\\nb\\ud800'"),
        ('{"text": ', "not JSON: Expecting value at column 10"),
    ],
)
def test_a_bad_record_is_listed_with_file_line_and_reason(tmp_path, out, line, reason):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n' + line + '\n{"text": "also good"}\n')
    facts = write_documents(SourceRecipe(path=str(tmp_path / "rows.jsonl"), max_reject_fraction=0.5), out)
    assert (facts["documents"], facts["rejected"]) == (2, 1)
    assert rejects(out) == [{"file": "rows.jsonl", "line": 2, "reason": reason}]


@pytest.mark.parametrize(("bad", "fails"), [(1, False), (2, True)])
def test_past_the_reject_limit_the_stage_fails_and_names_the_first(tmp_path, out, bad, fails):
    records = [{"text": f"row {n}"} for n in range(100 - bad)] + [{"text": n} for n in range(bad)]
    recipe = SourceRecipe(path=jsonl(tmp_path / "rows.jsonl", records), max_reject_fraction=0.01)
    if not fails:
        assert write_documents(recipe, out)["rejected"] == 1
        return
    with pytest.raises(UserError, match=r"2 of 100 records are bad .*the first, rows\.jsonl:99: field 'text' is int"):
        write_documents(recipe, out)
    assert len(rejects(out)) == 2


def test_a_wrong_field_name_fails_after_a_thousand_records_not_after_all(tmp_path, out):
    path = jsonl(tmp_path / "rows.jsonl", [{"body": "x"}] * 3000)
    with pytest.raises(UserError, match=r"1000 of 1000 records are bad.*no field 'text'; fields: 'body'"):
        write_documents(SourceRecipe(path=path), out)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("not json", "not JSON"), ('{"txt": "a"}', "no field 'text'"), ('{"text": 1}', "is int, not a string")],
)
def test_first_records_that_decide_the_failure_are_refused_without_reading_on(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n" * 5000)
    with pytest.raises(UserError, match=f"1000 of 1000 records are bad .*rows.jsonl:1: .*{reason}"):
        check_first_records(SourceRecipe(path=str(path)))
    path.write_text(f"{line}\n" + '{"text": "good"}\n' * 9)
    with pytest.raises(UserError, match="1 of 10 records are bad"):
        check_first_records(SourceRecipe(path=str(path)))
    check_first_records(SourceRecipe(path=str(path), max_reject_fraction=0.2))
    path.write_text(f"{line}\n" + '{"text": "good"}\n' * 2000)
    check_first_records(SourceRecipe(path=str(path)))  # what follows may make up for it


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (bytes(range(128, 256)) * 1000, "not UTF-8 at byte 0; convert it"),
        ("Zwölf".encode("latin-1"), "not UTF-8 at byte 2"),
        ("Zwölf".encode("utf-16"), "UTF-16, not UTF-8; convert it"),
        ("Zwolf".encode("utf-16-le"), "NUL"),
    ],
)
def test_a_whole_text_that_cannot_be_read_is_refused_by_its_beginning(tmp_path, content, problem):
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"1 of 1 records are bad .*book\.txt: .*{problem}"):
        check_first_records(SourceRecipe(path=str(tmp_path)))


def test_a_cut_archive_is_refused_by_its_beginning_and_a_long_text_is_not(tmp_path):
    long = "ä" * BEGINNING_BYTES  # two bytes each, so that the beginning ends within one
    (tmp_path / "long.txt").write_text(f"x{long}", encoding="utf-8")
    check_first_records(SourceRecipe(path=str(tmp_path)))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a text " * 99)[:-9])
    with pytest.raises(UserError, match=r"cut\.txt\.gz: cannot be read to its end"):
        check_first_records(SourceRecipe(path=str(tmp_path)))


def test_a_wrong_role_in_the_first_conversations_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "gpt", "content": "a"}]}) + "\n")
    with pytest.raises(UserError, match="message 1: role 'gpt' is not one of system, user, assistant"):
        check_first_records(ChatSourceRecipe(path=str(path)))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_source_is_an_error(tmp_path, out, content):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"rows\.jsonl: holds no document"):
        write_documents(SourceRecipe(path=str(tmp_path / "rows.jsonl")), out)


def test_rejects_alone_are_an_error_even_when_all_may_be_rejected(tmp_path, out):
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(UserError, match=r"1 of 1 records are bad .*a\.txt: empty text"):
        write_documents(SourceRecipe(path=str(tmp_path), max_reject_fraction=1.0), out)


def test_a_missing_file_is_one_line(out):
    with pytest.raises(UserError, match=r"nowhere\.txt: no such file or folder; correct the path"):
        write_documents(SourceRecipe(path="nowhere.txt"), out)


# --- fields and templates ---------------------------------------------------------------------------------------


def test_a_template_joins_fields_and_data_is_never_a_template(tmp_path, out):
    path = jsonl(tmp_path / "rows.jsonl", [{"q": "{a} {q.__class__}?", "a": 4, "id": 1}])
    write_documents(SourceRecipe(path=path, text="{{Q}} {q}\n{a}"), out)
    assert texts(out, "train") == ["{Q} {a} {q.__class__}?\n4"]


# --- conversations ----------------------------------------------------------------------------------------------


def test_messages_become_canonical_json_of_role_and_content(tmp_path, out):
    extra = [{"role": "user", "content": "é?", "id": "x"}, {"content": "4", "role": "assistant", "tool": None}]
    path = jsonl(tmp_path / "rows.jsonl", [{"messages": extra, "id": 3}])
    write_documents(ChatSourceRecipe(path=path), out)
    assert texts(out, "train") == ['[{"content":"é?","role":"user"},{"content":"4","role":"assistant"}]']


def test_templates_become_a_user_and_an_assistant_turn(tmp_path, out):
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "2 + 2?", "answer": "4"}])
    write_documents(ChatSourceRecipe(path=path, user="Solve: {question}", assistant="answer"), out)
    expected = [{"role": "user", "content": "Solve: 2 + 2?"}, {"role": "assistant", "content": "4"}]
    assert json.loads(texts(out, "train")[0]) == expected


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "field 'messages' is a text that is no JSON list"),
        (7, "field 'messages' is int, not a list"),
        ([], "no assistant message"),
        (CHAT[:1], "no assistant message"),
        (["hi"], "message 1 is str, not an object"),
        ([CHAT[0], {"role": "tool", "content": "x"}, CHAT[1]], "message 2: role 'tool' is not one of"),
        ([CHAT[0], {"role": "assistant", "content": " "}], "message 2: content is empty"),
        ([CHAT[0], {"role": "assistant", "content": ["x"]}], "message 2: content is empty or not a string"),
        ([{"role": ["user"], "content": "x"}, CHAT[1]], "message 1: role ['user'] is not one of"),
        ([CHAT[0], {"role": "assistant", "content": "\ud800"}], "a lone surrogate"),
    ],
)
def test_messages_of_the_wrong_shape_are_rejected(tmp_path, out, messages, reason):
    path = jsonl(tmp_path / "rows.jsonl", [{"messages": CHAT}, {"messages": messages}])
    write_documents(ChatSourceRecipe(path=path, max_reject_fraction=0.5), out)
    assert rejects(out)[0]["reason"].startswith(reason)


# --- real data --------------------------------------------------------------------------------------------------


def test_real_gsm8k_is_read_whole_as_text_and_as_conversations(test_data_path, tmp_path):
    path = str(test_data_path("gsm8k/train.jsonl"))
    text = write_documents(SourceRecipe(path=path, text="{question}\n{answer}"), tmp_path / "text")
    chat = write_documents(ChatSourceRecipe(path=path, user="{question}", assistant="{answer}"), tmp_path / "chat")
    assert text["documents"] == chat["documents"] == 7473 and text["rejected"] == chat["rejected"] == 0
    assert 100 < text["held_out_documents"] < 200


def test_a_real_textbook_holds_out_its_end(test_data_path, tmp_path):
    path = test_data_path("math_text/d2l.md")
    write_documents(SourceRecipe(path=str(path)), tmp_path)
    (train,), (held_out,) = texts(tmp_path, "train"), texts(tmp_path, "held_out")
    assert train + held_out == path.read_bytes().decode()
    assert 0.015 < len(held_out) / len(train + held_out) < 0.025
