"""A hub of Hugging Face's form on this machine, with a few data sets.

`datasets` reads HF_ENDPOINT when it is imported, so what asks it runs in a child process.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

REVISION = "a" * 40
ROWS = b"".join(json.dumps({"text": f"row {n}", "n": n}).encode() + b"\n" for n in range(5))
TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
CHATS = {
    "chat-messages": {"messages": TURNS},
    "chat-conversations": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "chat-completion": {"prompt": "2 + 2?", "completion": "4"},
    "chat-alpaca": {"instruction": "2 + 2?", "input": "", "output": "4"},
}
DATA_SETS = {"open": ROWS, "odd": ROWS} | {
    name: json.dumps(record | {"id": 1}).encode() for name, record in CHATS.items()
}
REFUSALS = {"unknown": (404, "RepoNotFound"), "gated": (403, "GatedRepo"), "private": (401, "RepoNotFound")}


class Hub(BaseHTTPRequestHandler):
    """A hub with the DATA_SETS, of which `o/odd` has a format that is not opened, and three that refuse."""

    tokens: ClassVar[set[str | None]] = set()
    paths: ClassVar[list[str]] = []  # asked for

    def do_GET(self):
        self.tokens.add(self.headers.get("authorization"))
        path = self.path.split("?")[0]
        self.paths.append(path)
        body, status, headers = self._answer(path)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _answer(self, path: str) -> tuple[bytes, int, dict[str, str]]:
        for name, (status, code) in REFUSALS.items():
            if f"o/{name}" in path:
                return b"", status, {"X-Error-Code": code}
        name = next((name for name in DATA_SETS if f"o/{name}" in path), "odd")
        file, rows = "train.xml" if name == "odd" else "train.jsonl", DATA_SETS[name]
        entry = {"type": "file", "oid": "b" * 40, "size": len(rows), "path": file}
        if path.startswith(f"/api/datasets/o/{name}/tree/"):
            return json.dumps([entry]).encode(), 200, {}
        if path == f"/api/datasets/o/{name}" or path.startswith(f"/api/datasets/o/{name}/revision/"):
            info = {"id": f"o/{name}", "sha": REVISION, "siblings": [{"rfilename": file}], "tags": []}
            return json.dumps(info).encode(), 200, {}
        if path.endswith(f"/{file}"):
            return rows, 200, {"ETag": '"x"', "X-Repo-Commit": REVISION}
        return b"", 404, {"X-Error-Code": "EntryNotFound"}

    def log_message(self, *_):
        pass


@contextmanager
def serving() -> Iterator[str]:
    """The hub's address, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
