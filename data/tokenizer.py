"""Tokenizers: load one or train one, and make it safe for training data.

A tokenizer artifact is `tokenizer.json`, `meta.json` and `token_bytes.npy`. Whatever its origin, it is byte-level and
lossless (data/byte_level.py: bits per byte is only defined then) and has an EOS token; truncation, padding, tokens that
a post-processor adds and BPE dropout are switched off. That files are believed is not enough: `Tokenizer.prove`
compares what was encoded with the text, and shards are written through it.

Invariant: text never turns into a special token. Every fast tokenizer maps a literal "<|endoftext|>" in a document
to the EOS id, which would end the document in its middle; here the special tokens are matched by nobody but us
(`encode_special_tokens`), so their text becomes ordinary tokens that decode back. Added tokens that the tokenizer
itself does not call special (Qwen3: `<think>`, `<tool_call>`) are vocabulary, and keep their ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.data.byte_level import check_byte_level
from athanor.data.data_recipe import TokenizerRecipe

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
_NFC = normalizers.NFC()


class Tokenizer:
    """A tokenizer artifact (or a portable checkpoint's copy of one), ready to encode."""

    def __init__(self, inner: tokenizers.Tokenizer, meta: dict[str, Any], token_bytes_V: np.ndarray):
        inner.encode_special_tokens = True
        self._inner = inner
        self.vocab_size: int = meta["vocab_size"]
        self.eos: str = meta["eos"]
        self.eos_id: int = meta["eos_id"]
        self.fingerprint: str = meta["fingerprint"]
        self.token_bytes_V = token_bytes_V

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without EOS or any other special token."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as `encode`, on all cores (the library's own threads)."""
        return [e.ids for e in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens appear by their names."""
        return self._inner.decode(list(ids), skip_special_tokens=False)

    def normalized(self, text: str) -> str:
        """What `text` is encoded as: its NFC form where the tokenizer normalizes, else the text itself."""
        return text if self._inner.normalizer is None or text.isascii() else _NFC.normalize_str(text)

    def prove(self, text: str, ids: Sequence[int], where: str, *, decode: bool = False) -> int:
        """Raise UserError, naming `where`, unless `ids` stand for as many bytes as `text` (normalized) has.

        With `decode` they must also decode to it, which costs about as much as encoding. Returns the characters of the
        text that NFC replaced, e.g. 2 for an e and its combining accent; marks that only change their order count as 1.
        """
        normalized = self.normalized(text)
        text_bytes, ids_bytes = len(normalized.encode()), int(self.token_bytes_V[list(ids)].sum())
        if text_bytes != ids_bytes:
            problem = f"the text has {text_bytes:,} bytes, its tokens stand for {ids_bytes:,}"
        elif decode and self.decode(ids) != normalized:
            problem = "its tokens decode to another text"
        else:
            return 0 if normalized == text else max(1, (Counter(text) - Counter(normalized)).total())
        raise UserError(f"{where}: the tokenizer loses text: {problem}; use another tokenizer")

    def token_id(self, token: str) -> int | None:
        """Id of a token by its exact name, e.g. `<|im_end|>`; None where the vocabulary lacks it."""
        return self._inner.token_to_id(token)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Open a tokenizer artifact, or the tokenizer inside a portable checkpoint.

    Raises UserError if a file is missing or `tokenizer.json` is not the one its meta file describes.
    """
    folder = Path(folder)
    file = folder / "tokenizer.json"
    meta_file = next((m for n in ("meta.json", "tokenizer_meta.json") if (m := folder / n).exists()), None)
    if meta_file is None or not file.exists() or not (folder / "token_bytes.npy").exists():
        raise UserError(f"{folder}: no tokenizer here (tokenizer.json, its meta file and token_bytes.npy)")
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    if sha256_file(file) != meta["fingerprint"]:
        raise UserError(f"{file}: altered since it was written; delete {folder} and build it again")
    token_bytes_V = np.load(folder / "token_bytes.npy", allow_pickle=False)
    return Tokenizer(_read(file), meta, token_bytes_V)


def build_tokenizer(recipe: TokenizerRecipe, texts: Iterator[str], out: Path) -> dict[str, Any]:
    """Write a tokenizer artifact into `out`: from path or hub, else trained on the first `train_bytes` of `texts`.

    Returns facts: origin, vocab_size, eos_id, fingerprint, when trained trained_bytes and wanted_vocab_size (the
    result is smaller when the text has too few distinct pairs), and `switched_off` where something was. Raises
    UserError for a missing, gated or unreadable file, a tokenizer that is not byte-level and lossless, or an EOS that
    it lacks.
    """
    trained: dict[str, Any] = {}
    if recipe.path is not None:
        inner, origin = _read(tokenizer_file(recipe.path)), f"path {recipe.path}"
    elif recipe.hub is not None:
        inner, origin = _read(_download(recipe.hub, recipe.hub_revision)), f"hub {recipe.hub}"
    else:
        inner, trained_bytes = _train(recipe, texts)
        origin, trained = "trained", {"trained_bytes": trained_bytes, "wanted_vocab_size": recipe.vocab_size}
    switched_off = _harden(inner, recipe.eos, origin)

    out.mkdir(parents=True, exist_ok=True)
    file = out / "tokenizer.json"
    file.write_text(inner.to_str(), encoding="utf-8")
    token_bytes_V = _token_bytes(inner)
    np.save(out / "token_bytes.npy", token_bytes_V)
    meta = {
        "vocab_size": len(token_bytes_V),
        "eos": recipe.eos,
        "eos_id": inner.token_to_id(recipe.eos),
        "fingerprint": sha256_file(file),
    }
    write_json(out / "meta.json", meta)
    said = {"switched_off": switched_off} if switched_off else {}
    return {"origin": origin, **meta, **trained, **said}


def check_chat_tags(token_id: Callable[[str], object], name: str) -> None:
    """Raise UserError if the tokenizer `name` has not both chat tags; `token_id` gives None for a token it lacks."""
    if missing := [tag for tag in (IM_START, IM_END) if token_id(tag) is None]:
        raise UserError(
            f"{name} has no {' and no '.join(missing)}, so what a user types could become a turn of its own: add both "
            "to the added_tokens of its tokenizer.json before pretraining, or use one that has them, such as Qwen3's"
        )


def check_tokenizer_file(file: Path, *, conversations: bool) -> int:
    """The number of ids of a tokenizer.json, read without the library; cheap enough for a plan.

    Raises UserError if it is none, would lose text, or, for `conversations`, lacks the chat tags.
    """
    try:
        spec = json.loads(file.read_text(encoding="utf-8"))
        check_byte_level(spec, str(file))
        ids = spec["model"]["vocab"] | {token["content"]: token["id"] for token in spec["added_tokens"]}
        vocab_size = max(ids.values()) + 1
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a tokenizer.json of the tokenizers library ({type(error).__name__})") from error
    if conversations:
        check_chat_tags(ids.get, str(file))
    return vocab_size


def cached_tokenizer_file(repo: str, revision: str | None) -> Path | None:
    """A hub model's tokenizer.json where a copy lies in the hub's cache here."""
    found = try_to_load_from_cache(repo, "tokenizer.json", revision=revision or "main")
    return Path(found) if isinstance(found, str) else None


def tokenizer_file(given: str) -> Path:
    """The tokenizer.json that `tokenizer.path` means: a file, or a folder that holds one. UserError if missing."""
    path = Path(given).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"tokenizer.path: {file} does not exist; give a tokenizer.json or a folder that holds one")
    return file


def _read(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for whatever it cannot parse
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{file}: not a tokenizer.json of the tokenizers library ({reason})") from error


def _download(repo: str, revision: str | None) -> Path:
    where = repo if revision is None else f"{repo}@{revision}"
    unreachable = "the hub cannot be reached and no copy is cached; give a file by tokenizer.path"
    try:
        return Path(hf_hub_download(repo, "tokenizer.json", revision=revision))
    except GatedRepoError as error:
        problem, cause = f"gated; accept its terms at https://huggingface.co/{repo} and set HF_TOKEN", error
    except RepositoryNotFoundError as error:
        problem, cause = "no such model, or a private one; check the id and HF_TOKEN", error
    except RevisionNotFoundError as error:
        problem, cause = "no such revision; check tokenizer.hub_revision", error
    except HFValidationError as error:
        problem, cause = "not a model id of the form owner/name", error
    except LocalEntryNotFoundError as error:
        problem, cause = unreachable, error
    except EntryNotFoundError as error:
        problem, cause = "the model has no tokenizer.json; give one by tokenizer.path", error
    except OSError as error:
        problem, cause = unreachable, error
    raise UserError(f"tokenizer.hub={where}: {problem}") from cause


def _train(recipe: TokenizerRecipe, texts: Iterator[str]) -> tuple[tokenizers.Tokenizer, int]:
    """Byte-level BPE with every digit a token of its own; a pure function of the texts."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(dict.fromkeys([recipe.eos, IM_START, IM_END])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    read_bytes = 0

    def first_bytes() -> Iterator[str]:
        nonlocal read_bytes
        for text in texts:
            yield text
            read_bytes += len(text.encode())
            if read_bytes >= recipe.train_bytes:
                return

    inner.train_from_iterator(first_bytes(), trainer)
    if read_bytes == 0:
        raise UserError("tokenizer: the sources hold no text to train on; check data.sources")
    return inner, read_bytes


def _harden(inner: tokenizers.Tokenizer, eos: str, origin: str) -> list[str]:
    """Make the tags we rely on special, prove that text cannot be one, and switch off what would change ids.

    Returns what was switched off, in words.
    """
    check_byte_level(json.loads(inner.to_str()), f"tokenizer ({origin})")
    if inner.token_to_id(eos) is None:
        special = [t.content for t in inner.get_added_tokens_decoder().values() if t.special]
        raise UserError(f"tokenizer.eos={eos!r}: not a token of {origin}; its special tokens are {', '.join(special)}")
    switched_off = list(_switch_off(inner))
    tags = [t for t in (eos, IM_START, IM_END) if inner.token_to_id(t) is not None]
    inner.add_special_tokens(tags)
    inner.encode_special_tokens = True
    for tag in tags:
        if inner.token_to_id(tag) in inner.encode(tag, add_special_tokens=False).ids:
            named = f"tokenizer.eos={eos!r}" if tag == eos else f"tokenizer ({origin}): {tag!r}"
            raise UserError(f"{named}: also what ordinary text encodes to; choose a special token")
    return switched_off


def _switch_off(inner: tokenizers.Tokenizer) -> Iterator[str]:
    """Truncation, padding, tokens that a post-processor adds, BPE dropout: equal texts have equal ids, and all."""
    if inner.truncation is not None:
        yield "truncation"
    if inner.padding is not None:
        yield "padding"
    inner.no_truncation()
    inner.no_padding()
    if added := inner.num_special_tokens_to_add(is_pair=False):
        yield f"{added} tokens that its post-processor adds"
        inner.post_processor = processors.ByteLevel(trim_offsets=False)
    model = inner.model
    if isinstance(model, models.BPE) and model.dropout:
        yield f"BPE dropout {model.dropout:g}"
        model.dropout = None


def _token_bytes(inner: tokenizers.Tokenizer) -> np.ndarray:
    """int32[V]: UTF-8 bytes that each id stands for; 0 for special tokens and ids without a token.

    In a byte-level vocabulary every character of a token's string stands for one byte; an added token's string
    is the text itself.
    """
    vocab = inner.get_vocab(with_added_tokens=True)
    bytes_V = np.zeros(max(vocab.values()) + 1, dtype=np.int32)
    for token, i in vocab.items():
        bytes_V[i] = len(token)
    for i, token in inner.get_added_tokens_decoder().items():
        bytes_V[i] = 0 if token.special else len(token.content.encode())
    return bytes_V
