"""Hugging Face data sets, against a loopback hub: what streams, and one line for each thing that can go wrong.

`datasets` reads HF_ENDPOINT when it is imported, so the requests run in one child process per environment.
"""

import json
import os
import subprocess
import sys

import pytest
from loopback_hub import CHATS, TURNS, Hub, serving

from athanor.core.errors import UserError
from athanor.data.data_recipe import SourceRecipe
from athanor.data.sources import hub

TOKEN = "hf_secretsecretsecret"

READ = """
import json, sys
from pathlib import Path
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.core.errors import UserError
answers = []
for number, fields in enumerate(json.loads(sys.argv[1])):
    out = Path(sys.argv[2], str(number))
    try:
        kind = ChatSourceRecipe if "chat" in fields["hub"] else SourceRecipe
        write_documents(kind(**fields), out)
        answers.append([[d.text, d.ref] for d in read_documents(out, "train")])
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def endpoint():
    with serving() as address:
        yield address


@pytest.fixture
def ask(endpoint, tmp_path):
    """Write the documents of each recipe in a child process; the texts, or the message of the error."""

    def run(recipes: list[dict], **environment: str) -> list:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "http", "HTTP"))}
        clean |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")} | environment
        done = subprocess.run(
            [sys.executable, "-c", READ, json.dumps(recipes), str(tmp_path)],
            env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_an_open_data_set_streams_and_every_mistake_is_one_line_with_a_remedy(ask, tmp_path):
    (tmp_path / "local" / "folder").mkdir(parents=True)
    recipes = {
        "rows": {"hub": "o/open", "held_out_fraction": 0.0},
        "limit": {"hub": "o/open", "held_out_fraction": 0.0, "max_documents": 2},
        "config": {"hub": "o/open", "hub_config": "wrong"},
        "split": {"hub": "o/open", "split": "wrong"},
        "column": {"hub": "o/open", "text": "wrong"},
        "unknown": {"hub": "o/unknown"},
        "revision": {"hub": "o/unknown", "hub_revision": "v9"},
        "spelling": {"hub": "not an id"},
        "private": {"hub": "o/private"},
        "gated": {"hub": "o/gated"},
        "format": {"hub": "o/odd"},
        "local": {"hub": "local/folder"},
    }
    answers = dict(zip(recipes, ask(list(recipes.values())), strict=True))
    assert answers["rows"] == [[f"row {n}", f"o/open/train:{n + 1}"] for n in range(5)]
    assert answers["limit"] == answers["rows"][:2]
    expected = {
        "config": "hub o/open: BuilderConfig 'wrong' not found. Available: ['default']",
        "split": "hub o/open: Bad split: wrong. Available splits: ['train']",
        "column": "hub o/open: no column 'wrong'; columns: text, n",
        "unknown": "hub o/unknown: not found or private; check the spelling, or set HF_TOKEN",
        "revision": "hub o/unknown: not found at revision v9 or private; check the spelling, or set HF_TOKEN",
        "spelling": "hub not an id: not found or private; check the spelling, or set HF_TOKEN",
        "private": "hub o/private: not found or private; check the spelling, or set HF_TOKEN",
        "gated": "hub o/gated: gated; ask for access at https://huggingface.co/datasets/o/gated and set HF_TOKEN",
        "format": "hub o/odd: format 'xml' is not opened; readable are arrow, csv, json, parquet, text",
        "local": "hub local/folder: a local file or folder has this name; give it as `path`, or move it",
    }
    assert {name: answers[name] for name in expected} == expected
    assert Hub.tokens == {None}


def test_conversations_are_seen_in_every_form(ask):
    answers = ask([{"hub": f"o/{name}", "held_out_fraction": 0.0} for name in CHATS])
    assert [[json.loads(text) for text, _ in documents] for documents in answers] == [[TURNS]] * len(CHATS)


def test_the_token_goes_to_the_hub_and_nowhere_else(ask, tmp_path):
    gated, unknown = ask([{"hub": "o/gated"}, {"hub": "o/unknown"}], HF_TOKEN=TOKEN)
    assert gated == (
        "hub o/gated: gated, and HF_TOKEN has no access yet; ask for it at https://huggingface.co/datasets/o/gated"
    )
    assert "HF_TOKEN may read it" in unknown
    assert f"Bearer {TOKEN}" in Hub.tokens
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_offline_mode_is_named_with_its_remedy(ask):
    (answer,) = ask([{"hub": "o/open"}], HF_HUB_OFFLINE="1")
    assert answer == "hub o/open: offline mode is on; unset HF_HUB_OFFLINE or give local files as `path`"


def test_an_unforeseen_error_is_one_line_without_the_token(monkeypatch):
    def fails(*_):
        raise RuntimeError(f"bad\nthing at https://x?token={TOKEN}")

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub, "_stream", fails)
    with pytest.raises(UserError) as caught:
        list(hub.read_hub(SourceRecipe(hub="o/open"), ("text",)))
    assert str(caught.value) == "hub o/open: bad thing at https://x?token=<HF_TOKEN>"


def test_an_unreachable_hub_is_named_with_its_remedy(monkeypatch):
    def fails(*_):
        raise ConnectionError("Couldn't reach 'o/open' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(hub, "_stream", fails)
    with pytest.raises(UserError, match=r"hub o/open: out of reach .*check the network"):
        list(hub.read_hub(SourceRecipe(hub="o/open"), ("text",)))
