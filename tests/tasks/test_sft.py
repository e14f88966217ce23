"""What fine-tuning loses where conversations are longer than its rows is said, and above a limit refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from athanor.core.errors import UserError
from athanor.data.chatml import write_chat_shards
from athanor.data.data_recipe import ChatSourceRecipe, TokenizerRecipe
from athanor.data.documents import write_documents
from athanor.data.tokenizer import build_tokenizer
from athanor.flows.presets.preset import load_preset
from athanor.tasks import sft
from athanor.tasks.cost import Cost, bytes_per_token
from athanor.tasks.sft import MAX_LOST_FRACTION, SftStageRecipe, build, cost, foresee

SHORT_TOKENS, LONG_TOKENS = 64, 512
PRESET = load_preset("quickstart")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Shards of nine short conversations and of one whose answer is longer than a short row."""
    root = tmp_path_factory.mktemp("chat")
    talks = [[("user", f"how hot is {n}?"), ("assistant", "warm")] for n in range(9)]
    talks.append([("user", "tell"), ("assistant", "of furnaces " * 30)])
    records = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks]
    (root / "chat.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    write_documents(ChatSourceRecipe(path=str(root / "chat.jsonl"), held_out_fraction=0), root / "documents")
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["the furnace is warm"]), root / "tokenizer")
    write_chat_shards(root / "documents", root / "tokenizer", root / "shards")
    return SimpleNamespace(path=root / "shards")


def recipe(seq_len_tokens, max_lost_fraction=MAX_LOST_FRACTION):
    train = {"steps": 1, "seq_len_tokens": seq_len_tokens, "batch_tokens": LONG_TOKENS, "peak_lr": 1e-3}
    return SftStageRecipe.model_validate({"train": train, "max_lost_fraction": max_lost_fraction})


def test_rows_that_lose_too_much_are_refused_in_the_plan_and_before_training(chat):
    run: Any = SimpleNamespace(log=pytest.fail)
    unread: Any = None
    attempts = (
        lambda: list(foresee(recipe(SHORT_TOKENS), PRESET, chat=chat)),
        lambda: build(recipe(SHORT_TOKENS), run, base=unread, chat=chat, tokenizer=unread),
    )
    for attempt in attempts:
        with pytest.raises(UserError, match=r"cut 1 and drop 0 of 10 .*lost \(.*sft\.train\.seq_len_tokens") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_rows_that_are_long_enough_or_a_loss_that_is_wanted_are_said_and_pass(chat):
    fit, epochs = foresee(recipe(LONG_TOKENS), PRESET, chat=chat)
    assert fit == (f"all 10 conversations fit rows of {LONG_TOKENS} tokens", False)
    assert "epochs of each source" in epochs.message
    assert "cut 1 and drop 0 of 10" in next(foresee(recipe(SHORT_TOKENS, 1.0), PRESET, chat=chat)).message
    assert list(foresee(recipe(SHORT_TOKENS), PRESET)) == []


def test_how_often_conversations_are_read_is_known_before_they_are_tokens():
    train = recipe(SHORT_TOKENS).train.model_copy(update={"steps": 100})
    asked = SftStageRecipe(train=train, max_lost_fraction=MAX_LOST_FRACTION)
    epochs = cost(asked, PRESET, chat=Cost(None, text_bytes=2 * LONG_TOKENS * bytes_per_token(PRESET.tokenizer))).epochs
    assert epochs == {"chat": 50.0}
    assert not cost(asked, PRESET, chat=Cost(None, text_bytes=None)).epochs


def test_what_is_lost_reaches_the_log_and_the_facts(chat, monkeypatch, tmp_path):
    logged = []
    model = {"family": "vanilla", "d_model": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "d_ff": 8}
    (tmp_path / "config.json").write_text(json.dumps(model), encoding="utf-8")
    monkeypatch.setattr(sft, "train", lambda spec, run: {"loss": 1.0})
    monkeypatch.setattr(sft, "RunSpec", SimpleNamespace)
    run: Any = SimpleNamespace(log=logged.append, key="k" * 64, runtime=None)
    base: Any = SimpleNamespace(path=tmp_path, file=lambda name: tmp_path / name)
    facts = build(recipe(SHORT_TOKENS, 1.0), run, base=base, chat=chat, tokenizer=base)
    assert facts["loss"] == 1.0 and facts["truncated_conversations"] == 1 and facts["dropped_conversations"] == 0
    assert 0 < facts["lost_assistant_tokens"] < facts["assistant_tokens"]
    assert "cut 1 and drop 0 of 10" in logged[0]


def test_what_may_be_lost_is_no_part_of_any_key():
    assert "max_lost_fraction" not in recipe(SHORT_TOKENS, 0.5).model_dump(mode="json")
    asked = load_preset("quickstart").sft
    assert asked is not None and "max_lost_fraction" not in asked.model_dump(mode="json")
    wanted = load_preset("quickstart", ["sft.max_lost_fraction=0.5"]).sft
    assert wanted is not None and wanted.max_lost_fraction == 0.5
