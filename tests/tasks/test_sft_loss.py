"""Fine-tuning on packed rows is fine-tuning on each conversation alone."""

from __future__ import annotations

import json

import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.data.chatml import encode_conversation, write_chat_shards
from athanor.data.data_recipe import ChatSourceRecipe, TokenizerRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.loader import ChatLoader
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe


@pytest.mark.parametrize("family", ["vanilla", "polychromatic"])
def test_packed_loss_is_the_sum_of_the_conversations_losses(tmp_path, family):
    documents, tokenizer_dir, chat = tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "chat"
    documents.mkdir()
    write_documents(ChatSourceRecipe(builtin="word-problems", max_documents=40), documents)
    texts = (document.text for document in read_documents(documents, "train"))
    build_tokenizer(TokenizerRecipe(vocab_size=300), texts, tokenizer_dir)
    write_chat_shards(documents, tokenizer_dir, chat)
    tokenizer = load_tokenizer(tokenizer_dir)
    model = build_model(
        ModelRecipe(
            family=family,
            vocab_size=tokenizer.vocab_size,
            d_model=16,
            n_layers=2,
            n_heads=2,
            n_kv_heads=1,
            head_dim=8,
            d_ff=16,
            max_seq_len=512,
        )
    ).eval()
    model.init_weights(0)
    rows = 4
    loader = ChatLoader(chat, seed=0, steps=100, seq_len_tokens=512, batch_rows=rows)
    packed, packed_tokens = 0.0, 0
    for ordinal in range(loader.rows_per_epoch):
        batch = loader.batch(ordinal // rows, [ordinal % rows])
        arrays = (torch.from_numpy(a) for a in (batch.ids_BT, batch.targets_BT, batch.doc_start_BT))
        loss = model.loss(*arrays)
        packed, packed_tokens = packed + loss.total.item(), packed_tokens + int(loss.tokens)

    alone, alone_tokens = 0.0, 0
    for document in read_documents(documents, "train"):
        ids, mask = (torch.tensor(part) for part in encode_conversation(json.loads(document.text), tokenizer))
        targets = torch.where(mask[1:].bool(), ids[1:], IGNORE)
        loss = model.loss(ids[None, :-1], targets[None])
        alone, alone_tokens = alone + loss.total.item(), alone_tokens + int(loss.tokens)
    assert packed_tokens == alone_tokens > 0
    assert packed == pytest.approx(alone, rel=1e-5)
