"""What files of a user's hold: a source for each, how much text, which field of a record, and some of it to count on.

Loose files of one folder that are all it has of their kind become one source, as a glob; everything else that is named
is a source by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import check_first_records
from athanor.data.sources.conversations import NoConversation, recipe_fields
from athanor.data.sources.files import list_files, read_files
from athanor.data.sources.records import BadRecord, Raw, text_reader
from athanor.data.sources.source import source_of

MOST_SOURCES = 8
MOST_READ_BYTES = 32 << 20  # of a source; a longer one is as long as its files say
SAMPLE_BYTES = 400_000  # of a source
TEXT_FIELDS = ("text", "content", "body")


@dataclass(frozen=True)
class Given:
    """One source: its fields for a preset, about how many bytes of UTF-8 text it has, and the first of its texts, a
    long one cut; of conversations the JSON of their messages, whole. `planned_bytes` is what a plan takes the text to
    have before it is read."""

    fields: dict[str, Any]
    text_bytes: float
    planned_bytes: float
    sample: tuple[str, ...]


def given_sources(paths: Sequence[str]) -> dict[str, Given]:
    """Name -> what is there, of files, folders and globs. UserError for what cannot be read or are too many."""
    sources: dict[str, Given] = {}
    grouped = _grouped(paths)
    if len(grouped) > MOST_SOURCES:
        raise UserError(
            f"--from: {len(grouped)} files would be as many sources, at most {MOST_SOURCES} make sense; give their "
            "folder, or a glob in quotes such as --from 'notes/*.md', as one source"
        )
    for path in grouped:
        fields = {"path": path, **_text_field(path)}
        name = _name(path)
        taken = sum(other.rstrip("-0123456789") == name for other in sources)
        sources[f"{name}-{taken + 1}" if taken else name] = _look(SourceRecipe.model_validate(fields), fields)
    return sources


def given_conversations(path: str) -> Given:
    """What is there of conversations. UserError where none can be made of the records."""
    record = _first_record(path)
    if record is None:
        raise UserError(f"--chat {path}: holds no records; give a .jsonl, .json, .csv, .tsv or .parquet")
    try:
        fields = {"path": path, **recipe_fields(record)}
    except NoConversation as error:
        raise UserError(f"--chat {path}: its records are no conversations: {error}") from None
    return _look(ChatSourceRecipe.model_validate(fields), fields)


def _grouped(paths: Sequence[str]) -> list[str]:
    grouped: list[str] = []
    loose = [path for path in paths if Path(path).expanduser().is_file()]
    for (folder, suffix), found in groupby(sorted(loose, key=_place), key=_place):
        files = list(found)
        pattern = Path(folder) / f"*{suffix}"
        whole = {path.resolve() for path in Path(folder).expanduser().glob(f"*{suffix}")}
        as_one = len(files) > 1 and suffix and whole == {Path(path).expanduser().resolve() for path in files}
        grouped += [str(pattern)] if as_one else files
    return [*(path for path in dict.fromkeys(paths) if path not in loose), *dict.fromkeys(grouped)]


def _place(path: str) -> tuple[str, str]:
    return str(Path(path).parent), Path(path).suffix


def _name(path: str) -> str:
    """A source's name: that of the file or folder, in the letters that are allowed."""
    place = Path(path).expanduser()
    if any(mark in place.name for mark in "*?["):
        place = place.parent
    stem = place.resolve().name.partition(".")[0].lower()
    return re.sub(r"[^a-z0-9_]+", "-", stem).strip("-_0123456789") or "text"


def _text_field(path: str) -> dict[str, str]:
    """The source's `text`, where its records need one."""
    record = _first_record(path)
    if record is None or isinstance(record.get("text"), str):
        return {}
    if (field := next((name for name in TEXT_FIELDS if isinstance(record.get(name), str)), None)) is not None:
        return {"text": field}
    texts = [name for name, value in record.items() if isinstance(value, str)]
    if not texts:
        raise UserError(
            f"--from {path}: its records have no field that is text, only {', '.join(record) or 'none'}; conversations "
            "are given as --chat FILE"
        )
    return {"text": texts[0] if len(texts) == 1 else "\n\n".join(f"{{{name}}}" for name in texts)}


def _first_record(path: str) -> dict[str, Any] | None:
    """The first record of the files; None where there are whole texts alone. UserError for files that are not there."""
    from pyarrow import parquet

    list_files(path)
    try:
        name, file = list_files(path, records_only=True).readable[0]
    except UserError:
        return None
    columns = parquet.read_schema(file).names if file.suffix == ".parquet" else ()
    for raw in read_files([(name, file)], columns):
        if isinstance(raw, Raw) and isinstance(raw.content, dict):
            return raw.content
    raise UserError(f"{file}: holds no record; give a file with text")


def _look(recipe: SourceRecipe, fields: dict[str, Any]) -> Given:
    """Count the text and keep some. UserError where the first records cannot be used."""
    check_first_records(recipe)
    source = source_of(recipe)
    planned_bytes = source.text_bytes(recipe, source.identity(recipe)) or 0.0
    read_bytes, sample, sampled_bytes = 0, [], 0
    for text in _texts(recipe):
        read_bytes += len(text.encode())
        if sampled_bytes < SAMPLE_BYTES:
            sample.append(text if isinstance(recipe, ChatSourceRecipe) else text[: SAMPLE_BYTES - sampled_bytes])
            sampled_bytes += len(sample[-1].encode())
        if read_bytes > MOST_READ_BYTES:
            read_bytes = max(read_bytes, planned_bytes)
            break
    if not sample:
        raise UserError(f"{recipe.path}: holds no text; give files with text")
    return Given(fields, float(read_bytes), planned_bytes, tuple(sample))


def _texts(recipe: SourceRecipe) -> Iterator[str]:
    fields, read = text_reader(recipe)
    for raw in source_of(recipe).read(recipe, fields):
        if isinstance(raw, Raw):
            try:
                text = read(raw.content)
            except BadRecord:
                continue
            if text.strip():
                yield text
