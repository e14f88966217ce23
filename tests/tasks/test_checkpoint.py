"""A preset that starts from a checkpoint: it brings its recipe and tokenizer, its content is its key."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from athanor.core.digests import FileState
from athanor.core.errors import UserError
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.flows.plan.plan import make_plan
from athanor.flows.plan.survey import Survey
from athanor.flows.presets.preset import load_preset
from athanor.models.build import build_model
from athanor.models.checkpoints.foreign import export_checkpoint, steps_trained
from athanor.models.checkpoints.portable import load_portable, save_portable
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks import checkpoint, pretrain

pytestmark = pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 16, "max_seq_len": 64}
EXTRA = {
    "polychromatic": {"polychromatic": {"pool": "sequence"}},
    "huginn": {"n_layers": 3, "huginn": {"prelude_layers": 1, "coda_layers": 1}},
}
TEXT = ["three hens sat on two eggs. "] * 20
TRAIN = {"steps": 3, "seq_len_tokens": 32, "batch_tokens": 64, "peak_lr": 1e-3}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(TEXT), folder)
    return folder


@pytest.fixture
def model(tokenizer):
    def make(family: str = "vanilla", seed: int = 0):
        vocab_size = load_tokenizer(tokenizer).vocab_size
        made = build_model(
            ModelRecipe.model_validate({"family": family, "vocab_size": vocab_size, **SHAPE, **EXTRA.get(family, {})})
        )
        made.init_weights(seed)
        return made.eval()

    return make


@pytest.fixture
def mine(model, tokenizer, tmp_path) -> Path:
    """A portable checkpoint."""
    save_portable(tmp_path / "mine", model(), tokenizer)
    return tmp_path / "mine"


@pytest.fixture
def preset(tmp_path):
    """Write a preset's file and load it."""

    def load(*settings: str, **fields: Any):
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump({"runtime": {"device": "cpu"}, **fields}))
        return load_preset(str(file), settings)

    return load


def keys(found) -> dict[str, str]:
    return {
        f"{stage.stage}/{stage.wanted.member}": stage.artifact.key for stage in Survey(found).needed_by("lifecycle")
    }


def test_a_preset_of_nothing_but_a_checkpoint_is_whole(mine, preset, tokenizer):
    found = preset(model={"checkpoint": str(mine)})
    assert found.model.model_dump(exclude={"checkpoint"}) == load_portable(mine).recipe.model_dump()
    assert (found.tokenizer.path, found.tokenizer.eos) == (str(mine / "tokenizer.json"), "<|endoftext|>")
    assert (found.pretrain, found.data) == (None, None)
    assert set(keys(found)) == {"tokenizer/tokenizer", "checkpoint/base", "report/report"}


def test_what_is_printed_of_it_loads_to_the_same_preset(mine, preset, tmp_path):
    found = preset(model={"checkpoint": str(mine)}, evaluate={"tasks": {"sums": {"name": "word_problems"}}})
    again = tmp_path / "again.yaml"
    again.write_text(found.to_yaml())
    assert load_preset(str(again)) == found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"d_model": 128}}, r"model\.d_model=128, but model\.checkpoint=.*mine has 16"),
        ({"model": {"family": "hydra"}}, r"model\.family=hydra, but model\.checkpoint=.*mine has vanilla"),
        ({"model": {"vocab_size": 9}}, r"model\.vocab_size=9, but model\.checkpoint=.*mine has \d\d\d"),
        ({"model": {"vanilla": {"bias": True}}}, r"model\.vanilla\.bias=True, but .*mine has False"),
        ({"model": {"vanilla": {"tied": False}}}, r"model\.vanilla\.tied=False, but .*mine has the default"),
        ({"model": {"hydra": {"experts": 4}}}, r"section hydra belongs to family=hydra"),
        ({"model": {"d_modell": 16}}, r"unknown key model.d_modell=16; did you mean d_model"),
        ({"tokenizer": {"vocab_size": 4096}}, r"tokenizer\.vocab_size=4096, but .*mine has \d\d\d"),
        ({"tokenizer": {"eos": "<|im_end|>"}}, r"tokenizer\.eos=<\|im_end\|>, but .*mine has <\|endoftext\|>"),
        ({"tokenizer": {"hub": "a/b"}}, r"tokenizer\.hub=a/b, but .*mine has .*tokenizer\.json"),
        ({"tokenizer": {"path": "{other}"}}, r"tokenizer\.path=.*other, but .*mine has another one, .*mine"),
        ({"pretrain": TRAIN}, r"data is missing; pretraining reads data\.sources"),
    ],
)
def test_what_contradicts_it_is_one_line_that_names_both(fields, message, mine, preset, tmp_path):
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["other words"]), tmp_path / "other")
    if fields.get("tokenizer", {}).get("path"):
        fields = {"tokenizer": {"path": str(tmp_path / "other")}}
    with pytest.raises(UserError, match=message) as refused:
        preset(**{**fields, "model": {"checkpoint": str(mine), **fields.get("model", {})}})
    assert "\n" not in str(refused.value)


def test_fields_that_say_the_same_are_heard(mine, preset):
    tokenizer = {"path": str(mine), "vocab_size": 9999}  # which is of tokenizers that are trained
    fields = {"d_model": 16, "norm_eps": "1e-6", "vanilla": {"bias": False, "tied": True}}
    assert preset(model={"checkpoint": str(mine), **fields}, tokenizer=tokenizer) == preset(
        model={"checkpoint": str(mine)}, tokenizer={"vocab_size": 9999, "path": str(mine / "tokenizer.json")}
    )


def test_a_checkpoint_takes_the_place_of_the_model_and_tokenizer_that_are_extended(mine, preset):
    for found in (
        preset(extends="quickstart", model={"checkpoint": str(mine)}, interpret=None, pretrain=None, sft=None),
        load_preset("quickstart", [f"model.checkpoint={mine}", "pretrain=null", "sft=null", "interpret=null"]),
    ):
        assert (found.model.d_model, found.tokenizer.path) == (16, str(mine / "tokenizer.json"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing", "model.checkpoint=nothing: no model matches 'nothing'"),
        ("{tmp}", "holds neither model.safetensors"),
        ("small", "model.checkpoint=small is what this preset makes itself"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_line(given, message, preset, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        preset(model={"checkpoint": given.format(tmp=tmp_path)})
    assert "\n" not in str(refused.value)


def test_without_pretraining_and_without_a_checkpoint_there_is_nothing_to_begin_with(preset):
    with pytest.raises(UserError, match=r"pretrain is missing; give it, or the weights to start from as model\.check"):
        preset(extends="quickstart", pretrain=None)


def test_the_key_covers_the_content_and_not_the_place(mine, model, preset, tokenizer, tmp_path):
    def found(place: Path) -> str:
        return keys(preset(model={"checkpoint": str(place)}))["checkpoint/base"]

    first = found(mine)
    shutil.copytree(mine, tmp_path / "copy")
    assert found(tmp_path / "copy") == first
    shutil.rmtree(mine)
    save_portable(mine, model(seed=1), tokenizer)
    assert found(mine) != first


def test_its_weights_are_hashed_once_while_they_stay_the_same(mine, preset, monkeypatch):
    hashed = []
    monkeypatch.setattr("athanor.core.digests.sha256_file", lambda path: hashed.append(path) or "0" * 64)
    monkeypatch.setattr(FileState, "settled", lambda state, now_s: True)
    for _ in range(2):
        keys(preset(model={"checkpoint": str(mine)}))
    assert hashed == [mine / "model.safetensors"]


def test_every_stage_follows_from_it(mine, preset):
    chat = {"builtin": "word-problems", "max_documents": 9}
    found = keys(
        preset(
            model={"checkpoint": str(mine)},
            sft={"source": chat, "train": TRAIN},
            data={"sources": {"math": {"builtin": "word-problems", "max_documents": 9}}},
            evaluate={"tasks": {"sums": {"name": "word_problems", "limit": 2}}},
            interpret={"tokens": 64, "seq_len_tokens": 32},
        )
    )
    assert set(found) == {
        "acquire/math", "acquire/sft.source", "tokenizer/tokenizer", "tokenize/math", "chat/chat", "checkpoint/base",
        "sft/sft", "evaluate/sums-base", "evaluate/sums-sft", "interpret/base", "interpret/sft", "report/report",
    }  # fmt: skip


def built(found, out: Path, tokenizer: Path) -> dict:
    """Build the stage as the chain would, into `out`."""
    (wanted,) = checkpoint.wanted(Survey(found))
    run: Any = SimpleNamespace(out=out, log=print, key="0" * 64)
    artifact: Any = SimpleNamespace(path=tokenizer)
    return checkpoint.build(wanted.recipe, run, tokenizer=artifact)


def as_portable(model, place: Path, tokenizer: Path) -> Path:
    save_portable(place, model, tokenizer)
    (place / "imported.json").write_text(json.dumps({"file": "x", "step": 12}))
    return place


def as_published(model, place: Path, tokenizer: Path) -> Path:
    where = place / "step.pt" if model.recipe.family == "polychromatic" else place
    if model.recipe.family == "polychromatic":
        place.mkdir()
    export_checkpoint(model, where, model.recipe.family, steps=12)
    shutil.copy(tokenizer / "tokenizer.json", place)
    return where


@pytest.mark.parametrize(
    ("family", "written", "steps"),
    [("vanilla", as_portable, 12), ("huginn", as_published, None), ("polychromatic", as_published, 12)],
)
@torch.no_grad()
def test_what_is_built_of_it_computes_the_same_and_has_its_tokenizer(
    family, written, steps, model, tokenizer, preset, tmp_path
):
    theirs = model(family)
    place = written(theirs, tmp_path / "theirs", tokenizer)
    facts = built(preset(model={"checkpoint": str(place)}), tmp_path / "out", tokenizer)
    ids = torch.arange(1, 13).view(2, 6)
    assert torch.equal(load_portable(tmp_path / "out")(ids), theirs(ids))
    assert load_tokenizer(tmp_path / "out").encode(TEXT[0]) == load_tokenizer(tokenizer).encode(TEXT[0])
    assert steps_trained(tmp_path / "out") == steps
    assert facts["parameters"] == sum(p.numel() for p in theirs.parameters())


def test_weights_that_changed_since_their_key_was_told_are_not_built(mine, model, preset, tokenizer, tmp_path):
    (wanted,) = checkpoint.wanted(Survey(preset(model={"checkpoint": str(mine)})))
    shutil.rmtree(mine)
    save_portable(mine, model(seed=1), tokenizer)
    run: Any = SimpleNamespace(out=tmp_path / "out")
    artifact: Any = SimpleNamespace(path=tokenizer)
    with pytest.raises(UserError, match=r"model\.checkpoint=.*mine has changed since this run began: run it again"):
        checkpoint.build(wanted.recipe, run, tokenizer=artifact)
    assert not (tmp_path / "out").exists()


def test_one_that_is_not_whole_is_refused_in_the_plan(mine, model, preset, tokenizer, tmp_path):
    found = preset(model={"checkpoint": str(mine)})
    said = {finding.subject: finding.message for finding in make_plan(found).findings}
    assert re.search(r"mine is whole: vanilla, [\d,]+ parameters$", said["checkpoint"])
    as_published(model("huginn"), place := tmp_path / "theirs", tokenizer)
    weights = load_file(place / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "transformer.ln_f.weight"},
        place / "model.safetensors",
    )
    (error,) = make_plan(preset(model={"checkpoint": str(place)})).errors
    assert (error.subject, "lacks tensor transformer.ln_f.weight" in error.message) == ("checkpoint", True)


def test_a_published_checkpoint_without_tokenizer_takes_the_one_that_is_named(model, tokenizer, preset, tmp_path):
    export_checkpoint(model("polychromatic"), tmp_path / "step.pt", "polychromatic", steps=12)
    given = {"checkpoint": str(tmp_path / "step.pt")}
    with pytest.raises(UserError, match=r"has no tokenizer\.json beside it: give .* tokenizer\.path"):
        preset(model=given)
    found = preset(model=given, tokenizer={"path": str(tokenizer / "tokenizer.json")})
    assert found.model.family == "polychromatic"
    assert "checkpoint/base" in keys(found)


@pytest.mark.parametrize(
    ("config", "added", "eos"),
    [
        ({"eos_token": "<|im_end|>"}, "<|endoftext|>", "<|endoftext|>"),
        ({"eos_token": {"content": "<end>"}}, "<end>", "<end>"),
        ({"eos_token": "<end>"}, "<end>", "<end>"),
        (None, "<end>", "<|endoftext|>"),
    ],
)
def test_documents_end_as_the_published_tokenizer_says(config, added, eos, model, tokenizer, preset, tmp_path):
    as_published(model("huginn"), place := tmp_path / "theirs", tokenizer)
    spec = json.loads((place / "tokenizer.json").read_text())
    spec["added_tokens"] = [{**spec["added_tokens"][0], "content": added}]
    (place / "tokenizer.json").write_text(json.dumps(spec))
    if config is not None:
        (place / "tokenizer_config.json").write_text(json.dumps(config))
    assert preset(model={"checkpoint": str(place)}).tokenizer.eos == eos


def test_the_artifact_is_what_pretraining_starts_from(monkeypatch):
    given = []
    monkeypatch.setattr(pretrain, "train", lambda spec, run: given.append(spec) or {})
    recipe = pretrain.PretrainRecipe.model_validate(
        {
            "model": {"family": "vanilla", **SHAPE},
            "train": TRAIN,
            "mixture": {"start": {"one": 1}},
        }
    )
    run: Any = SimpleNamespace(key="0" * 64, runtime={})
    tokenizer: Any = SimpleNamespace(facts={"vocab_size": 300}, path=Path("tokenizer"))
    for init in (None, SimpleNamespace(path=Path("start"))):
        pretrain.build(recipe, run, tokenizer=tokenizer, shards={}, init=init)  # pyright: ignore[reportArgumentType]
    assert [spec.init_dir for spec in given] == [None, "start"]
