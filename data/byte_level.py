"""What a tokenizer file must say so that no byte of a text is lost: the rules, judged from `tokenizer.json` alone.

Bits per byte divides by the bytes of the text; a tokenizer that drops some of them has less to predict and wins. So
every byte must be a token that the model can always fall back to (BPE with the 256 byte symbols, nothing put around
them), and nothing before or after the model may change the text: the one normalizer allowed is NFC, which is counted
where shards are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import pre_tokenizers

from athanor.core.errors import UserError

NORMALIZER = "NFC"
_SPLITTERS = ("Split", "Digits", "Punctuation", "UnicodeScripts", "FixedLength")  # they cut, and keep every character
_REMEDY = "use a byte-level BPE such as Qwen3's, or leave out tokenizer.path and tokenizer.hub to train one"


def check_byte_level(spec: Mapping[str, Any], name: str) -> None:
    """Raise UserError, one line with the name of the file and the remedy, if texts could lose bytes or gain some.

    `spec` is a tokenizer.json as read; one of another form raises LookupError, TypeError or AttributeError.
    """
    if problem := next(_problems(spec), None):
        raise UserError(f"{name}: not byte-level and lossless, so bits per byte is undefined: {problem}; {_REMEDY}")


def _problems(spec: Mapping[str, Any]) -> Iterator[str]:
    model = spec["model"]
    kind = model["type"] if "type" in model or not model["merges"] else "BPE"  # early files have merges and no type
    if kind != "BPE":
        yield f"its model is {kind}, not BPE"
        return
    symbols = pre_tokenizers.ByteLevel.alphabet()
    if missing := set(symbols) - model["vocab"].keys():
        yield f"{len(missing)} of the 256 byte symbols are not in its vocabulary, and those bytes would vanish"
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            yield f"{affix} {model[affix]!r} hides the byte symbols"
    for normalizer in _flat(spec.get("normalizer"), "normalizers"):
        if normalizer["type"] != NORMALIZER:
            yield f"its normalizer {normalizer['type']} changes the text (only {NORMALIZER} is allowed)"
    yield from _cutting(_flat(spec.get("pre_tokenizer"), "pretokenizers"))
    decoders = [d["type"] for d in _flat(spec.get("decoder"), "decoders") if d["type"] != "Fuse"]
    if decoders != ["ByteLevel"]:
        yield f"its decoder is {' and '.join(decoders) or 'missing'}, not ByteLevel"
    for token in spec.get("added_tokens") or []:
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            yield f"its added token {token['content']!r} swallows the spaces beside it"
        if not token["special"] and not token["content"].isascii() and set(token["content"]) <= set(symbols):
            yield f"its added token {token['content']!r} decodes to other text"


def _cutting(pre_tokenizers_: list[Mapping[str, Any]]) -> Iterator[str]:
    byte_level = [p for p in pre_tokenizers_ if p["type"] == "ByteLevel"]
    if len(byte_level) != 1:
        yield f"it has {len(byte_level)} ByteLevel pre-tokenizers, not one"
    for part in pre_tokenizers_:
        if part["type"] not in ("ByteLevel", *_SPLITTERS):
            yield f"its pre-tokenizer {part['type']} changes the text"
        if part.get("add_prefix_space"):
            yield "its pre-tokenizer adds a space before every text (add_prefix_space)"
        if part.get("behavior") == "Removed":
            yield f"its pre-tokenizer {part['type']} removes what it splits at"


def _flat(part: Mapping[str, Any] | None, members: str) -> list[Mapping[str, Any]]:
    """The members of a sequence, of sequences in it too; a part that is no sequence alone."""
    if not part:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [inner for member in part[members] for inner in _flat(member, members)]
