"""Local files: whole texts (.txt .md .rst .tex .py), JSON (.jsonl .ndjson .json), tables (.csv .tsv .parquet).

A text file is one document, however long: where to cut a book is not ours to guess; an empty one (__init__.py) is none.
Each line of a .jsonl or .ndjson, each object of a .json's array, and each row of a table is a record. All but Parquet
may be compressed (.gz .zst .bz2 .xz). Files come in sorted order and records in file order, so the same files always
give the same documents. Folders that are links are entered, and nothing is read twice by another name.
"""

from __future__ import annotations

import codecs
import csv
import glob
import io
import json
import lzma
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from athanor.core.digests import file_digests
from athanor.core.errors import UserError
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.sources.records import Raw, Reject, columns_read
from athanor.data.sources.source import Identity, PassedOver, Source

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".py")
LINE_SUFFIXES, TABLE_DELIMITERS = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
RECORD_SUFFIXES = (*LINE_SUFFIXES, ".json", *TABLE_DELIMITERS, ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
HIDDEN, EMPTY, TWICE = "hidden", "empty", "other names of what is read"  # why a file is passed over, beside its suffix
MAX_DOCUMENT_BYTES = 1 << 30  # what one document may take in memory
BEGINNING_BYTES = 1 << 16  # of a whole text, to see whether it can be read
_ROWS_PER_BATCH = 256
_NAMES = 3  # of files passed over, that are said


class Files(NamedTuple):
    """What lies under a path: the readable files as (name relative to it, path), sorted by name; and the rest."""

    readable: list[tuple[str, Path]]
    passed_over: dict[str, list[str]]  # reason -> names


def list_files(path: str, records_only: bool = False) -> Files:
    """The files under `path`, which is a file, a folder or a glob.

    `records_only` passes over whole texts, which hold no conversations. Raises UserError when nothing is there or
    nothing of it can be read.
    """
    allowed = RECORD_SUFFIXES if records_only else TEXT_SUFFIXES + RECORD_SUFFIXES
    root = Path(path).expanduser()
    if os.path.isfile(root):
        if _kind(root) not in allowed:
            raise UserError(f"{path}: suffix {root.suffix!r} cannot be read; {_readable(allowed)}")
        return Files([(root.name, root)], {})
    root, found = _found(path, root)
    readable: set[tuple[str, Path]] = set()
    passed_over: dict[str, set[str]] = {}
    names: dict[str, Path] = {}
    for file, reason in found:
        reason = reason or _objection(file, allowed)
        if not reason and names.setdefault(os.path.realpath(file), file) != file:
            reason = TWICE
        if reason:
            passed_over.setdefault(reason, set()).add(_name(file, root))
        else:
            readable.add((_name(file, root), file))
    files = Files(sorted(readable), {reason: sorted(passed_over[reason]) for reason in sorted(passed_over)})
    if not readable:
        raise UserError(f"{path}: nothing of it can be read: {passed_over_text(files)}; {_readable(allowed)}")
    return files


def passed_over_text(files: Files) -> str:
    """How many files were passed over, and by reason some of their names; empty if none were."""
    if not files.passed_over:
        return ""
    reasons = [
        f"{len(names):,} {reason} ({', '.join(names[:_NAMES])}{', …' if len(names) > _NAMES else ''})"
        for reason, names in files.passed_over.items()
    ]
    passed_over = sum(map(len, files.passed_over.values()))
    return f"passed over {passed_over:,} of {passed_over + len(files.readable):,} files: {', '.join(reasons)}"


def read_files(
    files: Sequence[tuple[str, Path]], fields: Sequence[str], text_bytes: int = MAX_DOCUMENT_BYTES
) -> Iterator[Raw | Reject]:
    """Every document and record of `files`, in order; `fields` are the Parquet columns that are read. Of whole texts
    longer than `text_bytes` there is the beginning, or a reject where that is all that a document may have.

    Raises UserError for a file that cannot be opened, is damaged or truncated, or lacks a column.
    """
    for name, path in files:
        try:
            if _kind(path) == ".parquet":
                yield from _read_parquet(name, path, fields)
            elif _kind(path) in LINE_SUFFIXES:
                yield from _read_jsonl(name, path)
            elif _kind(path) == ".json":
                yield from _read_json(name, path)
            elif _kind(path) in TABLE_DELIMITERS:
                yield from _read_table(name, path, fields)
            else:
                yield _read_text(name, path, text_bytes)
        except (
            OSError,
            EOFError,
            lzma.LZMAError,
        ) as error:  # what streams that break off raise
            reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
            raise UserError(f"{path}: cannot be read to its end ({reason}); replace the file") from None


def files_identity(files: Sequence[tuple[str, Path]]) -> Identity:
    """Name, size and hash of each file, wherever it lies. Raises UserError for one that cannot be read."""
    try:
        digests = file_digests([path for _, path in files])
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); correct its permissions") from None
    return {
        "files": [
            {"name": name, "bytes": size_bytes, "sha256": sha256}
            for (name, _), (size_bytes, sha256) in zip(files, digests, strict=True)
        ]
    }


def _listed(recipe: SourceRecipe) -> list[tuple[str, Path]]:
    return _files(recipe).readable


def _files(recipe: SourceRecipe) -> Files:
    return list_files(str(recipe.path), records_only=isinstance(recipe, ChatSourceRecipe))


def _identity(recipe: SourceRecipe) -> Identity:
    identity = files_identity(_listed(recipe))
    if not _whole_bytes(recipe, identity):
        raise UserError(f"{recipe.path}: holds nothing; give files with text")
    return identity


def _whole_bytes(recipe: SourceRecipe, identity: Identity) -> float:
    return sum(file["bytes"] for file in identity["files"])


ORIGIN = Source(
    name="path",
    read=lambda recipe, fields: read_files(_listed(recipe), fields),
    first_records=lambda recipe, fields: _first_records(recipe, fields),
    identity=_identity,
    read_bytes_per_s=40e6,
    document_bytes=4000,
    whole_bytes=_whole_bytes,
    title=lambda recipe: str(recipe.path),
    passed_over=lambda recipe: _passed_over(_files(recipe)),
)


def _passed_over(files: Files) -> PassedOver:
    unexpected = files.passed_over.keys() - {HIDDEN, EMPTY, TWICE}
    return PassedOver(sum(map(len, files.passed_over.values())), passed_over_text(files), bool(unexpected))


def _first_records(recipe: SourceRecipe, fields: Sequence[str]) -> Iterator[Raw | Reject]:
    """Every record, one after the other, and of every whole text, which may be long, the beginning."""
    return read_files(_listed(recipe), fields, BEGINNING_BYTES)


def _name(file: Path, root: Path) -> str:
    """Path below `root` with '/', as text that has a UTF-8 form whatever the file system holds."""
    return os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _readable(suffixes: Sequence[str]) -> str:
    return f"readable are {' '.join(suffixes)} (all but .parquet also as {' '.join(COMPRESSIONS)})"


def _kind(path: Path) -> str:
    """The suffix that says how to read a file, below its compression."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSIONS:
        return suffix
    inner = Path(path.stem).suffix.lower()
    return suffix if inner == ".parquet" else inner


def _found(path: str, root: Path) -> tuple[Path, list[tuple[Path, str]]]:
    """Where names begin, and every file of a folder or a glob with the reason to pass over it, if any."""
    if os.path.isdir(root):
        return root, list(_walk(root))
    if not any(mark in path for mark in "*?["):
        raise UserError(f"{path}: no such file or folder; correct the path")
    matches = [Path(match) for match in glob.glob(str(root), recursive=True)]
    found = [entry for match in matches for entry in (_walk(match) if match.is_dir() else [(match, "")])]
    if not found:
        raise UserError(f"{path}: the pattern matches no file; correct it or add files")
    return Path(os.path.commonpath([match.parent for match in matches])), found


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files below a folder; those that are hidden, and hidden folders whole, as HIDDEN. No folder is walked twice
    by another name."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from ((Path(parent, name), HIDDEN) for name in folders if _is_hidden(name))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        yield from ((Path(parent, name), HIDDEN if _is_hidden(name) else "") for name in sorted(names))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _objection(file: Path, allowed: Sequence[str]) -> str:
    """Why a file cannot be read, if so."""
    if not file.is_file():
        return "a link to nothing" if file.is_symlink() else "no regular file"
    if _kind(file) not in allowed:
        return file.suffix.lower() or "without suffix"
    return EMPTY if not file.stat().st_size and _kind(file) != ".parquet" else ""


def _open(path: Path) -> BinaryIO:
    """Bytes of a file, decompressed. pyarrow's streams notice a truncated .zst; `zstandard.open` ends quietly."""
    import pyarrow

    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    if compression == "xz":
        return io.BufferedReader(cast(Any, lzma.open(path)), 1 << 16)
    return io.BufferedReader(cast(Any, pyarrow.input_stream(str(path), compression=compression)), 1 << 16)


def _read_text(name: str, path: Path, most_bytes: int) -> Raw | Reject:
    with _open(path) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        return Reject(name, None, f"longer than {MAX_DOCUMENT_BYTES} bytes; cut it into files or use .jsonl")
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        text = decoder.decode(content, final=len(content) <= most_bytes)
    except UnicodeDecodeError as error:
        return Reject(name, None, _not_utf8(content, error))
    if (place := text.find("\0")) >= 0:
        return Reject(
            name, None, f"a NUL at character {place}: UTF-16 without its mark, or no text; convert it to UTF-8"
        )
    return Raw(text, name)


def _not_utf8(content: bytes, error: UnicodeDecodeError) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16, not UTF-8; convert it to UTF-8"
    return f"not UTF-8 at byte {error.start}; convert it to UTF-8, or leave it out if it is no text"


def _read_jsonl(name: str, path: Path) -> Iterator[Raw | Reject]:
    with _open(path) as stream:
        number = 0
        while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_DOCUMENT_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_DOCUMENT_BYTES)
                yield Reject(name, number, f"line longer than {MAX_DOCUMENT_BYTES} bytes")
            elif line.strip():
                yield _parse_line(name, number, line)


def _parse_line(name: str, number: int, line: bytes) -> Raw | Reject:
    try:
        record = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Reject(name, number, f"not UTF-8 at byte {error.start} of the line")
    except json.JSONDecodeError as error:
        return Reject(name, number, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except (ValueError, RecursionError):
        return Reject(name, number, "not JSON: nested too deeply or a number too long")
    if not isinstance(record, dict):
        return Reject(name, number, f"a JSON {type(record).__name__}, not an object")
    return Raw(record, name, number)


def _read_json(name: str, path: Path) -> Iterator[Raw | Reject]:
    """An array of records, or one record."""
    with _open(path) as stream:
        content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{path}: a .json is read whole, and this is longer than {MAX_DOCUMENT_BYTES} bytes; use .jsonl"
        )
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Reject(name, None, _not_utf8(content, error))
    except json.JSONDecodeError as error:
        more = "one object a line is a .jsonl" if error.msg == "Extra data" else "correct it there"
        problem = error.msg.removesuffix(" at")
        raise UserError(f"{path}: not JSON: {problem} at line {error.lineno}; {more}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON: nested too deeply or a number too long") from None
    else:
        for number, record in enumerate(found if isinstance(found, list) else [found], start=1):
            if isinstance(record, dict):
                yield Raw(record, name, number)
            else:
                yield Reject(name, number, f"a JSON {type(record).__name__}, not an object")


def _read_table(name: str, path: Path, fields: Sequence[str]) -> Iterator[Raw | Reject]:
    """Rows below a line of column names."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    with _open(path) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.DictReader(lines, delimiter=TABLE_DELIMITERS[_kind(path)], strict=True)
        try:
            columns = rows.fieldnames or ()
            columns_read(fields, columns, str(path))
            for number, row in enumerate(rows, start=1):
                if None in row or None in row.values():
                    yield Reject(name, number, f"a row of another length than the {len(columns)} columns")
                else:
                    yield Raw(row, name, number)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 near row {rows.line_num}: {error.reason}; convert the file") from None
        except csv.Error as error:
            raise UserError(f"{path}: not a sound table near line {rows.line_num}: {error}") from None


def _read_parquet(name: str, path: Path, fields: Sequence[str]) -> Iterator[Raw | Reject]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = columns_read(fields, table.schema_arrow.names, str(path))
            number = 0
            for batch in table.iter_batches(_ROWS_PER_BATCH, columns=columns):
                for row in range(batch.num_rows):
                    number += 1
                    yield _parse_row(name, number, batch, row)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a sound Parquet file ({str(error).splitlines()[0]}); replace it") from None


def _parse_row(name: str, number: int, batch: Any, row: int) -> Raw | Reject:
    try:
        return Raw({column: batch.column(column)[row].as_py() for column in batch.schema.names}, name, number)
    except ValueError as error:  # UnicodeDecodeError, or a value Python has no type for
        return Reject(name, number, f"unreadable value: {str(error).splitlines()[0]}")
