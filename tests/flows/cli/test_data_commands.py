"""`athanor documents` says what a step read: it agrees with the batch, finds runs in any state, fails in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from athanor.core.store import Store
from athanor.data.chatml import write_chat_shards
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe, TokenizerRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.shards import write_shards
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.batches import build_loader
from athanor.tasks.trainer.train_recipe import RunSpec


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Folders of a pretraining run over two phases and of a fine-tuning run; neither has begun."""
    root: Path = tmp_path_factory.mktemp("runs")
    write_documents(SourceRecipe(builtin="word-problems", max_documents=100), root / "documents")
    write_documents(ChatSourceRecipe(builtin="word-problems", max_documents=60), root / "talks")
    texts = (document.text for document in read_documents(root / "documents", "train"))
    vocab_size = build_tokenizer(TokenizerRecipe(vocab_size=320), texts, root / "tokenizer")["vocab_size"]
    write_shards(root / "documents", root / "tokenizer", "sums", root / "sums")
    write_chat_shards(root / "talks", root / "tokenizer", root / "chat")
    model = {"family": "vanilla", "vocab_size": vocab_size, "d_model": 16, "n_layers": 1, "n_heads": 1, "d_ff": 16}
    model |= {"n_kv_heads": 1, "head_dim": 16, "max_seq_len": 96}
    shared = {"key": "k", "model": model, "runtime": {}, "tokenizer_dir": str(root / "tokenizer"), "run_name": "r"}
    train = {"steps": 6, "peak_lr": 0.1}
    phases = [{"seq_len_tokens": 16, "until_fraction": 0.5}]
    pretrain = {
        "objective": "pretrain",
        "shard_dirs": {"sums": str(root / "sums")},
        "mixture": {"start": {"sums": 1.0}},
        "train": train | {"seq_len_tokens": 32, "batch_tokens": 128, "length_phases": phases},
    }
    sft = {
        "objective": "sft",
        "shard_dirs": {"chat": str(root / "chat")},
        "train": train | {"seq_len_tokens": 96, "batch_tokens": 192},
    }
    for name, fields in (("pretrain", pretrain), ("sft", sft)):
        (root / "runs" / name).mkdir(parents=True)
        spec = RunSpec.model_validate(shared | fields)
        (root / "runs" / name / "run.json").write_text(spec.model_dump_json())
    return {name: root / "runs" / name for name in ("pretrain", "sft")}


@pytest.mark.parametrize(("name", "step", "rows"), [("pretrain", 1, 8), ("pretrain", 4, 4), ("sft", 6, 2)])
def test_documents_prints_what_each_row_of_a_logged_step_read(name, step, rows, runs, athanor):
    loader = build_loader(read_spec(runs[name]))
    samples = [loader.describe(step - 1, slot) for slot in range(loader.batch_rows(step - 1))]
    header, *lines = athanor("documents", str(runs[name]), str(step)).stdout.splitlines()
    assert header.split() == ["slot", "source", "epoch", "window", "documents", "tokens"]
    assert len(samples) == rows
    assert len(lines) == sum(len(sample.tokens) for sample in samples)
    for slot, sample in enumerate(samples):
        at = next(i for i, line in enumerate(lines) if line[:6].strip() == str(slot))
        assert lines[at].split()[:4] == [str(slot), sample.source, str(sample.epoch), str(sample.window)]
        for i, ((start, stop), (first, last)) in enumerate(zip(sample.tokens, sample.documents, strict=True)):
            documents = str(first) if first == last else f"{first}-{last}"
            assert lines[at + i].split()[-2:] == [documents, f"{start}:{stop}"]


def test_documents_prints_how_each_row_begins(runs, athanor):
    spec = read_spec(runs["pretrain"])
    tokenizer, ids_BT = load_tokenizer(Path(spec.tokenizer_dir)), build_loader(spec).batch(5, range(4)).ids_BT
    lines = athanor("documents", str(runs["pretrain"]), "6", "--text").stdout.splitlines()[1:]
    assert [line.strip() for line in lines[1::2]] == [repr(tokenizer.decode(row_T.tolist())) for row_T in ids_BT]


def test_documents_finds_an_artifact_and_one_that_is_still_being_built(runs, athanor):
    folder = Store().root / "pretrain"
    folder.mkdir(parents=True)
    expected = athanor("documents", str(runs["pretrain"]), "1").stdout
    building = folder / ".vanilla-0123456789ab.partial"
    shutil.copytree(runs["pretrain"], building)
    assert athanor("documents", "pretrain/vanilla", "1").stdout == expected
    (building / "manifest.json").write_text(json.dumps({}))
    building.rename(folder / "vanilla-0123456789ab")
    assert athanor("documents", "pretrain/vanilla", "1").stdout == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{pretrain}", "0"], "step 0: the run has steps 1 to 6"),
        (["{pretrain}", "7"], "step 7: the run has steps 1 to 6"),
        (["nothing", "1"], "no artifact matches 'nothing'"),
        (["{tmp}", "1"], "run.json does not exist"),
        (["{moved}", "1"], "no readable shards.json"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(arguments, message, runs, tmp_path, athanor):
    moved = tmp_path / "moved"
    moved.mkdir()
    text = (runs["pretrain"] / "run.json").read_text()
    (moved / "run.json").write_text(text.replace(f"{runs['pretrain'].parent.parent}/sums", "/nowhere"))
    places = {"pretrain": runs["pretrain"], "tmp": tmp_path, "moved": moved}
    done = athanor("documents", *(argument.format(**places) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
