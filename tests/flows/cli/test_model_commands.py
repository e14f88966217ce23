"""Commands for single models: they print what is true, write what can be read, and fail in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from athanor.core.keys import artifact_key
from athanor.core.store import Store
from athanor.data.chatml import encode_prompt
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.flows.presets.preset import load_preset
from athanor.models.build import build_model
from athanor.models.checkpoints.foreign import export_checkpoint
from athanor.models.checkpoints.portable import load_portable, save_portable
from athanor.models.counts import parameter_counts
from athanor.models.decoding.generate import generate
from athanor.models.model_recipe import ModelRecipe
from athanor.models.sizes import SIZES

IMPORT = ["import-checkpoint", "{tmp}/none.pt", "--layout", "huginn", "--out", "{tmp}/out"]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["three hens sat on two eggs. "] * 20), folder)
    return folder


@pytest.fixture(scope="module")
def network(tokenizer_folder):
    recipe = ModelRecipe(
        family="polychromatic",
        vocab_size=load_tokenizer(tokenizer_folder).vocab_size,
        d_model=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        d_ff=16,
        max_seq_len=48,
    )
    model = build_model(recipe)
    model.init_weights(0)
    with torch.no_grad():
        model.embedding.weight.mul_(40.0)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(network, tokenizer_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "mine"
    save_portable(folder, network, tokenizer_folder)
    return folder


def test_models_prints_every_named_size_with_its_true_counts(athanor):
    done = athanor("models")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1::2]] == list(SIZES)
    assert max(map(len, lines)) <= 120
    counts = "597,153,888 597,153,888 1.43 G 2.86 G 56.0 KiB"
    row = next(i for i, line in enumerate(lines) if line.startswith("polychromatic-600m"))
    assert counts in " ".join(lines[row].split())
    parts = "embedding 155 M, attention 88.1 M, ffn 352 M, routing 1.38 M, norms 62.0 k"
    assert " ".join(lines[row + 1].split()) == parts


def test_models_as_json_is_exact_and_counts_at_the_length_asked_for(athanor):
    rows = [json.loads(line) for line in athanor("models", "--json", "--context-tokens", "100").stdout.splitlines()]
    row = next(row for row in rows if row["size"] == "polychromatic-600m")
    assert row["total"] == sum(row["parts"].values()) == 597_153_888
    assert row["context_tokens"] == 100
    assert row["cache_bytes"] == pytest.approx(28 * (2 * 2 * 8 * 64 + 4 * 32 / 100))


def test_a_printed_size_is_the_model_section_of_a_preset(tmp_path, athanor):
    fields = yaml.safe_load(athanor("models", "polychromatic-600m").stdout)
    assert ModelRecipe.model_validate(fields["model"]) == SIZES["polychromatic-600m"]


@pytest.mark.parametrize("match", ["parameters", "training-flops"])
def test_a_printed_twin_is_a_preset_that_differs_in_the_model_alone(match, tmp_path, athanor):
    file = tmp_path / "twin.yaml"
    file.write_text(athanor("twin", "quickstart", "--match", match).stdout)
    twin, whole = load_preset(str(file)), load_preset("quickstart")
    assert twin.model.family == "vanilla"
    assert twin.model_dump(exclude={"model", "name", "description"}) == whole.model_dump(
        exclude={"model", "name", "description"}
    )
    vocabulary = {"vocab_size": whole.tokenizer.vocab_size}
    ours, theirs = (parameter_counts(p.model.model_copy(update=vocabulary))["total"] for p in (twin, whole))
    assert abs(ours / theirs - 1) < 0.01 or match != "parameters"


def test_generate_prints_what_the_model_says(checkpoint, network, tokenizer_folder, athanor):
    tokenizer = load_tokenizer(tokenizer_folder)
    done = athanor("generate", str(checkpoint), "three hens", "--max-new-tokens", "9")
    (ids,) = generate(network, [tokenizer.encode("three hens")], max_new_tokens=9, eos_id=tokenizer.eos_id)
    assert done.stdout == tokenizer.decode(ids) + "\n"
    assert done.stderr == ""


def test_generate_finds_an_artifact_of_the_store_by_its_name_and_names_a_torn_one(checkpoint, athanor):
    store, key = Store(), artifact_key("pretrain", 1, {}, {})
    artifact = store.artifact("pretrain", "mine", key)
    partial = store.partial(artifact, resume=False)
    shutil.copytree(checkpoint, partial, dirs_exist_ok=True)
    manifest = dict(code_version=1, recipe={}, parents={}, code="", versions={}, wall_s=0.0, cost_usd=0.0, facts={})
    store.publish(artifact, partial, {**manifest, "created": ""})
    options = ("three hens", "--max-new-tokens", "9")
    by_name = athanor("generate", "pretrain/mine", *options).stdout
    assert by_name and by_name == athanor("generate", str(checkpoint), *options).stdout
    (artifact.path / "config.json").unlink()
    assert "is torn: config.json is missing" in athanor("generate", "pretrain/mine", *options).stderr


@pytest.mark.parametrize(
    ("objective", "options", "said"),
    [
        ("pretrain", ["--chat"], "is a base model: it was never shown a conversation and goes on as text does"),
        ("sft", [], "was fine-tuned on conversations: --chat puts the text to it as a user's message"),
        ("pretrain", [], ""),
        ("sft", ["--chat"], ""),
    ],
)
def test_generate_says_where_the_other_kind_of_model_was_meant(objective, options, said, checkpoint, tmp_path, athanor):
    shutil.copytree(checkpoint, tmp_path / "mine")
    (tmp_path / "mine/run.json").write_text(json.dumps({"objective": objective}))
    done = athanor("generate", str(tmp_path / "mine"), "three hens", "--max-new-tokens", "2", *options)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_an_import_needs_no_layout_and_no_tokenizer_where_the_checkpoint_has_them(
    checkpoint, tokenizer_folder, tmp_path, athanor
):
    place = tmp_path / "theirs.pt"
    athanor("export-checkpoint", str(checkpoint), str(place), "--layout", "polychromatic", "--steps", "30")
    done = athanor("import-checkpoint", str(place), "--out", str(tmp_path / "back"))
    assert "has no tokenizer.json beside it: give the one it was trained with as --tokenizer" in done.stderr
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path)
    done = athanor("import-checkpoint", str(place), "--out", str(tmp_path / "back"))
    assert "wrote" in done.stdout
    assert load_tokenizer(tmp_path / "back").fingerprint == load_tokenizer(tokenizer_folder).fingerprint


def test_generate_samples_with_its_seed_and_ends_before_a_stop_text(checkpoint, athanor):
    options = ("generate", str(checkpoint), "three hens", "--temperature", "3", "--max-new-tokens", "30")
    one, again, other = (athanor(*options, "--seed", seed).stdout for seed in ("1", "1", "2"))
    assert one == again != other
    stop = one[5:8]
    assert athanor(*options, "--seed", "1", "--stop", stop).stdout == one[: one.index(stop)] + "\n"


def test_generate_renders_a_chat(checkpoint, network, tokenizer_folder, athanor):
    tokenizer = load_tokenizer(tokenizer_folder)
    prompt = encode_prompt([{"role": "user", "content": "eggs?"}], tokenizer)
    (ids,) = generate(network, [prompt], max_new_tokens=5, eos_id=tokenizer.eos_id)
    done = athanor("generate", str(checkpoint), "eggs?", "--chat", "--max-new-tokens", "5")
    assert done.stdout == tokenizer.decode(ids) + "\n"


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_a_checkpoint_goes_out_and_comes_back_as_it_was(checkpoint, network, tokenizer_folder, tmp_path, athanor):
    theirs, back = tmp_path / "theirs.pt", tmp_path / "back"
    out = athanor("export-checkpoint", str(checkpoint), str(theirs), "--layout", "polychromatic", "--steps", "30")
    assert "their code adds routing noise" in out.stdout
    done = athanor(
        *("import-checkpoint", str(theirs), "--layout", "polychromatic"),
        *("--tokenizer", str(tokenizer_folder / "tokenizer.json"), "--out", str(back)),
    )
    assert "polychromatic" in done.stdout and "step 30" in done.stdout
    state = load_portable(back).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_warning_is_one_line(checkpoint, tmp_path):
    export_checkpoint(load_portable(checkpoint), theirs := tmp_path / "theirs.pt", "polychromatic", steps=0)
    command = [
        sys.executable,
        "-m",
        "athanor.flows.cli.main",
        "import-checkpoint",
        str(theirs),
        "--layout",
        "polychromatic",
    ]
    command += ["--tokenizer", str(checkpoint), "--out", str(tmp_path / "back")]
    (line,) = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr.splitlines()
    assert line.startswith("athanor: polychromatic.pool=sequence averages")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "gpt5"], "no size 'gpt5': there are nebel-raven-3.5b"),
        (["generate", "nothing", "a"], "no model matches 'nothing'"),
        (["generate", "{tmp}", "a"], "holds neither model.safetensors"),
        (["generate", "{published}", "a"], "published is a published checkpoint: `athanor import-checkpoint"),
        (["generate", "{checkpoint}", "a", "--top-p", "3"], "top_p=3.0: must be above 0 and at most 1"),
        (["generate", "{checkpoint}", "egg " * 99], "leaves no room for an answer"),
        (["export-checkpoint", "{checkpoint}", "{tmp}/x.pt", "--layout", "polychromatic"], "give --steps"),
        (["export-checkpoint", "{checkpoint}", "{tmp}/x", "--layout", "huginn"], "holds huginn alone"),
        (["export-checkpoint", "{checkpoint}", "{tmp}/x", "--layout", "x"], "there are huginn, polychromatic\n"),
        ([*IMPORT, "--tokenizer", "{tokenizer}"], "none.pt does not exist"),
        ([*IMPORT, "--tokenizer", "{tmp}"], "tokenizer.json does not exist"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(
    arguments, message, checkpoint, tokenizer_folder, tmp_path, tmp_path_factory, athanor
):
    published = tmp_path_factory.mktemp("theirs") / "published"
    shutil.copytree(checkpoint, published, ignore=shutil.ignore_patterns("tokenizer_meta.json"))
    places = {"tmp": tmp_path, "published": published, "checkpoint": checkpoint, "tokenizer": tokenizer_folder}
    done = athanor(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_generate_shows_every_piece_before_the_next_is_computed(checkpoint, monkeypatch, capsys, athanor):
    shown = []

    def pieces(*_arguments, **_options):
        for piece in "abc":
            yield 0, piece
            shown.append(capsys.readouterr().out)

    monkeypatch.setattr("athanor.models.decoding.generate.stream_text", pieces)
    assert athanor("generate", str(checkpoint), "x").stdout == "\n"
    assert shown == ["a", "b", "c"]
