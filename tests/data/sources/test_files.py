"""Local files: what is found, in which order, and that damage is named instead of swallowed."""

import bz2
import gzip
import hashlib
import json
import lzma
import os

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from athanor.core.errors import UserError
from athanor.data.data_recipe import SourceRecipe
from athanor.data.sources import files
from athanor.data.sources.files import TWICE, list_files, passed_over_text, read_files
from athanor.data.sources.records import Raw, Reject

COMPRESSORS = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(path, fields=("text",)) -> list[Raw | Reject]:
    return list(read_files(list_files(str(path)).readable, fields))


def lines(*records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".tex", ".py"])
def test_a_text_file_is_one_document_in_every_compression(tmp_path, suffix, compression):
    text = "first paragraph\n\nsécond\r\n" * 1000
    path = tmp_path / f"book{suffix}{compression}"
    path.write_bytes(COMPRESSORS[compression](text.encode()))
    assert read(path) == [Raw(text, path.name)]


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_jsonl_lines_are_records_in_every_compression(tmp_path, compression):
    path = tmp_path / f"rows.jsonl{compression}"
    path.write_bytes(COMPRESSORS[compression](lines({"text": "a"}, {"text": "b\nc"})))
    assert read(path) == [Raw({"text": "a"}, path.name, 1), Raw({"text": "b\nc"}, path.name, 2)]


def test_parquet_rows_are_records_of_the_asked_columns(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"text": [f"row {n}" for n in range(600)], "extra": list(range(600))}
    parquet.write_table(pyarrow.table(rows), path, row_group_size=250)
    read_back = read(path)
    assert [raw.content for raw in read_back] == [{"text": text} for text in rows["text"]]
    assert read_back[-1].ref == "rows.parquet:600"


def test_a_parquet_value_that_is_not_utf8_rejects_its_row_alone(tmp_path):
    path = tmp_path / "rows.parquet"
    column = pyarrow.array([b"good", b"\xff\xfe", b"fine"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column}), path)
    good, bad, fine = read(path)
    assert (good.content, fine.content) == ({"text": "good"}, {"text": "fine"})
    assert isinstance(bad, Reject) and bad.line == 2 and "utf-8" in bad.reason


def test_folder_is_searched_sorted_and_passes_over_hidden_and_other_files(tmp_path):
    for name in ("b.txt", "a/z.md", "a/b.txt", ".git/c.txt", "a/.d.txt", "e.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [name for name, _ in list_files(str(tmp_path)).readable] == ["a/b.txt", "a/z.md", "b.txt"]


def test_glob_finds_files_in_sorted_order(tmp_path, monkeypatch):
    for name in ("x2.txt", "x1.txt", "y.txt", "sub/x3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [name for name, _ in list_files(f"{tmp_path}/x*.txt").readable] == ["x1.txt", "x2.txt"]
    assert [name for name, _ in list_files(f"{tmp_path}/**/x*.txt").readable] == ["sub/x3.txt", "x1.txt", "x2.txt"]
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in list_files("**/x*.txt").readable] == ["sub/x3.txt", "x1.txt", "x2.txt"]


def test_an_existing_path_is_never_taken_for_a_glob(tmp_path):
    (tmp_path / "data[1].txt").write_text("text")
    assert [name for name, _ in list_files(str(tmp_path / "data[1].txt")).readable] == ["data[1].txt"]


def test_chat_sources_read_record_files_only(tmp_path):
    (tmp_path / "README.md").write_text("text")
    (tmp_path / "rows.jsonl").write_bytes(lines({"text": "a"}))
    assert [name for name, _ in list_files(str(tmp_path), records_only=True).readable] == ["rows.jsonl"]
    with pytest.raises(UserError, match=r"suffix '\.md' cannot be read"):
        list_files(str(tmp_path / "README.md"), records_only=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "no such file or folder"),
        ("*.nothing", "the pattern matches no file"),
        ("table.xls", r"suffix '\.xls' cannot be read; readable are"),
        ("x" * 5000, "no such file or folder"),
        ("rows.parquet.gz", "cannot be read"),
        ("only", r"nothing of it can be read: passed over 1 of 1 files: 1 \.xls \(a\.xls\); readable are"),
    ],
)
def test_a_path_without_readable_files_is_a_one_line_error(tmp_path, name, message):
    for made in ("table.xls", "rows.parquet.gz", "only/a.xls"):
        (tmp_path / made).parent.mkdir(exist_ok=True)
        (tmp_path / made).write_text("text")
    with pytest.raises(UserError, match=message) as caught:
        list_files(str(tmp_path / name))
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("compression", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_archive_is_an_error_not_a_shorter_source(tmp_path, compression, damage):
    content = COMPRESSORS[compression](lines(*({"text": f"row {n} {n**9}"} for n in range(20_000))))
    path = tmp_path / f"rows.jsonl{compression}"
    path.write_bytes(content[:-40] if damage == "truncated" else b"not an archive" * 100)
    with pytest.raises(UserError, match="cannot be read to its end") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1", b"\0" * 64])
def test_a_file_that_is_no_parquet_is_a_one_line_error(tmp_path, content):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.parquet: ") as caught:
        read(tmp_path / "rows.parquet")
    assert "\n" not in str(caught.value)


def test_a_missing_parquet_column_names_those_there_are(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"], "id": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="no column 'text'; columns: body, id"):
        read(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b'"text"', "a JSON str, not an object"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 10 of the line"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b"1" * 10_000, "not JSON: nested too deeply or a number too long"),
    ],
)
def test_a_bad_line_is_rejected_with_its_number_and_the_rest_is_read(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    first, bad, last = read(path)
    assert (first.line, bad.line, last.line) == (1, 3, 4)
    assert isinstance(bad, Reject) and bad.reason.startswith(reason)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + lines({"text": "hi"}))
    assert [raw.content for raw in read(tmp_path)] == ["hello", {"text": "hi"}]


def test_a_text_file_that_is_not_utf8_is_rejected(tmp_path):
    (tmp_path / "a.txt").write_bytes("abc café".encode("latin-1"))
    assert read(tmp_path) == [
        Reject("a.txt", None, "not UTF-8 at byte 7; convert it to UTF-8, or leave it out if it is no text")
    ]


def test_a_document_beyond_the_memory_limit_is_rejected_and_reading_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_DOCUMENT_BYTES", 64)
    (tmp_path / "a.txt").write_text("x" * 65)
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "a"}, {"text": "y" * 200}, {"text": "b"}))
    text, first, long, last = read(tmp_path)
    assert isinstance(text, Reject) and "longer than 64 bytes" in text.reason
    assert isinstance(long, Reject) and long.line == 2
    assert (first.ref, last.ref) == ("b.jsonl:1", "b.jsonl:3")


def test_a_file_name_without_a_utf8_form_gets_a_printable_ref(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert [name for name, _ in list_files(str(tmp_path)).readable] == ["bad\\xff.txt"]


def identity(path) -> dict:
    return files.ORIGIN.identity(SourceRecipe(path=str(path)))


def test_identity_changes_with_a_files_bytes_and_not_with_its_place(tmp_path):
    content = lines({"text": "x"})
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    here, there = identity(tmp_path / "here"), identity(tmp_path / "there")
    assert here == there == {"files": [{"name": "a.jsonl", "bytes": len(content), "sha256": digest}]}
    (tmp_path / "here" / "a.jsonl").write_bytes(lines({"text": "y"}))
    assert identity(tmp_path / "here") != there


def test_files_that_hold_nothing_have_no_identity(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match="holds nothing; give files with text"):
        identity(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"nothing of it can be read: passed over 1 of 1 files: 1 empty \(a\.txt\)"):
        list_files(f"{tmp_path}/*.txt")


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(paths):
        raise PermissionError(13, "Permission denied", str(paths[0]))

    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr(files, "file_digests", refuse)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(Permission denied\); correct its permissions"):
        identity(tmp_path)


def test_linked_folders_are_entered_and_nothing_is_read_twice(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b", encoding="utf-8")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.txt").write_text("a", encoding="utf-8")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "sub" / "again.txt").symlink_to(root / "sub" / "a.txt")
    (root / "twin").symlink_to(root / "sub")
    assert [name for name, _ in list_files(str(root)).readable] == ["linked/b.txt", "sub/a.txt"]


def test_what_a_folder_holds_and_is_not_read_is_named_with_the_reason(tmp_path):
    root = tmp_path / "root"
    names = ["a.txt", "b.pdf", "c.pdf", "d.pdf", "sub/e.PDF", "Make", ".git/config", "sub/.DS_Store"]
    for name in (*names, "__pycache__/m.pyc", "r.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text", encoding="utf-8")
    (root / "empty.md").touch()
    (root / "again.txt").symlink_to(root / "a.txt")
    (root / "gone.txt").symlink_to(root / "nothing")
    found = list_files(str(root))
    assert [name for name, _ in found.readable] == ["a.txt", "r.jsonl"]
    assert found.passed_over == {
        ".pdf": ["b.pdf", "c.pdf", "d.pdf", "sub/e.PDF"],
        "a link to nothing": ["gone.txt"],
        "empty": ["empty.md"],
        "hidden": [".git", "__pycache__", "sub/.DS_Store"],
        "other names of what is read": ["again.txt"],
        "without suffix": ["Make"],
    }
    assert passed_over_text(found).startswith("passed over 11 of 13 files: 4 .pdf (b.pdf, c.pdf, d.pdf, …), 1 a link")
    assert list_files(str(root), records_only=True).passed_over[".txt"] == ["a.txt", "again.txt"]
    assert list_files(f"{root}/*.*").passed_over.keys() == {".pdf", "a link to nothing", "empty", TWICE}


def test_an_empty_text_is_no_document_and_no_bad_record(tmp_path):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "a.py").write_text("print()", encoding="utf-8")
    assert [raw.content for raw in read_files(list_files(str(tmp_path)).readable, ())] == ["print()"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '[{"text": "a, b"}, {"text": "c\\n"}]'),
        ("rows.ndjson", '{"text": "a, b"}\n{"text": "c\\n"}\n'),
        ("rows.csv", 'id,text\r\n1,"a, b"\r\n2,"c\n"\r\n'),
        ("rows.tsv", 'text\tid\na, b\t1\n"c\n"\t2\n'),
    ],
)
@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_people_have_is_read_as_records(tmp_path, name, content, compression, mark):
    path = tmp_path / f"{name}{compression}"
    path.write_bytes(COMPRESSORS[compression]((mark + content).encode()))
    found = list(read_files([(path.name, path)], ("text",)))
    assert [(raw.content["text"], raw.line) for raw in found] == [("a, b", 1), ("c\n", 2)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.json", '{"text": "a"}\n{"text": "b"}', "not JSON: Extra data at line 2; one object a line is a .jsonl"),
        ("rows.json", "[" * 100_000, "not JSON: nested too deeply"),
        ("rows.csv", "id,body\n1,a\n", "no column 'text'; columns: id, body"),
        ("rows.csv", 'text\n"a', "not a sound table near line 1"),
    ],
)
def test_what_is_none_of_these_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        list(read_files([(name, path)], ("text",)))


def test_a_row_of_another_length_is_a_bad_record(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,id\na,1\nb\nc,3,4\n", encoding="utf-8")
    found = list(read_files([("rows.csv", path)], ("text",)))
    assert [isinstance(one, Reject) for one in found] == [False, True, True]
