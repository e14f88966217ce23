"""Token shards: a source's documents as one long stream of ids, every document followed by EOS.

A split's folder holds `shard-00000.bin` (little-endian uint32 ids), `shard-00000.idx` (uint64 document starts within
the shard, then its length), for chat also `shard-00000.mask` (uint8, 1 = this token is to be predicted),
`shard-00000.sums` (uint64 sums of the blocks of these files, in this order: data/checked_file.py), and `shards.json`,
which says what is there. A document never spans two shards, so only a document longer than `shard_tokens` makes a
longer one.

Invariants: contents and names depend on the documents, the tokenizer and `shard_tokens` alone, not on worker count
or interruptions; `shards.json` lists a shard only once the shard is on the disk, so a killed run that is started
again goes on after the last listed one and overwrites the rest. No token is read from a block that is not as written.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from athanor.core.disk import fsync_path, write_json
from athanor.core.errors import UserError
from athanor.core.keys import canonical_json, sha256_file
from athanor.core.progress import Progress, silent
from athanor.data.checked_file import AlteredError, CheckedFile, block_sums, blocks
from athanor.data.documents import Document, read_documents
from athanor.data.splits import SPLITS
from athanor.data.tokenizer import Tokenizer, load_tokenizer

SHARD_TOKENS = 100_000_000
_BATCH_CHARACTERS = 1 << 20
_HASHES = {"bin": "sha256", "idx": "index_sha256", "mask": "mask_sha256"}  # file suffix -> field of shards.json
_SUMS_HASH = "sums_sha256"
_REBUILD = "delete this artifact and run again to rebuild it"


@dataclass(frozen=True)
class Encoded:
    """One document as ids (uint32, EOS last), its text's UTF-8 bytes and, for chat, the mask of learned tokens.

    `normalized_characters` are those of the text that the tokenizer's NFC replaced, so that no token stands for them.
    """

    ids_T: NDArray[np.uint32]
    text_bytes: int
    mask_T: NDArray[np.uint8] | None = None
    normalized_characters: int = 0


EncodeBatch = Callable[[Sequence[Document]], list[Encoded]]


def write_shards(
    documents_dir: Path,
    tokenizer_dir: Path,
    source: str,
    out: Path,
    workers: int = 1,
    progress: Progress = silent,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Tokenize a documents artifact into `out/train` and `out/held_out`; resumes what an earlier call left there.

    `workers` batches are in flight at once (the tokenizer itself uses all cores). Returns facts per split, e.g.
    `train_tokens`, and `train_normalized_characters` where NFC replaced any. Raises UserError for unreadable inputs,
    and for a document that its tokens do not stand for: every one by its bytes, and the first of each batch, whose
    extent depends on the documents alone, by decoding it again.
    """
    tokenizer = load_tokenizer(tokenizer_dir)

    def encode(documents: Sequence[Document]) -> list[Encoded]:
        encoded = []
        for n, (d, ids) in enumerate(zip(documents, tokenizer.encode_batch([d.text for d in documents]), strict=True)):
            normalized = tokenizer.prove(d.text, ids, f"source {source!r}, {d.ref}", decode=n == 0)
            ids_T = np.array([*ids, tokenizer.eos_id], dtype=np.uint32)
            encoded.append(Encoded(ids_T, len(d.text.encode()), normalized_characters=normalized))
        return encoded

    return write_splits(documents_dir, encode, shards_header(tokenizer, source), out, workers, progress, shard_tokens)


def shards_header(tokenizer: Tokenizer, source: str) -> dict[str, Any]:
    """The first fields of shards.json: whose ids these are, and of which source."""
    return {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
        "source": source,
    }


def write_splits(
    documents_dir: Path,
    encode: EncodeBatch,
    header: dict[str, Any],
    out: Path,
    workers: int = 1,
    progress: Progress = silent,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Write both splits through `encode` (see `write_shards`); `header` are the first fields of shards.json."""
    facts: dict[str, Any] = {}
    for split in SPLITS:
        writer = _ShardWriter(out / split, header, shard_tokens)
        rest = islice(read_documents(documents_dir, split), writer.manifest["total_documents"], None)
        for encoded in _in_order(encode, _batches(rest), workers):
            for document in encoded:
                writer.add(document)
            progress(writer.tokens, None, f"{split} tokens")
        writer.finish()
        facts |= {f"{split}_{n}": writer.manifest[f"total_{n}"] for n in ("tokens", "documents")}
        facts[f"{split}_text_bytes"] = writer.manifest["text_bytes"]
        if normalized := writer.manifest.get("normalized_characters"):
            facts[f"{split}_normalized_characters"] = normalized
    return facts


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _in_order(encode: EncodeBatch, batches: Iterator[list[Document]], workers: int) -> Iterator[list[Encoded]]:
    """Results in the order of the batches, with at most `workers` batches ahead of the consumer."""
    pool = ThreadPoolExecutor(workers)
    try:
        running: deque[Future[list[Encoded]]] = deque()
        for batch in batches:
            running.append(pool.submit(encode, batch))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _ShardWriter:
    """Appends documents to the shards of one split, starting after the shards that are already finished."""

    def __init__(self, folder: Path, header: dict[str, Any], shard_tokens: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shard_tokens = folder, shard_tokens
        fresh = {**header, "total_tokens": 0, "total_documents": 0, "text_bytes": 0, "shards": []}
        file = folder / "shards.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else fresh
        self.manifest = found if all(found.get(k) == v for k, v in header.items()) else fresh
        finished = {s["name"] for s in self.manifest["shards"]}
        for leftover in folder.glob("shard-*"):
            if leftover.stem not in finished:
                leftover.unlink()
        self._files: dict[str, BinaryIO] = {}
        self._starts = [0]
        self._text_bytes = self._normalized_characters = 0

    @property
    def tokens(self) -> int:
        """Tokens written, finished shards and the open one."""
        return self.manifest["total_tokens"] + self._starts[-1]

    @property
    def _name(self) -> str:
        return f"shard-{len(self.manifest['shards']):05d}"

    def add(self, document: Encoded) -> None:
        tokens = self._starts[-1] + len(document.ids_T)
        if tokens > self.shard_tokens and len(self._starts) > 1:
            self._close_shard()
            tokens = len(document.ids_T)
        self._write("bin", document.ids_T.astype("<u4", copy=False))
        if document.mask_T is not None:
            self._write("mask", document.mask_T)
        self._starts.append(tokens)
        self._text_bytes += document.text_bytes
        self._normalized_characters += document.normalized_characters

    def finish(self) -> None:
        if len(self._starts) > 1:
            self._close_shard()
        write_json(self.folder / "shards.json", self.manifest)

    def _write(self, suffix: str, values: NDArray) -> None:
        if suffix not in self._files:
            self._files[suffix] = open(self.folder / f"{self._name}.{suffix}", "wb")  # noqa: SIM115
        self._files[suffix].write(values.data)

    def _close_shard(self) -> None:
        self._write("idx", np.array(self._starts, dtype="<u8"))
        hashes, sums = {}, []
        for suffix in filter(self._files.__contains__, _HASHES):
            path = self._close(suffix)
            hashes[_HASHES[suffix]] = sha256_file(path)
            sums.append(block_sums(path))
        self._write("sums", np.concatenate(sums))
        hashes[_SUMS_HASH] = sha256_file(self._close("sums"))
        fsync_path(self.folder)
        documents, tokens = len(self._starts) - 1, self._starts[-1]
        self.manifest["shards"].append({"name": self._name, "tokens": tokens, "documents": documents, **hashes})
        self.manifest["total_tokens"] += tokens
        self.manifest["total_documents"] += documents
        self.manifest["text_bytes"] += self._text_bytes
        if self._normalized_characters:
            self.manifest.setdefault("normalized_characters", 0)
            self.manifest["normalized_characters"] += self._normalized_characters
        write_json(self.folder / "shards.json", self.manifest)
        self._files, self._starts, self._text_bytes, self._normalized_characters = {}, [0], 0, 0

    def _close(self, suffix: str) -> Path:
        """The file, on the disk."""
        file = self._files[suffix]
        file.close()
        fsync_path(Path(file.name))
        return Path(file.name)


class TokenShards:
    """One split of a shard artifact. Positions are tokens from the start of the first shard.

    Raises UserError when opened if files are missing or have another size than shards.json says, or if an index is not
    the one that was written; when read, where a block of tokens is not.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "shards.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: no readable shards.json; run the tokenize stage again") from error
        shards = self.manifest["shards"]
        self.source: str = self.manifest["source"]
        self.eos_id: int = self.manifest["eos_id"]
        self.vocab_size: int = self.manifest.get("vocab_size", 1 << 32)  # shards made before it was recorded lack it
        self.tokenizer_fingerprint: str = self.manifest["tokenizer_fingerprint"]
        self.total_tokens: int = self.manifest["total_tokens"]
        self.total_documents: int = self.manifest["total_documents"]
        self.masked = any("mask_sha256" in s for s in shards)
        self._first_token = np.cumsum([0, *(s["tokens"] for s in shards)])
        self._first_document = np.cumsum([0, *(s["documents"] for s in shards)])
        self._files = [self._open(s) for s in shards]
        self._starts = [self._values(n, "idx", 0, s["documents"] + 1) for n, s in enumerate(shards)]

    def _open(self, shard: dict[str, Any]) -> dict[str, CheckedFile]:
        """A shard's files by suffix; what was written before there were sums has none."""
        shapes = {"bin": ("<u4", shard["tokens"]), "idx": ("<u8", shard["documents"] + 1)}
        if self.masked:
            shapes["mask"] = ("u1", shard["tokens"])
        sizes = {suffix: np.dtype(dtype).itemsize * length for suffix, (dtype, length) in shapes.items()}
        for suffix, expected_bytes in sizes.items():
            self._expect(shard["name"], suffix, expected_bytes)
        counts = [blocks(size_bytes) for size_bytes in sizes.values()]
        sums_by_file: Sequence[NDArray[np.uint64] | None] = [None] * len(counts)
        if _SUMS_HASH in shard:
            file = self._expect(shard["name"], "sums", 8 * sum(counts))
            if sha256_file(file) != shard[_SUMS_HASH]:
                raise UserError(f"{file}: not as it was written; {_REBUILD}")
            sums_by_file = np.split(np.fromfile(file, "<u8"), np.cumsum(counts)[:-1])
        return {
            suffix: CheckedFile(self.folder / f"{shard['name']}.{suffix}", dtype, length, sums_N)
            for (suffix, (dtype, length)), sums_N in zip(shapes.items(), sums_by_file, strict=True)
        }

    def _expect(self, name: str, suffix: str, size_bytes: int) -> Path:
        """The file, which has this size."""
        file = self.folder / f"{name}.{suffix}"
        actual_bytes = file.stat().st_size if file.exists() else 0
        if actual_bytes != size_bytes:
            raise UserError(f"{file}: {actual_bytes} bytes where shards.json says {size_bytes}; {_REBUILD}")
        return file

    def _values(self, shard: int, suffix: str, start: int, stop: int) -> NDArray:
        """Those of a shard's file in [start, stop), as they were written."""
        try:
            return self._files[shard][suffix].values(start, stop)
        except AlteredError as altered:
            where = f"bytes {altered.first:,} to {altered.stop - 1:,}"
            if suffix != "idx":
                size = self._files[shard][suffix].dtype.itemsize
                first, last = (
                    self._document_at(int(self._first_token[shard]) + at // size)
                    for at in (altered.first, altered.stop - 1)
                )
                where += f" (documents {first:,} to {last:,} of source {self.source!r})"
            raise UserError(f"{altered.path}: {where} are not as they were written; {_REBUILD}") from None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer's fingerprint and every shard's hashes: names the stream of tokens."""
        identity = {k: self.manifest[k] for k in ("tokenizer_fingerprint", "eos_id")}
        identity["shards"] = [{k: v for k, v in s.items() if k != _SUMS_HASH} for s in self.manifest["shards"]]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    @property
    def target_tokens(self) -> int:
        """Tokens that rows may ask to be predicted: of text all but each document's first, of chat those learned."""
        if self.masked:
            return int(self.mask(0, self.total_tokens).sum(dtype=np.int64))
        return self.total_tokens - self.total_documents

    def tokens(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Ids uint32 [stop - start] of the stream. Raises IndexError outside it, UserError for what is no id."""
        ids_T = _joined([self._values(s, "bin", a, b) for s, a, b in self._parts(start, stop)], np.uint32)
        if ids_T.max(initial=0) >= self.vocab_size:
            position = start + int(np.argmax(ids_T >= self.vocab_size))
            ((shard, _, _),) = self._parts(position, position + 1)
            raise UserError(
                f"{self.folder / self.manifest['shards'][shard]['name']}.bin: token {ids_T[position - start]} in "
                f"document {self._document_at(position)} of source {self.source!r}, but the tokenizer has "
                f"{self.vocab_size} ids; {_REBUILD}"
            )
        return ids_T

    def mask(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Chat only: uint8 [stop - start], 1 where the token is to be predicted."""
        return _joined([self._values(s, "mask", a, b) for s, a, b in self._parts(start, stop)], np.uint8)

    def document_starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Positions in [start, stop) at which a document begins, int64, ascending."""
        found: list[NDArray[np.int64]] = []
        for shard, first, end in self._parts(start, stop):
            starts = self._starts[shard][:-1]
            # the bounds as uint64: any other type would make numpy convert the whole index
            low, high = np.searchsorted(starts, np.array([first, end], dtype=np.uint64))
            found.append(starts[low:high].astype(np.int64) + self._first_token[shard])
        return _joined(found, np.int64)

    def documents(self, start: int, stop: int) -> range:
        """Ordinals (in the order of the documents artifact) of the documents with a token in [start, stop)."""
        return range(self._document_at(start), self._document_at(stop - 1) + 1)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first, last + 1) within each shard that [start, stop) touches."""
        if not 0 <= start <= stop <= self.total_tokens:
            raise IndexError(f"{self.folder}: tokens [{start}, {stop}) of {self.total_tokens}")
        shard = int(np.searchsorted(self._first_token, start, side="right")) - 1
        while start < stop:
            first = int(self._first_token[shard])
            end = min(stop, int(self._first_token[shard + 1]))
            yield shard, start - first, end - first
            start, shard = end, shard + 1

    def _document_at(self, position: int) -> int:
        ((shard, offset, _),) = self._parts(position, position + 1)
        within = np.searchsorted(self._starts[shard], np.uint64(offset), side="right") - 1
        return int(self._first_document[shard] + within)


def _joined(parts: list[NDArray], dtype: type[np.generic]) -> NDArray:
    """The parts end to end; without a copy where there is one part, as nearly always."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts], dtype=dtype)
