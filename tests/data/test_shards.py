from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tokenizers
from older_shards import without_sums

from athanor.core.errors import UserError
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.documents import read_documents
from athanor.data.shards import TokenShards, write_shards
from athanor.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer


@pytest.fixture
def texts(make_text):
    return [make_text(seed, 5 + seed % 40) for seed in range(120)]


@pytest.fixture
def documents_dir(write_documents_dir, texts):
    return write_documents_dir("math", texts[:100], texts[100:])


def contents(folder):
    """Every file below a folder, by name."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_every_document_is_there_once_in_order_and_ends_with_eos(documents_dir, tokenizer_dir, texts, tmp_path):
    tokenizer = load_tokenizer(tokenizer_dir)
    facts = write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    for split, expected in (("train", texts[:100]), ("held_out", texts[100:])):
        shards = TokenShards(tmp_path / "out" / split)
        starts = shards.document_starts(0, shards.total_tokens)
        bounds = [*starts.tolist(), shards.total_tokens]
        assert len(starts) == len(expected) == facts[f"{split}_documents"]
        for text, start, stop in zip(expected, bounds[:-1], bounds[1:], strict=True):
            assert shards.tokens(start, stop).tolist() == [*tokenizer.encode(text), tokenizer.eos_id]


def test_manifest_sums_and_hashes_are_those_of_the_files(documents_dir, tokenizer_dir, texts, tmp_path):
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    folder = tmp_path / "out" / "train"
    manifest = json.loads((folder / "shards.json").read_text())
    tokenizer = load_tokenizer(tokenizer_dir)
    assert manifest["total_tokens"] == sum(len(tokenizer.encode(t)) + 1 for t in texts[:100])
    assert manifest["total_documents"] == 100
    assert manifest["text_bytes"] == sum(len(t.encode()) for t in texts[:100])
    assert manifest["source"] == "math" and manifest["tokenizer_fingerprint"] == tokenizer.fingerprint
    assert len(manifest["shards"]) > 3
    for field in ("tokens", "documents"):
        assert sum(s[field] for s in manifest["shards"]) == manifest[f"total_{field}"]
    for shard in manifest["shards"]:
        ids = np.fromfile(folder / f"{shard['name']}.bin", "<u4")
        starts = np.fromfile(folder / f"{shard['name']}.idx", "<u8")
        assert hashlib.sha256(ids.tobytes()).hexdigest() == shard["sha256"]
        assert len(ids) == shard["tokens"] == starts[-1] <= 700
        assert (ids == tokenizer.eos_id).sum() == shard["documents"] == len(starts) - 1


def test_contents_do_not_depend_on_the_number_of_workers(documents_dir, tokenizer_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("athanor.data.shards._BATCH_CHARACTERS", 500)
    for workers in (1, 2, 5):
        write_shards(documents_dir, tokenizer_dir, "math", tmp_path / str(workers), workers, shard_tokens=700)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "5")


class Killed(BaseException):
    pass


def test_a_stopped_run_goes_on_after_the_last_finished_shard(documents_dir, tokenizer_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("athanor.data.shards._BATCH_CHARACTERS", 500)
    args = (documents_dir, tokenizer_dir, "math")
    write_shards(*args, tmp_path / "whole", shard_tokens=700)
    out, reports = tmp_path / "out", []

    def stop_later(done, _total, _unit):
        reports.append(done)
        if len(reports) == 12:
            raise Killed

    with pytest.raises(Killed):
        write_shards(*args, out, progress=stop_later, shard_tokens=700)
    finished = json.loads((out / "train" / "shards.json").read_text())
    assert len(finished["shards"]) >= 2 and finished["total_documents"] < 100
    torn = out / "train" / f"shard-{len(finished['shards']):05d}.bin"
    torn.write_bytes(b"leftover of the killed run" * 10_000)
    (out / "train" / "shard-00099.bin").write_bytes(b"stray")

    encoded, encode_batch = [], Tokenizer.encode_batch
    monkeypatch.setattr(
        Tokenizer, "encode_batch", lambda self, texts: encoded.extend(texts) or encode_batch(self, texts)
    )
    facts = write_shards(*args, out, shard_tokens=700)
    assert contents(out) == contents(tmp_path / "whole")
    assert len(encoded) == 120 - finished["total_documents"]
    assert facts["train_documents"] == 100
    encoded.clear()
    write_shards(*args, out, shard_tokens=700)
    assert encoded == [] and contents(out) == contents(tmp_path / "whole")


def test_a_run_killed_by_sigkill_resumes_to_the_same_bytes(documents_dir, tokenizer_dir, tmp_path):
    code = f"""
        import pathlib, time
        from athanor.data import shards
        shards._BATCH_CHARACTERS = 500
        shards.write_shards(*map(pathlib.Path, ({str(documents_dir)!r}, {str(tokenizer_dir)!r})), "math",
            pathlib.Path({str(tmp_path / "out")!r}), shard_tokens=300, progress=lambda *_: time.sleep(0.02))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while not (tmp_path / "out" / "train" / "shard-00003.bin").exists():
        assert child.poll() is None
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "out" / "held_out").exists()
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=300)
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "whole", shard_tokens=300)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_another_tokenizer_left_behind_is_not_continued(
    documents_dir, tokenizer_dir, plain_tokenizer_dir, tmp_path
):
    write_shards(documents_dir, plain_tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "fresh", shard_tokens=700)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_document_longer_than_a_shard_stays_whole(write_documents_dir, tokenizer_dir, make_text, tmp_path):
    folder = write_documents_dir("long", [make_text(1, 5), make_text(2, 900), make_text(3, 5), ""])
    write_shards(folder, tokenizer_dir, "long", tmp_path / "out", shard_tokens=100)
    manifest = json.loads((tmp_path / "out" / "train" / "shards.json").read_text())
    assert [s["documents"] for s in manifest["shards"]] == [1, 1, 2]
    assert manifest["shards"][1]["tokens"] > 100
    first = write_documents_dir("long first", [make_text(2, 900), make_text(3, 5)])
    write_shards(first, tokenizer_dir, "long first", tmp_path / "first", shard_tokens=100)
    manifest = json.loads((tmp_path / "first" / "train" / "shards.json").read_text())
    assert [s["documents"] for s in manifest["shards"]] == [1, 1]


def test_spans_across_shards_read_like_one_stream(documents_dir, tokenizer_dir, tmp_path):
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "many", shard_tokens=200)
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "one")
    many, one = TokenShards(tmp_path / "many" / "train"), TokenShards(tmp_path / "one" / "train")
    assert many.total_tokens == one.total_tokens and many.fingerprint != one.fingerprint
    begins = one.document_starts(0, one.total_tokens)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, one.total_tokens + 1, (200, 2)), axis=1).tolist():
        assert (many.tokens(start, stop) == one.tokens(start, stop)).all()
        inside = begins[(begins >= start) & (begins < stop)]
        assert many.document_starts(start, stop).tolist() == inside.tolist()
        assert one.document_starts(start, stop).tolist() == inside.tolist()
        if start < stop:
            first, last = (int((begins <= p).sum()) - 1 for p in (start, stop - 1))
            assert many.documents(start, stop) == one.documents(start, stop) == range(first, last + 1)
    for outside in ((-1, 2), (0, one.total_tokens + 1), (5, 4)):
        with pytest.raises(IndexError):
            many.tokens(*outside)


@pytest.mark.parametrize("suffix", ["bin", "idx", "sums"])
def test_a_shard_of_another_size_is_found_and_named_when_opened(documents_dir, tokenizer_dir, tmp_path, suffix):
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    file = tmp_path / "out" / "train" / f"shard-00001.{suffix}"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=f"shard-00001.{suffix}.*bytes where shards.json says"):
        TokenShards(tmp_path / "out" / "train")


def altered(file, at):
    whole = bytearray(file.read_bytes())
    whole[at] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize("suffix", ["idx", "sums"])
def test_an_altered_index_or_list_of_sums_is_found_and_named_when_opened(
    documents_dir, tokenizer_dir, tmp_path, suffix
):
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    altered(tmp_path / "out" / "train" / f"shard-00001.{suffix}", 8)
    with pytest.raises(
        UserError, match=f"shard-00001.{suffix}: .*not as (it was|they were) written; delete this artifact"
    ):
        TokenShards(tmp_path / "out" / "train")


@pytest.mark.parametrize("harm", [altered, os.truncate, lambda file, _at: file.unlink()])
def test_a_block_that_changed_since_it_was_written_is_an_error_at_its_first_touch_and_the_others_are_read(
    documents_dir, tokenizer_dir, tmp_path, monkeypatch, harm
):
    monkeypatch.setattr("athanor.data.checked_file.BLOCK_BYTES", 256)
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out")
    shards = TokenShards(tmp_path / "out" / "train")
    before = shards.tokens(0, 64)
    harm(shards.folder / "shard-00000.bin", 1030)  # token 257, in the fifth block
    for start, stop in ((257, 258), (200, 400), (0, shards.total_tokens)):
        with pytest.raises(UserError) as error:
            shards.tokens(start, stop)
        assert "shard-00000.bin: bytes" in str(error.value) and "\n" not in str(error.value)
    if harm is altered:
        begins = shards.document_starts(0, shards.total_tokens)
        first, last = (int((begins <= at).sum()) - 1 for at in (256, 319))
        assert f"bytes 1,024 to 1,279 (documents {first} to {last} of source 'math') are not" in str(error.value)
        assert len(shards.tokens(320, 400)) == 80 and (shards.tokens(0, 64) == before).all()


def test_shards_that_were_written_without_sums_are_read_and_are_the_same_stream(documents_dir, tokenizer_dir, tmp_path):
    write_shards(documents_dir, tokenizer_dir, "math", tmp_path / "out", shard_tokens=700)
    now = TokenShards(tmp_path / "out" / "train")
    ids = now.tokens(0, now.total_tokens)
    without_sums(now.folder)
    before = TokenShards(now.folder)
    assert (before.tokens(0, before.total_tokens) == ids).all()
    assert before.fingerprint == now.fingerprint
    os.truncate(before.folder / "shard-00000.bin", 1030)
    with pytest.raises(UserError, match=r"shard-00000\.bin: bytes 1,030 to "):
        before.tokens(0, before.total_tokens)


def test_a_folder_without_shards_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no readable shards\.json"):
        TokenShards(tmp_path)


def test_an_empty_split_is_an_empty_stream(write_documents_dir, tokenizer_dir, tmp_path):
    write_shards(write_documents_dir("one", ["a b c"]), tokenizer_dir, "one", tmp_path / "out")
    shards = TokenShards(tmp_path / "out" / "held_out")
    assert (shards.total_tokens, shards.total_documents) == (0, 0)
    assert shards.tokens(0, 0).size == 0 and shards.tokens(0, 0).dtype == np.uint32


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_real_text_has_the_token_count_of_an_independent_tokenizer(name, test_data_path, write_documents_dir, tmp_path):
    tokenizer_file = test_data_path(f"{name}_tokenizer/tokenizer.json")
    lines = test_data_path("gsm8k/train.jsonl").read_text().splitlines()[:300]
    texts = [f"{r['question']}\n{r['answer']}" for r in map(json.loads, lines)] + ["a <|endoftext|> b"]
    build_tokenizer(TokenizerRecipe(path=str(tokenizer_file)), iter(()), tmp_path / "tokenizer")
    folder = write_documents_dir("gsm8k", texts[10:], texts[:10])
    facts = write_shards(folder, tmp_path / "tokenizer", "gsm8k", tmp_path / "out", shard_tokens=5000)
    reference = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    for split in ("train", "held_out"):
        documents = [d.text for d in read_documents(folder, split)]
        ordinary = [t for t in documents if "<|" not in t]
        counted = sum(len(reference.encode(t).ids) + 1 for t in ordinary)
        shards = TokenShards(tmp_path / "out" / split)
        starts = shards.document_starts(0, shards.total_tokens)
        ordinary_tokens = int(starts[-1]) if len(ordinary) < len(documents) else shards.total_tokens
        assert ordinary_tokens == counted
        assert facts[f"{split}_tokens"] == shards.total_tokens
        ids = shards.tokens(0, shards.total_tokens)
        ends = np.flatnonzero(ids == shards.eos_id) + 1
        assert ends.tolist() == [*starts[1:].tolist(), shards.total_tokens]


def spoiled(tokenizer_dir, tmp_path, monkeypatch, spoil):
    """A tokenizer artifact whose file was spoiled behind the rules' back, which only the proof can notice."""
    spec = json.loads((tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    spoil(spec)
    (tmp_path / "spoiled.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setattr("athanor.data.tokenizer.check_byte_level", lambda spec, name: None)
    build_tokenizer(TokenizerRecipe(path=str(tmp_path / "spoiled.json")), iter(()), tmp_path / "spoiled")
    return tmp_path / "spoiled"


def test_a_document_that_loses_bytes_is_an_error_naming_source_and_document(
    write_documents_dir, tokenizer_dir, tmp_path, monkeypatch
):
    def without_cyrillic_bytes(spec):
        for symbol in "ÐÑ":
            del spec["model"]["vocab"][symbol]

    bad = spoiled(tokenizer_dir, tmp_path, monkeypatch, without_cyrillic_bytes)
    folder = write_documents_dir("letters", ["plain", "печь горит"])
    with pytest.raises(UserError, match=r"'letters', letters\.jsonl:2: .*19 bytes, its tokens stand for 10") as error:
        write_shards(folder, bad, "letters", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_document_that_decodes_to_another_text_is_an_error(write_documents_dir, tokenizer_dir, tmp_path, monkeypatch):
    lower = spoiled(tokenizer_dir, tmp_path, monkeypatch, lambda spec: spec.update(normalizer={"type": "Lowercase"}))
    with pytest.raises(UserError, match=r"'shout', shout\.jsonl:1: .*another text"):
        write_shards(write_documents_dir("shout", ["FIRE"]), lower, "shout", tmp_path / "out")


def test_characters_that_nfc_replaced_are_counted_in_the_facts(
    write_documents_dir, tokenizer_dir, tmp_path, monkeypatch
):
    nfc = spoiled(tokenizer_dir, tmp_path, monkeypatch, lambda spec: spec.update(normalizer={"type": "NFC"}))
    folder = write_documents_dir("accents", ["cafe\u0301", "plain", "e\u0301e\u0301"], ["plain"])
    facts = write_shards(folder, nfc, "accents", tmp_path / "out", shard_tokens=8)
    assert facts["train_normalized_characters"] == 6 and "held_out_normalized_characters" not in facts
