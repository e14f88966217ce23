"""A tokenizer that would lose or add text is refused from its file alone."""

from __future__ import annotations

import json

import pytest

from athanor.core.errors import UserError
from athanor.data.byte_level import check_byte_level
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, check_tokenizer_file


@pytest.fixture
def spec(tokenizer_dir):
    """A good tokenizer.json, to be spoiled."""
    return json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))


def without_cyrillic_bytes(spec):
    for symbol in "ÐÑ":
        del spec["model"]["vocab"][symbol]


def sequence(spec, *first):
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*first, spec["pre_tokenizer"]]}


def byte_level(spec):
    return next(p for p in spec["pre_tokenizer"]["pretokenizers"] if p["type"] == "ByteLevel")


def added(spec, content, **flags):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False} | flags
    spec["added_tokens"].append({"id": 300, "content": content, **flags})


def normalizer(*kinds):
    members = [{"type": kind} for kind in kinds]
    return members[0] if len(members) == 1 else {"type": "Sequence", "normalizers": members}


LOSSY = {
    "bytes missing": (without_cyrillic_bytes, "2 of the 256 byte symbols"),
    "unigram": (lambda s: s.update(model={"type": "Unigram", "vocab": [["a", -1.0]]}), "Unigram"),
    "word piece": (lambda s: s["model"].update(type="WordPiece"), "WordPiece"),
    "subword prefix": (lambda s: s["model"].update(continuing_subword_prefix="##"), "'##'"),
    "word suffix": (lambda s: s["model"].update(end_of_word_suffix="</w>"), "'</w>'"),
    "lower case": (lambda s: s.update(normalizer=normalizer("Lowercase")), "Lowercase"),
    "NFKC": (lambda s: s.update(normalizer=normalizer("NFC", "NFKC")), "NFKC"),
    "strip": (lambda s: s.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}), "Strip"),
    "white space split": (lambda s: sequence(s, {"type": "WhitespaceSplit"}), "WhitespaceSplit"),
    "removing split": (
        lambda s: sequence(s, {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}),
        "removes what it splits at",
    ),
    "prefix space": (lambda s: byte_level(s).update(add_prefix_space=True), "add_prefix_space"),
    "bytes twice": (lambda s: sequence(s, byte_level(s)), "2 ByteLevel"),
    "no byte level": (lambda s: s.update(pre_tokenizer=None), "0 ByteLevel"),
    "no decoder": (lambda s: s.update(decoder=None), "decoder is missing"),
    "stripping decoder": (
        lambda s: s.update(
            decoder={
                "type": "Sequence",
                "decoders": [s["decoder"], {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
            }
        ),
        "ByteLevel and Strip",
    ),
    "greedy token": (lambda s: added(s, "<think>", lstrip=True), "'<think>' swallows"),
    "token of byte symbols": (lambda s: added(s, "caf\u00e9"), "decodes to other text"),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_a_file_that_would_lose_text_is_one_line_with_its_name_and_the_reason_in_plan_and_in_the_run(
    kind, spec, tmp_path
):
    spoil, reason = LOSSY[kind]
    spoil(spec)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError) as error:
        check_tokenizer_file(file, conversations=False)
    said = str(error.value)
    assert "\n" not in said and str(file) in said and reason in said and "use a byte-level BPE" in said


@pytest.mark.parametrize("kinds", [("NFC",), ("NFC", "NFC")])
def test_nfc_is_allowed(kinds, spec):
    spec["normalizer"] = normalizer(*kinds)
    check_byte_level(spec, "it")


@pytest.mark.parametrize("name", ["gpt2_tokenizer", "qwen3_tokenizer"])
def test_published_tokenizers_pass(name, test_data_path):
    file = test_data_path(f"{name}/tokenizer.json")
    assert check_tokenizer_file(file, conversations=False) > 50_000


def test_the_plan_refuses_conversations_for_a_file_without_tags(plain_tokenizer_dir, tokenizer_dir):
    plain = plain_tokenizer_dir / "tokenizer.json"
    with pytest.raises(UserError, match=r"no <.im_start.> and no <.im_end.>"):
        check_tokenizer_file(plain, conversations=True)
    check_tokenizer_file(plain, conversations=False)
    assert check_tokenizer_file(tokenizer_dir / "tokenizer.json", conversations=True) == 300


def test_a_lossy_tokenizer_becomes_no_artifact(spec, tmp_path):
    spec["normalizer"] = normalizer("Lowercase")
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match="Lowercase"):
        build_tokenizer(TokenizerRecipe(path=str(tmp_path)), iter(()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
