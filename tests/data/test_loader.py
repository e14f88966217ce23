from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from older_shards import without_sums

from athanor.core.errors import UserError
from athanor.core.targets import IGNORE
from athanor.data.chatml import write_chat_shards
from athanor.data.data_recipe import FilterRecipe, MixtureRecipe, TokenizerRecipe
from athanor.data.loader import ChatLoader, MixtureLoader, held_out_batches
from athanor.data.phases import Phase, phase_at
from athanor.data.shards import Encoded, TokenShards, write_shards, write_splits
from athanor.data.tokenizer import build_tokenizer, load_tokenizer

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
    options = {"seed": 5, "steps": 40, "phases": (Phase(0, WINDOW, 8),)} | changes
    return MixtureLoader(shard_dirs, options.pop("mixture", MIXTURE), **options)


def windows_of(shard_dirs, name, window=WINDOW):
    return (TokenShards(shard_dirs[name] / "train").total_tokens - 1) // window


def test_rows_are_the_windows_of_the_stream_with_isolated_documents(shard_dirs):
    loader = open_loader(shard_dirs)
    for step in range(0, 40, 7):
        batch = loader.batch(step, range(8))
        for slot in range(8):
            sample = loader.describe(step, slot)
            ((start, stop),) = sample.tokens
            assert (start, stop) == (sample.window * WINDOW, (sample.window + 1) * WINDOW)
            shards = TokenShards(shard_dirs[sample.source] / "train")
            stream = shards.tokens(start, stop + 1).astype(int).tolist()
            assert batch.ids_BT[slot].tolist() == stream[:-1]
            document = 0
            for t in range(WINDOW):
                if t > 0 and stream[t - 1] == shards.eos_id:
                    document = t
                assert batch.doc_start_BT[slot, t] == document
                ends_here = stream[t] == shards.eos_id
                assert batch.targets_BT[slot, t] == (IGNORE if ends_here else stream[t + 1])
        assert [loader.sources[index] for index in batch.source_B] == [
            loader.describe(step, s).source for s in range(8)
        ]
    assert loader.sources == ["code", "math", "stem"]
    assert all(getattr(batch, f).dtype == np.int64 for f in FIELDS)


def test_describe_names_the_documents_a_slot_read(shard_dirs):
    loader = open_loader(shard_dirs)
    for step, slot in ((0, 0), (13, 5), (39, 7)):
        sample = loader.describe(step, slot)
        ((start, stop),), ((first, last),) = sample.tokens, sample.documents
        shards = TokenShards(shard_dirs[sample.source] / "train")
        bounds = [*shards.document_starts(0, shards.total_tokens).tolist(), shards.total_tokens]
        touched = [d for d in range(len(bounds) - 1) if bounds[d] < stop and bounds[d + 1] > start]
        assert list(range(first, last + 1)) == touched
        assert json.loads(json.dumps(sample.to_json()))["documents"] == [[first, last]]


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
    loader = open_loader(shard_dirs, seed=seed, steps=steps, phases=(Phase(0, window, rows),))
    read: dict[str, dict[int, list[int]]] = {}
    for step in range(steps):
        for slot in range(rows):
            sample = loader.describe(step, slot)
            read.setdefault(sample.source, {}).setdefault(sample.epoch, []).append(sample.window)
    for name, epochs in read.items():
        count = windows_of(shard_dirs, name, window)
        assert sorted(epochs) == list(range(len(epochs)))
        for epoch, windows in epochs.items():
            assert len(windows) == len(set(windows)) <= count
            if epoch < len(epochs) - 1:
                assert sorted(windows) == list(range(count))


def test_one_phase_reads_the_rows_it_read_before_there_were_phases(write_documents_dir, make_text, tmp_path):
    def encode(documents):
        return [Encoded(np.array([*d.text.encode(), 0], dtype=np.uint32), len(d.text)) for d in documents]

    dirs = {}
    for name, documents in (("math", 60), ("stem", 25), ("code", 9)):
        texts = [make_text(seed + documents, 1 + seed * 3 % 30) for seed in range(documents)]
        header = {"tokenizer_fingerprint": "bytes", "eos_id": 0, "source": name}
        dirs[name] = tmp_path / f"{name}-shards"
        write_splits(write_documents_dir(name, texts, texts), encode, header, dirs[name], shard_tokens=600)
    loader = open_loader(dirs, phases=(Phase(0, 64, 8),))
    assert loader.fingerprint == "897585d64eaa16f7113ce48d57931ca516728c0c253388eec5d50ae3a04dfc04"
    recorded = {
        0: "d5047a815086e371af1a7f8e369afea3545d872f24d1868181611978d7031866",
        19: "5a29c972ea9662d2653497a65ec4979e90f9bc853494c58adfe487b2aa839d10",
        39: "bac8c1e141d074d6451fe3da7752ad1842ec555be424a454aba99df663174747",
    }
    for step, expected in recorded.items():
        batch = loader.batch(step, range(8))
        assert hashlib.sha256(b"".join(getattr(batch, f).tobytes() for f in FIELDS[:4])).hexdigest() == expected


@st.composite
def length_phases(draw):
    """Up to three phases of 40 steps of 8 rows of WINDOW in tokens."""
    firsts = sorted(draw(st.sets(st.integers(1, 39), max_size=2)))
    lengths = {0: [16], 1: draw(st.sampled_from([[4, 16], [8, 16]])), 2: [4, 8, 16]}[len(firsts)]
    return tuple(Phase(k, n, 8 * WINDOW // n) for k, n in zip([0, *firsts], lengths, strict=True))


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**40), phases=length_phases())
def test_over_phases_no_token_is_read_twice_in_an_epoch_and_every_step_has_the_same_tokens(shard_dirs, seed, phases):
    loader = open_loader(shard_dirs, seed=seed, phases=phases)
    reads: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for step in range(40):
        slots = range(loader.batch_rows(step))
        samples = [loader.describe(step, slot) for slot in slots]
        (length,) = {stop - start for sample in samples for start, stop in sample.tokens}
        assert length == phases[phase_at(phases, step)].seq_len_tokens
        assert len(slots) * length == 8 * WINDOW
        for sample in samples:
            reads.setdefault((sample.source, sample.epoch), []).extend(sample.tokens)
    for (name, epoch), spans in reads.items():
        spans.sort()
        assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
        if (name, epoch + 1) in reads:
            unread_tokens = windows_of(shard_dirs, name) * WINDOW - sum(stop - start for start, stop in spans)
            assert unread_tokens <= sum(WINDOW - phase.seq_len_tokens for phase in phases)


@settings(max_examples=15, deadline=None)
@given(phases=length_phases(), step=st.integers(0, 39), data=st.data())
def test_over_phases_a_row_is_what_describe_says_in_any_grouping_of_the_slots(shard_dirs, phases, step, data):
    loader = open_loader(shard_dirs, phases=phases)
    slots = data.draw(st.permutations(range(loader.batch_rows(step))))[:3]
    batch = loader.batch(step, slots)
    whole = open_loader(shard_dirs, phases=phases).batch(step, range(loader.batch_rows(step)))
    for field in FIELDS:
        assert (getattr(whole, field)[slots] == getattr(batch, field)).all()
    for row_T, slot in zip(batch.ids_BT, slots, strict=True):
        sample = loader.describe(step, slot)
        assert (row_T == TokenShards(shard_dirs[sample.source] / "train").tokens(*sample.tokens[0])).all()


def test_each_epoch_and_seed_has_an_order_of_its_own(shard_dirs):
    only_math = MixtureRecipe(start={"math": 1.0})
    count = windows_of(shard_dirs, "math")

    def order(seed, epoch):
        loader = open_loader(shard_dirs, mixture=only_math, seed=seed, steps=2 * count, phases=(Phase(0, WINDOW, 1),))
        return tuple(loader.describe(step, 0).window for step in range(epoch * count, (epoch + 1) * count))

    orders = {order(1, 0), order(1, 1), order(2, 0), tuple(range(count))}
    assert len(orders) == 4


def test_counts_are_what_the_slots_read_and_follow_the_schedule(shard_dirs):
    loader = open_loader(shard_dirs)
    for step in (0, 25, 39):
        read = [loader.describe(step, slot).source for slot in range(8)]
        assert {name: read.count(name) for name in MIXTURE.start} == loader.counts(step)
    total = sum(loader.counts(step)["code"] for step in range(20))
    assert abs(total - 0.1 * 8 * 20) < 1


@pytest.mark.parametrize("phases", [(Phase(0, WINDOW, 8),), (Phase(0, WINDOW // 2, 16), Phase(15, WINDOW, 8))])
def test_epochs_are_the_tokens_drawn_of_each_source_over_those_it_has(shard_dirs, phases):
    loader = open_loader(shard_dirs, phases=phases)
    drawn = dict.fromkeys(MIXTURE.start, 0)
    for step in range(40):
        for source, rows in loader.counts(step).items():
            drawn[source] += rows * loader.batch(step, [0]).ids_BT.shape[1]
    tokens = {name: TokenShards(shard_dirs[name] / "train").total_tokens for name in drawn}
    assert loader.epochs() == pytest.approx({name: drawn[name] / tokens[name] for name in drawn})


def test_row_keys_are_distinct_for_seed_step_and_slot(shard_dirs):
    keys = [open_loader(shard_dirs, seed=seed).batch(step, range(8)).row_key_B for seed in (1, 2) for step in range(40)]
    everything = np.concatenate(keys)
    assert len(set(everything.tolist())) == 2 * 40 * 8
    assert everything.min() >= 0


def test_nothing_is_learned_from_planted_noise_and_everything_else_is_as_without_the_filter(
    write_documents_dir, tokenizer_dir, make_text, tmp_path
):
    noise = {1: "7" * 300, 4: " of is" * 120, 8: "\ufffd\ufffd ab" * 60}
    texts = [noise.get(i, make_text(i, 60)) for i in range(12)]
    write_shards(write_documents_dir("web", texts), tokenizer_dir, "web", tmp_path / "shards")
    dirs, tokenizer = {"web": tmp_path / "shards"}, load_tokenizer(tokenizer_dir)
    plain = MixtureRecipe(start={"web": 1.0})
    filtered = plain.model_copy(update={"filter": FilterRecipe()})
    phases, rows = (Phase(0, 64, 8),), 0
    with_filter = MixtureLoader(dirs, filtered, seed=0, steps=4, phases=phases, tokenizer=tokenizer)
    without = MixtureLoader(dirs, plain, seed=0, steps=4, phases=phases)
    for step in range(4):
        ours, theirs = with_filter.batch(step, range(8)), without.batch(step, range(8))
        within = [with_filter.describe(step, slot).documents for slot in range(8)]
        wholly_noise = np.array([first == last and first in noise for ((first, last),) in within])
        clean = np.array([not noise.keys() & set(range(first, last + 1)) for ((first, last),) in within])
        ignored = (ours.targets_BT == IGNORE).all(axis=1)
        assert ignored[wholly_noise].all() and not ignored[clean].any()
        assert ours.ignored_rows == ignored.sum() and theirs.ignored_rows == 0
        assert (ours.targets_BT[~ignored] == theirs.targets_BT[~ignored]).all()
        assert all((getattr(ours, f) == getattr(theirs, f)).all() for f in FIELDS if f != "targets_BT")
        assert (with_filter.batch(step, [5]).targets_BT == ours.targets_BT[[5]]).all()
        rows += int(wholly_noise.sum())
    assert rows > 5


def test_a_token_outside_the_vocabulary_is_an_error_that_names_shard_and_document(
    write_documents_dir, tokenizer_dir, make_text, tmp_path
):
    folder = write_documents_dir("web", [make_text(i, 40) for i in range(9)])
    write_shards(folder, tokenizer_dir, "web", tmp_path / "shards", shard_tokens=300)
    without_sums(tmp_path / "shards" / "train")
    shards = TokenShards(tmp_path / "shards" / "train")
    start = int(shards.document_starts(0, shards.total_tokens)[6])
    shard = np.searchsorted(np.cumsum([s["tokens"] for s in shards.manifest["shards"]]), start, side="right")
    file = tmp_path / "shards" / "train" / f"shard-{shard:05d}.bin"
    ids = np.fromfile(file, dtype="<u4")
    ids[start - sum(s["tokens"] for s in shards.manifest["shards"][:shard]) + 3] = 300
    ids.tofile(file)
    loader = MixtureLoader(
        {"web": tmp_path / "shards"}, MixtureRecipe(start={"web": 1.0}), seed=0, steps=1, phases=(Phase(0, 16, 99),)
    )
    with pytest.raises(UserError, match=rf"{file.name}: token 300 in document 6 of source 'web'.* 300 ids") as error:
        loader.batch(0, range(99))
    assert "\n" not in str(error.value)


def test_describe_of_a_chat_row_names_each_conversation_in_it(write_documents_dir, tokenizer_dir, tmp_path):
    talks = [
        json.dumps([{"role": "user", "content": "f(x)" * (1 + i % 4)}, {"role": "assistant", "content": "357"}])
        for i in range(20)
    ]
    write_chat_shards(write_documents_dir("chat", talks), tokenizer_dir, tmp_path / "shards")
    loader = ChatLoader(tmp_path / "shards", seed=0, steps=3, seq_len_tokens=96, batch_rows=2)
    shards, several = TokenShards(tmp_path / "shards" / "train"), 0
    for step in range(3):
        batch = loader.batch(step, range(loader.batch_rows(step)))
        for slot in range(2):
            sample = loader.describe(step, slot)
            assert (sample.source, len(sample.tokens)) == ("chat", len(sample.documents))
            ids = np.concatenate([shards.tokens(start, stop) for start, stop in sample.tokens])
            assert (batch.ids_BT[slot, : len(ids)] == ids).all()
            starts = shards.document_starts(0, shards.total_tokens).tolist()
            assert [starts.index(start) for start, _ in sample.tokens] == [first for first, _ in sample.documents]
            assert all(first == last for first, last in sample.documents)
            several += len(sample.tokens) > 1
    assert several


def test_fingerprint_is_of_tokens_and_window_not_of_the_folder(shard_dirs, tmp_path, tokenizer_dir):
    base = open_loader(shard_dirs).fingerprint
    moved = {}
    for name, folder in shard_dirs.items():
        moved[name] = tmp_path / name
        (moved[name] / "train").mkdir(parents=True)
        for file in (folder / "train").iterdir():
            (moved[name] / "train" / file.name).write_bytes(file.read_bytes())
    assert open_loader(moved).fingerprint == base
    assert open_loader(shard_dirs, phases=(Phase(0, WINDOW + 1, 8),)).fingerprint != base
    assert open_loader(shard_dirs | {"math": shard_dirs["stem"]}).fingerprint != base


def test_a_source_smaller_than_a_window_is_named_with_its_tokens_and_the_need(shard_dirs):
    tokens = TokenShards(shard_dirs["code"] / "train").total_tokens
    open_loader(shard_dirs, phases=(Phase(0, tokens - 1, 8),))
    with pytest.raises(UserError) as error:
        open_loader(shard_dirs, phases=(Phase(0, tokens, 8),))
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
        seed=0, steps=10, phases=(Phase(0, 128, rows),),
    )  # fmt: skip
    ends = 0
    for step in range(10):
        batch = loader.batch(step, range(rows))
        at_end = batch.ids_BT == eos_id
        assert (batch.targets_BT[at_end] == IGNORE).all()
        assert (batch.targets_BT[~at_end] >= 0).all()
        assert (np.diff(batch.doc_start_BT, axis=1) >= 0).all()
        ends += int((batch.targets_BT == eos_id).sum())
    assert ends > 20
