"""What stands in a run that Weights & Biases keeps offline, read as `wandb sync` reads it."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0
BLOCK_BYTES, FILE_HEADER_BYTES, RECORD_HEADER = 32768, 7, struct.Struct("<IHB")  # checksum, length, place in a record


def logged(folder: Path) -> dict[str, Any]:
    """Of the one offline run in `folder`/wandb: `config`, `summary` and `history`, a list of rows. The service that
    writes the file may be behind on a busy machine, and is waited for."""
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    until = time.monotonic() + PATIENCE_S
    while not (found := _read(file))["config"] and time.monotonic() < until:
        time.sleep(0.2)
    return found


def _read(file: Path) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"config": {}, "summary": {}, "history": []}
    for raw in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(raw)
        match record.WhichOneof("record_type"):
            case "run":
                found["config"] |= _items(record.run.config.update)
                found["id"] = record.run.run_id
            case "summary":
                found["summary"] |= _items(record.summary.update)
            case "history":
                found["history"].append(_items(record.history.item))
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    at, whole = FILE_HEADER_BYTES, b""
    while at + RECORD_HEADER.size <= len(data):
        if BLOCK_BYTES - at % BLOCK_BYTES < RECORD_HEADER.size:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        _, length, place = RECORD_HEADER.unpack_from(data, at)
        at += RECORD_HEADER.size
        whole += data[at : at + length]
        at += length
        if place in (1, 4):  # all of it, or its last part
            yield whole
            whole = b""
