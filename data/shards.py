"""Token shards: a source's documents as one long stream of ids, every document followed by EOS.

A split's folder holds `shard-00000.bin` (little-endian uint32 ids), `shard-00000.idx` (uint64 document starts within
the shard, then its length), for chat also `shard-00000.mask` (uint8, 1 = this token is to be predicted), and
`shards.json`, which says what is there. A document never spans two shards, so only a document longer than
`shard_tokens` makes a longer one.

Invariants: contents and names depend on the documents, the tokenizer and `shard_tokens` alone, not on worker count
or interruptions; `shards.json` lists a shard only once the shard is on the disk, so a killed run that is started
again goes on after the last listed one and overwrites the rest.
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
from athanor.data.documents import Document, read_documents
from athanor.data.splits import SPLITS
from athanor.data.tokenizer import Tokenizer, load_tokenizer

SHARD_TOKENS = 100_000_000
_BATCH_CHARACTERS = 1 << 20
_HASHES = {"bin": "sha256", "idx": "index_sha256", "mask": "mask_sha256"}  # file suffix -> field of shards.json


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
        hashes = {}
        for suffix, file in self._files.items():
            file.close()
            fsync_path(Path(file.name))
            hashes[_HASHES[suffix]] = sha256_file(Path(file.name))
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


class TokenShards:
    """One split of a shard artifact, memory-mapped. Positions are tokens from the start of the first shard.

    Raises UserError when opened if files are missing or have another size than shards.json says.
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
        self._ids = [self._map(s["name"], "bin", "<u4", s["tokens"]) for s in shards]
        self._starts = [self._map(s["name"], "idx", "<u8", s["documents"] + 1) for s in shards]
        self._mask = [self._map(s["name"], "mask", "u1", s["tokens"]) for s in shards if self.masked]

    def _map(self, name: str, suffix: str, dtype: str, length: int) -> NDArray:
        file = self.folder / f"{name}.{suffix}"
        expected_bytes = length * np.dtype(dtype).itemsize
        actual_bytes = file.stat().st_size if file.exists() else 0
        if actual_bytes != expected_bytes:
            raise UserError(
                f"{file}: {actual_bytes} bytes where shards.json says {expected_bytes}; "
                "delete this artifact and run again to rebuild it"
            )
        return np.memmap(file, dtype=dtype, mode="r").view(np.ndarray)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the tokenizer's fingerprint and every shard's hashes: names the stream of tokens."""
        identity = {k: self.manifest[k] for k in ("tokenizer_fingerprint", "eos_id", "shards")}
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    @property
    def target_tokens(self) -> int:
        """Tokens that rows may ask to be predicted: of text all but each document's first, of chat those learned."""
        if self.masked:
            return int(self.mask(0, self.total_tokens).sum(dtype=np.int64))
        return self.total_tokens - self.total_documents

    def tokens(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Ids uint32 [stop - start] of the stream. Raises IndexError outside it, UserError for what is no id."""
        ids_T = _joined([self._ids[s][a:b] for s, a, b in self._parts(start, stop)], np.uint32)
        if ids_T.max(initial=0) >= self.vocab_size:
            position = start + int(np.argmax(ids_T >= self.vocab_size))
            ((shard, _, _),) = self._parts(position, position + 1)
            raise UserError(
                f"{self.folder / self.manifest['shards'][shard]['name']}.bin: token {ids_T[position - start]} in "
                f"document {self._document_at(position)} of source {self.source!r}, but the tokenizer has "
                f"{self.vocab_size} ids; delete this artifact and run again to rebuild it"
            )
        return ids_T

    def mask(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Chat only: uint8 [stop - start], 1 where the token is to be predicted."""
        return _joined([self._mask[s][a:b] for s, a, b in self._parts(start, stop)], np.uint8)

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

    def verify(self) -> None:
        """Hash every file; raises UserError naming the first whose contents are not those that were written."""
        for shard in self.manifest["shards"]:
            for suffix, field in _HASHES.items():
                file = self.folder / f"{shard['name']}.{suffix}"
                if field in shard and sha256_file(file) != shard[field]:
                    raise UserError(f"{file}: altered since it was written; delete this artifact and run again")

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
