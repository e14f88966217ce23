"""Access to hub repositories, against a loopback hub: each answer is one line with its remedy, and none takes long."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from athanor.data import hub_access as module
from athanor.data.hub_access import hub_access

TOKEN = "hf_secretsecretsecret"
COMMIT = "5" * 40
PAGE = "https://huggingface.co/datasets/o/gated"


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does: gated repositories describe themselves to everyone, files are for the invited."""

    def do_GET(self):
        status, headers, body = self._answer(self.path, self.headers.get("authorization"))
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, path, authorization):
        kind, _, rest = path.removeprefix("/api/").partition("/")
        match rest.split("/")[1:]:
            case ["open"] | ["open", "revision", "v1"]:
                return 200, {}, {"id": "o/open", "gated": False, "sha": COMMIT}
            case ["open", "revision", _]:
                return 404, {"X-Error-Code": "RevisionNotFound"}, {}
            case ["gated"]:
                return 200, {}, {"id": "o/gated", "gated": "manual"}
            case ["gated", "auth-check"] if authorization == f"Bearer {TOKEN}-invited":
                return 200, {}, {}
            case ["gated", "auth-check"]:
                return (403 if authorization else 401), {"X-Error-Code": "GatedRepo"}, {}
            case ["old"]:
                return 307, {"Location": f"/api/{kind}/new-owner/new"}, {}
            case ["slow"]:
                time.sleep(3)
                return 200, {}, {}
            case ["broken"]:
                return 503, {}, {}
        return 401, {"X-Error-Code": "RepoNotFound"}, {}

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("kind", "repo", "revision", "state", "problem"),
    [
        ("dataset", "o/open", None, "open", None),
        ("model", "o/open", "v1", "open", None),
        ("dataset", "o/open", "v9", "missing", "no revision 'v9'; correct it"),
        ("dataset", "o/gated", None, "gated", f"gated; ask for access at {PAGE} and set HF_TOKEN"),
        ("dataset", "o/old", None, "renamed", "renamed to new-owner/new; write that id"),
        ("model", "o/unknown", None, "missing", "not found or private; check the spelling, or set HF_TOKEN"),
        ("model", "o/broken", None, "unreachable", "the hub answers with status 503; try again later"),
    ],
)
def test_each_answer_of_the_hub_is_one_line_with_its_remedy(kind, repo, revision, state, problem):
    access = hub_access(kind, repo, revision)
    assert (access.state, access.problem) == (state, problem)


def test_a_token_without_access_is_told_where_to_ask_and_one_with_access_passes(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refused = hub_access("dataset", "o/gated")
    assert refused.problem == f"gated, and HF_TOKEN has no access yet; ask for it at {PAGE}"
    assert TOKEN not in str(refused)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}-invited")
    assert hub_access("dataset", "o/gated").state == "open"


def test_offline_mode_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert hub_access("model", "o/open").state == "offline"


def test_a_hub_that_is_not_there_or_does_not_answer_is_named_within_the_timeout(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    assert hub_access("dataset", "o/slow").state == "unreachable"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    gone = hub_access("dataset", "o/open")
    assert gone.problem == "the hub at 127.0.0.1:1 cannot be reached (ConnectError); check the network"
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("endpoint", ["not a url", "http://127.0.0.1:1/["])
def test_an_endpoint_that_is_no_address_is_out_of_reach(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert hub_access("dataset", "o/open").state == "unreachable"
