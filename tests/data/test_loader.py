from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import MixtureRecipe, TokenizerRecipe
from data.errors import UserError
from data.loader import MixtureLoader, held_out_batches
from data.shards import TokenShards, write_shards
from data.tokenizers import build_tokenizer

WINDOW = 16
FIELDS = ("ids_BT", "targets_BT", "doc_start_BT", "row_key_B", "source_B")


@pytest.fixture(scope="module")
def shard_dirs(tokenizer_dir, make_text, tmp_path_factory):
    """Three sources of different size, each of several shards."""
    import pyarrow as pa
    from pyarrow import parquet

    dirs = {}
    for name, documents in (("math", 60), ("stem", 25), ("code", 9)):
        folder = tmp_path_factory.mktemp(name)
        texts = [make_text(seed + documents, 1 + seed * 3 % 30) for seed in range(documents)]
        for split, part in (("train", texts), ("held_out", texts[:5])):
            refs = [str(i) for i in range(len(part))]
            parquet.write_table(pa.table({"text": part, "ref": refs}), folder / f"{split}-00000.parquet")
        dirs[name] = folder / "shards"
        write_shards(folder, tokenizer_dir, name, dirs[name], shard_tokens=150)
    return dirs


MIXTURE = MixtureRecipe(
    start={"math": 0.6, "stem": 0.3, "code": 0.1}, end={"math": 0.2, "stem": 0.5, "code": 0.3}, anneal_fraction=0.5
)


def open_loader(shard_dirs, **changes):
    options = {"seed": 5, "steps": 40, "seq_len_tokens": WINDOW, "batch_rows": 8} | changes
    return MixtureLoader(shard_dirs, options.pop("mixture", MIXTURE), **options)


def windows_of(shard_dirs, name, window=WINDOW):
    return (TokenShards(shard_dirs[name] / "train").total_tokens - 1) // window


def test_rows_are_the_windows_of_the_stream_with_isolated_documents(shard_dirs):
    loader = open_loader(shard_dirs)
    for step in range(0, 40, 7):
        batch = loader.batch(step, range(8))
        for slot in range(8):
            sample = loader.sample(step, slot)
            assert (sample.start, sample.stop) == (sample.window * WINDOW, (sample.window + 1) * WINDOW)
            shards = TokenShards(shard_dirs[sample.source] / "train")
            stream = shards.tokens(sample.start, sample.stop + 1).astype(int).tolist()
            assert batch.ids_BT[slot].tolist() == stream[:-1]
            document = 0
            for t in range(WINDOW):
                if t > 0 and stream[t - 1] == shards.eos_id:
                    document = t
                assert batch.doc_start_BT[slot, t] == document
                ends_here = stream[t] == shards.eos_id
                assert batch.targets_BT[slot, t] == (-100 if ends_here else stream[t + 1])
        assert [loader.sources[index] for index in batch.source_B] == [loader.sample(step, s).source for s in range(8)]
    assert loader.sources == ["code", "math", "stem"]
    assert all(getattr(batch, f).dtype == np.int64 for f in FIELDS)


def test_describe_names_the_documents_a_slot_read(shard_dirs):
    loader = open_loader(shard_dirs)
    for step, slot in ((0, 0), (13, 5), (39, 7)):
        sample, documents = loader.describe(step, slot)
        shards = TokenShards(shard_dirs[sample.source] / "train")
        bounds = [*shards.document_starts(0, shards.total_tokens).tolist(), shards.total_tokens]
        touched = [d for d in range(len(bounds) - 1) if bounds[d] < sample.stop and bounds[d + 1] > sample.start]
        assert list(documents) == touched


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 39), slots=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True))
def test_a_row_is_the_same_in_any_grouping_of_the_slots(shard_dirs, step, slots):
    whole, part = open_loader(shard_dirs).batch(step, range(8)), open_loader(shard_dirs).batch(step, slots)
    for field in FIELDS:
        assert (getattr(whole, field)[slots] == getattr(part, field)).all()


def test_a_loader_opened_at_a_late_step_gives_what_one_that_ran_there_gives(shard_dirs):
    ran = open_loader(shard_dirs)
    for step in range(30):
        ran.batch(step, range(8))
    for field in FIELDS:
        late = getattr(open_loader(shard_dirs).batch(30, range(8)), field)
        assert (getattr(ran.batch(30, range(8)), field) == late).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**40), rows=st.integers(1, 9), window=st.integers(2, 40))
def test_every_window_is_read_exactly_once_per_epoch(shard_dirs, seed, rows, window):
    steps = 60
    loader = open_loader(shard_dirs, seed=seed, steps=steps, batch_rows=rows, seq_len_tokens=window)
    read: dict[str, dict[int, list[int]]] = {}
    for step in range(steps):
        for slot in range(rows):
            sample = loader.sample(step, slot)
            read.setdefault(sample.source, {}).setdefault(sample.epoch, []).append(sample.window)
    for name, epochs in read.items():
        count = windows_of(shard_dirs, name, window)
        assert sorted(epochs) == list(range(len(epochs)))
        for epoch, windows in epochs.items():
            assert len(windows) == len(set(windows)) <= count
            if epoch < len(epochs) - 1:
                assert sorted(windows) == list(range(count))


def test_each_epoch_and_seed_has_an_order_of_its_own(shard_dirs):
    only_math = MixtureRecipe(start={"math": 1.0})
    count = windows_of(shard_dirs, "math")

    def order(seed, epoch):
        loader = open_loader(shard_dirs, mixture=only_math, seed=seed, steps=2 * count, batch_rows=1)
        return tuple(loader.sample(step, 0).window for step in range(epoch * count, (epoch + 1) * count))

    orders = {order(1, 0), order(1, 1), order(2, 0), tuple(range(count))}
    assert len(orders) == 4


def test_counts_are_what_the_slots_read_and_follow_the_schedule(shard_dirs):
    loader = open_loader(shard_dirs)
    for step in (0, 25, 39):
        read = [loader.sample(step, slot).source for slot in range(8)]
        assert {name: read.count(name) for name in MIXTURE.start} == loader.counts(step)
    total = sum(loader.counts(step)["code"] for step in range(20))
    assert abs(total - 0.1 * 8 * 20) < 1


def test_row_keys_are_distinct_for_seed_step_and_slot(shard_dirs):
    keys = [open_loader(shard_dirs, seed=seed).batch(step, range(8)).row_key_B for seed in (1, 2) for step in range(40)]
    everything = np.concatenate(keys)
    assert len(set(everything.tolist())) == 2 * 40 * 8
    assert everything.min() >= 0


def test_fingerprint_is_of_tokens_and_window_not_of_the_folder(shard_dirs, tmp_path, tokenizer_dir):
    base = open_loader(shard_dirs).fingerprint
    moved = {}
    for name, folder in shard_dirs.items():
        moved[name] = tmp_path / name
        (moved[name] / "train").mkdir(parents=True)
        for file in (folder / "train").iterdir():
            (moved[name] / "train" / file.name).write_bytes(file.read_bytes())
    assert open_loader(moved).fingerprint == base
    assert open_loader(shard_dirs, seq_len_tokens=WINDOW + 1).fingerprint != base
    assert open_loader(shard_dirs | {"math": shard_dirs["stem"]}).fingerprint != base


def test_a_source_smaller_than_a_window_is_named_with_its_tokens_and_the_need(shard_dirs):
    tokens = TokenShards(shard_dirs["code"] / "train").total_tokens
    open_loader(shard_dirs, seq_len_tokens=tokens - 1)
    with pytest.raises(UserError) as error:
        open_loader(shard_dirs, seq_len_tokens=tokens)
    text = str(error.value)
    assert "'code'" in text and str(tokens) in text and str(tokens + 1) in text and "\n" not in text


def test_sources_of_different_tokenizers_are_refused(
    shard_dirs, write_documents_dir, plain_tokenizer_dir, make_text, tmp_path
):
    other = write_documents_dir("other", [make_text(1, 200)])
    write_shards(other, plain_tokenizer_dir, "code", tmp_path / "shards")
    with pytest.raises(UserError, match="different tokenizers"):
        open_loader(shard_dirs | {"code": tmp_path / "shards"})


def test_a_source_of_the_mixture_without_shards_is_named(shard_dirs):
    with pytest.raises(UserError, match="code"):
        open_loader({"math": shard_dirs["math"], "stem": shard_dirs["stem"]})


def test_steps_outside_the_run_are_refused(shard_dirs):
    loader = open_loader(shard_dirs)
    for step in (-1, 40):
        with pytest.raises(IndexError):
            loader.batch(step, [0])


def test_held_out_batches_are_the_first_windows_in_order(shard_dirs):
    shards = TokenShards(shard_dirs["math"] / "held_out")
    count = (shards.total_tokens - 1) // WINDOW
    assert count > 4
    batches = list(held_out_batches(shards, WINDOW, max_tokens=10**9, rows=3))
    assert [len(b.ids_BT) for b in batches[:-1]] == [3] * (len(batches) - 1)
    stream = np.concatenate([b.ids_BT.ravel() for b in batches])
    assert (stream == shards.tokens(0, count * WINDOW)).all()
    few = list(held_out_batches(shards, WINDOW, max_tokens=4 * WINDOW + 3, rows=3))
    assert [len(b.ids_BT) for b in few] == [3, 1]


def test_a_held_out_split_smaller_than_a_window_gives_one_short_row(shard_dirs):
    shards = TokenShards(shard_dirs["code"] / "held_out")
    (batch,) = held_out_batches(shards, 10_000, max_tokens=1, rows=4)
    assert batch.ids_BT.shape == (1, shards.total_tokens - 1)


def test_real_text_crosses_no_document_in_any_target(test_data_path, write_documents_dir, tmp_path):
    lines = test_data_path("gsm8k/train.jsonl").read_text().splitlines()[:200]
    texts = [json.loads(line)["question"] for line in lines]
    tokenizer_file = test_data_path("qwen3_tokenizer/tokenizer.json")
    build_tokenizer(TokenizerRecipe(path=str(tokenizer_file)), iter(()), tmp_path / "tokenizer")
    write_shards(write_documents_dir("gsm8k", texts), tmp_path / "tokenizer", "gsm8k", tmp_path / "shards")
    eos_id, rows = TokenShards(tmp_path / "shards" / "train").eos_id, 4
    loader = MixtureLoader(
        {"gsm8k": tmp_path / "shards"},
        MixtureRecipe(start={"gsm8k": 1.0}),
        seed=0, steps=10, seq_len_tokens=128, batch_rows=rows,
    )  # fmt: skip
    ends = 0
    for step in range(10):
        batch = loader.batch(step, range(rows))
        at_end = batch.ids_BT == eos_id
        assert (batch.targets_BT[at_end] == -100).all()
        assert (batch.targets_BT[~at_end] >= 0).all()
        assert (np.diff(batch.doc_start_BT, axis=1) >= 0).all()
        ends += int((batch.targets_BT == eos_id).sum())
    assert ends > 20
