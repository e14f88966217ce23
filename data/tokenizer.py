"""Tokenizers: load one or train one, and make it safe for training data.

A tokenizer artifact is `tokenizer.json`, `meta.json` and `token_bytes.npy`. Whatever its origin, it is byte-level
(bits per byte is only defined then), it has an EOS token, and truncation and padding are switched off.

Invariant: text never turns into a special token. Every fast tokenizer maps a literal "<|endoftext|>" in a document
to the EOS id, which would end the document in its middle; here the special tokens are matched by nobody but us
(`encode_special_tokens`), so their text becomes ordinary tokens that decode back. Added tokens that the tokenizer
itself does not call special (Qwen3: `<think>`, `<tool_call>`) are vocabulary, and keep their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tokenizers import decoders, models, pre_tokenizers, trainers

from athanor.core.disk import write_json
from athanor.core.errors import UserError
from athanor.core.keys import sha256_file
from athanor.data.data_recipe import TokenizerRecipe

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"


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

    def token_id(self, token: str) -> int | None:
        """Id of a token by its exact name, e.g. `<|im_end|>`; None where the vocabulary lacks it."""
        return self._inner.token_to_id(token)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Open a tokenizer artifact, or the tokenizer inside a portable checkpoint.

    Raises UserError if a file is missing or `tokenizer.json` is not the one its meta file describes.
    """
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

    Returns facts: origin, vocab_size, eos_id, fingerprint and, when trained, trained_bytes and wanted_vocab_size
    (the result is smaller when the text has too few distinct pairs). Raises UserError for a missing, gated or
    unreadable file, a tokenizer that is not byte-level, or an EOS that it lacks.
    """
    trained: dict[str, Any] = {}
    if recipe.path is not None:
        inner, origin = _read(tokenizer_file(recipe.path)), f"path {recipe.path}"
    elif recipe.hub is not None:
        inner, origin = _read(_download(recipe.hub, recipe.hub_revision)), f"hub {recipe.hub}"
    else:
        inner, trained_bytes = _train(recipe, texts)
        origin, trained = "trained", {"trained_bytes": trained_bytes, "wanted_vocab_size": recipe.vocab_size}
    _harden(inner, recipe.eos, origin)

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
    return {"origin": origin, **meta, **trained}


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


def _harden(inner: tokenizers.Tokenizer, eos: str, origin: str) -> None:
    """Make the tags we rely on special, switch off truncation and padding, and prove that text cannot be EOS."""
    if not _is_byte_level(json.loads(inner.to_str())):
        raise UserError(f"tokenizer ({origin}): not byte-level, so bits per byte is undefined; use a byte-level BPE")
    if inner.token_to_id(eos) is None:
        special = [t.content for t in inner.get_added_tokens_decoder().values() if t.special]
        raise UserError(f"tokenizer.eos={eos!r}: not a token of {origin}; its special tokens are {', '.join(special)}")
    inner.add_special_tokens([t for t in (eos, IM_START, IM_END) if inner.token_to_id(t) is not None])
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    if inner.token_to_id(eos) in inner.encode(eos, add_special_tokens=False).ids:
        raise UserError(f"tokenizer.eos={eos!r}: also what ordinary text encodes to; choose a special token")


def _is_byte_level(spec: dict[str, Any]) -> bool:
    decoder = spec.get("decoder") or {}
    return any(d.get("type") == "ByteLevel" for d in [decoder, *decoder.get("decoders", [])])


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
