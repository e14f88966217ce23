from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from huggingface_hub import errors as hub_errors
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.core.errors import UserError
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, load_tokenizer

TAGS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ["x = 12345 + 6.789\n\tcafé — π", " leading", "", "a\r\n\r\nb   c", "日本語 🙂"]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory):
    """Function: build and open the tokenizer of a tokenizer.json (or recipe), once."""
    cache = {}

    def load(path):
        if path not in cache:
            out = tmp_path_factory.mktemp("tokenizer")
            build_tokenizer(TokenizerRecipe(path=str(path)), iter(()), out)
            cache[path] = load_tokenizer(out)
        return cache[path]

    return load


@pytest.fixture(params=["trained", "qwen3", "gpt2"])
def tokenizer(request, loaded):
    if request.param == "trained":
        return load_tokenizer(request.getfixturevalue("tokenizer_dir"))
    return loaded(request.getfixturevalue("test_data_path")(f"{request.param}_tokenizer/tokenizer.json"))


def test_text_cannot_inject_special_tokens_and_decodes_back(tokenizer):
    special = {tokenizer.token_id(tag) for tag in TAGS} - {None}
    for tag in TAGS:
        for text in (tag, f"a{tag}b", f"\n{tag} {tag}\n"):
            for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0]):
                assert not special & set(ids)
                assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_batch_encodes_like_single_texts_and_decodes_back(tokenizer, text):
    assert tokenizer.encode_batch([text])[0] == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_qwen3_ids_are_the_published_ones_and_its_non_special_tokens_stay_vocabulary(loaded, test_data_path):
    file = test_data_path("qwen3_tokenizer/tokenizer.json")
    reference, tokenizer = tokenizers.Tokenizer.from_file(str(file)), loaded(file)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (151669, 151643)
    for text in [*TEXTS, "<think>a</think>", "<tool_call>"]:
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode("<think>") == [151667]
    assert tokenizer.token_bytes_V[151667] == len("<think>")


def test_token_bytes_sum_to_the_bytes_of_the_text(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.token_bytes_V[ids].sum() == len(text.encode())
    assert tokenizer.token_bytes_V.dtype == np.int32
    assert tokenizer.token_bytes_V.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes_V[tokenizer.eos_id] == 0


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_trained_tokenizer_is_lossless_on_any_text(tokenizer_dir, text):
    tokenizer = load_tokenizer(tokenizer_dir)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes_V[ids].sum() == len(text.encode())


def test_trained_tokenizer_splits_every_digit_and_has_the_wanted_size(tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    assert tokenizer.vocab_size == 300
    assert [tokenizer.decode([i]) for i in tokenizer.encode("357")] == ["3", "5", "7"]
    assert [tokenizer.token_id(tag) for tag in TAGS] == [0, 1, 2]


def test_training_says_when_the_text_is_too_small_for_the_vocabulary_and_stops_at_train_bytes(tmp_path):
    facts = build_tokenizer(TokenizerRecipe(vocab_size=5000), iter(["aa bb aa bb"] * 3), tmp_path)
    assert facts["wanted_vocab_size"] == 5000 and 259 <= facts["vocab_size"] < 300
    texts = iter(["x" * 600] * 10)
    facts = build_tokenizer(TokenizerRecipe(train_bytes=1000), texts, tmp_path / "capped")
    assert facts["trained_bytes"] == 1200 and len(list(texts)) == 8


def test_training_is_the_same_for_any_thread_count(tokenizer_dir, tmp_path):
    code = (
        "import sys, json; from pathlib import Path; from athanor.data.data_recipe import TokenizerRecipe\n"
        "from athanor.data.tokenizer import build_tokenizer\n"
        "texts = iter(json.loads(sys.stdin.read()))\n"
        "print(build_tokenizer(TokenizerRecipe(vocab_size=400), texts, Path(sys.argv[1]))['fingerprint'])"
    )
    texts = json.dumps([f"{i * i} is {i} squared, naïvely; " * 3 for i in range(300)])
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / threads)],
            input=texts, capture_output=True, text=True, check=True,
            env=os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(prints) == 1


def test_truncation_and_padding_of_a_foreign_file_are_switched_off(tokenizer_dir, tmp_path):
    inner = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    inner.enable_truncation(4)
    inner.enable_padding(length=8)
    inner.save(str(tmp_path / "tokenizer.json"))
    build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    got, want = load_tokenizer(tmp_path / "out"), load_tokenizer(tokenizer_dir)
    for text in ("one", "a much longer text than four tokens"):
        assert got.encode(text) == want.encode(text)


def test_dropout_and_added_tokens_of_a_foreign_file_are_switched_off_and_said(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["dropout"] = 0.5
    eos = {"id": "<|endoftext|>", "type_id": 0}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": eos}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    facts = build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    assert facts["switched_off"] == ["1 tokens that its post-processor adds", "BPE dropout 0.5"]
    got, want = load_tokenizer(tmp_path / "out"), load_tokenizer(tokenizer_dir)
    text = "the sum of 12 and 345 is 357, so a furnace burns"
    assert {tuple(got.encode(text)) for _ in range(20)} == {tuple(want.encode(text))}
    shipped = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert shipped.encode(text).ids == want.encode(text)


def test_an_added_token_stands_for_the_bytes_of_its_text(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    arrow = spec["added_tokens"][0] | {"id": len(spec["model"]["vocab"]), "content": "→", "special": False}
    spec["added_tokens"].append(arrow)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.encode("a→")[-1] == arrow["id"] and tokenizer.token_bytes_V[arrow["id"]] == 3


def test_proof_counts_bytes_decodes_and_says_what_nfc_replaced(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    facts = build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert "switched_off" not in facts
    for text, replaced in (("cafe\u0301", 2), ("caf\u00e9", 0), ("a\u0315\u0300", 2), ("q\u0307\u0323", 1)):
        assert tokenizer.prove(text, tokenizer.encode(text), "x", decode=True) == replaced
    with pytest.raises(UserError, match=r"here: .*4 bytes, its tokens stand for 3"):
        tokenizer.prove("four", tokenizer.encode("for"), "here")
    tokenizer.prove("rof", tokenizer.encode("for"), "here")
    with pytest.raises(UserError, match=r"here: .*decode to another text"):
        tokenizer.prove("rof", tokenizer.encode("for"), "here", decode=True)


def test_an_eos_that_the_file_does_not_call_special_is_made_special(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    for token in spec["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.eos_id not in tokenizer.encode("a<|endoftext|>b")


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_a_missing_eos_names_the_token_and_the_special_tokens_there_are(tokenizer_dir, tmp_path):
    recipe = TokenizerRecipe(path=str(tokenizer_dir), eos="</s>")
    with pytest.raises(UserError) as error:
        build_tokenizer(recipe, iter(()), tmp_path)
    assert "'</s>'" in one_line(error) and "<|endoftext|>" in str(error.value)


def test_an_eos_that_ordinary_text_encodes_to_is_refused(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"]["end"] = 300
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="'end'"):
        build_tokenizer(TokenizerRecipe(path=str(tmp_path), eos="end"), iter(()), tmp_path / "out")


def test_a_chat_tag_that_ordinary_text_encodes_to_is_refused(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["ignore_merges"] = True
    spec["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match="also what ordinary text encodes to"):
        build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")


def test_a_tokenizer_that_is_not_byte_level_is_refused(tokenizer_dir, tmp_path):
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    spec["decoder"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="byte-level"):
        build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"model": 3}'])
def test_a_broken_file_is_one_line_naming_it(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError) as error:
        build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    assert str(tmp_path) in one_line(error)


def test_a_missing_file_is_one_line_naming_it(tmp_path):
    with pytest.raises(UserError) as error:
        build_tokenizer(TokenizerRecipe(path=str(tmp_path / "nowhere")), iter(()), tmp_path)
    assert "nowhere" in one_line(error)


def test_an_altered_tokenizer_is_refused(tokenizer_dir, tmp_path):
    for file in tokenizer_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text((tokenizer_dir / "tokenizer.json").read_text() + " ")
    with pytest.raises(UserError, match="altered"):
        load_tokenizer(tmp_path)


def test_a_portable_checkpoint_holds_a_loadable_tokenizer(tokenizer_dir, tmp_path):
    for file in tokenizer_dir.iterdir():
        (tmp_path / file.name.replace("meta", "tokenizer_meta")).write_bytes(file.read_bytes())
    assert load_tokenizer(tmp_path).encode("sum") == load_tokenizer(tokenizer_dir).encode("sum")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (hub_errors.GatedRepoError, "gated; accept its terms"),
        (hub_errors.RepositoryNotFoundError, "no such model"),
        (hub_errors.RevisionNotFoundError, "no such revision"),
        (hub_errors.EntryNotFoundError, "no tokenizer.json"),
        (hub_errors.LocalEntryNotFoundError, "cannot be reached"),
        (OSError, "cannot be reached"),
    ],
)
def test_hub_failures_are_one_line_with_the_remedy(kind, says, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise kind.__new__(kind)  # without the HTTP response that some of them ask for

    monkeypatch.setattr("athanor.data.tokenizer.hf_hub_download", fail)
    with pytest.raises(UserError) as error:
        build_tokenizer(TokenizerRecipe(hub="owner/model"), iter(()), tmp_path)
    assert says in one_line(error) and "owner/model" in str(error.value)


def test_a_malformed_hub_id_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        build_tokenizer(TokenizerRecipe(hub="not/a/model"), iter(()), tmp_path)
    assert "owner/name" in one_line(error)
