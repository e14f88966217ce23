"""Published checkpoints: read as ours with the published numbers, written back bit for bit, refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.core.errors import UserError
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer
from athanor.models.checkpoints.foreign import (
    export_checkpoint,
    import_checkpoint,
    import_portable,
    steps_trained,
    written_layouts,
)
from athanor.models.checkpoints.portable import load_portable

pytestmark = pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
KEY_SETS = {
    "repository": ("model", "optimizer", "scheduler"),
    "description": ("model_state_dict", "optimizer_state_dict", "scheduler_state_dict"),
}


PUBLISHED_VARIANT = {"polychromatic": {"polychromatic": {"pool": "sequence"}}, "huginn": {}}


@pytest.fixture
def published(oracle_path):
    return torch.load(oracle_path("polyglu.pt"), weights_only=True)


@pytest.fixture
def published_huginn(oracle_path):
    return torch.load(oracle_path("huginn_dynamic.pt"), weights_only=True)


@pytest.fixture
def ours(tmp_path, lively_model):
    """Of each layout, a checkpoint in it that needs no reference file, and the model it was made of."""

    def make(layout):
        model = lively_model(layout, n_kv_heads=4, **PUBLISHED_VARIANT[layout])
        out = tmp_path / {"polychromatic": "theirs.pt", "huginn": "theirs"}[layout]
        export_checkpoint(model, out, layout, steps=12)
        return out, model

    return make


def save(path, tensors, keys=KEY_SETS["description"], **changes):
    whole = {keys[0]: tensors, keys[1]: {"state": {}}, keys[2]: {}, "step": 19531, "tau": 0.7, **changes}
    torch.save({key: value for key, value in whole.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("keys", KEY_SETS)
@torch.no_grad()
def test_oracle_import_gives_the_published_logits(keys, published, tmp_path):
    file = save(tmp_path / "theirs.pt", published["state_dict"], KEY_SETS[keys], tau=published["tau"])
    imported = import_checkpoint(file, "polychromatic")
    assert imported.steps == 19531
    assert not imported.model.training
    logits = imported.model(published["input_ids"])
    torch.testing.assert_close(logits, published["logits"]["deterministic"], atol=1e-5, rtol=0)


def test_oracle_round_trip_is_exact(published, tmp_path):
    file = save(tmp_path / "theirs.pt", published["state_dict"], tau=published["tau"])
    model = import_checkpoint(file, "polychromatic").model
    export_checkpoint(model, tmp_path / "back.pt", "polychromatic", steps=19531)
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == {*KEY_SETS["description"], "step", "tau"}
    assert (back["step"], back["tau"]) == (19531, published["tau"])
    assert_same_tensors(back["model_state_dict"], published["state_dict"])


@torch.no_grad()
def test_a_model_trained_by_a_curriculum_is_written_without_it(lively_model, tmp_path):
    ends = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 3, "backprop_depth": 2}
    model = lively_model("huginn", n_kv_heads=4, huginn={**ends, "curriculum_steps": 5})
    export_checkpoint(model, tmp_path / "theirs", "huginn", steps=9)
    back = import_checkpoint(tmp_path / "theirs", "huginn").model
    assert model.state_dict().keys() - back.state_dict().keys() == {"curriculum_step"}
    assert_same_tensors(back.state_dict(), {name: model.state_dict()[name] for name in back.state_dict()})


def test_oracle_huginn_import_gives_the_published_logits_and_exact_tensors_back(published_huginn, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(with_untied_memory(published_huginn["state_dict"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(published_huginn["cfg"]))
    model = import_checkpoint(folder, "huginn").model
    assert model.section.mean_recurrence == published_huginn["cfg"]["mean_recurrence"]
    model.initial_state = lambda e_BTD, *_: published_huginn["s0"]
    for steps, logits in published_huginn["logits"].items():
        with model.recurring(int(steps)):
            torch.testing.assert_close(model(published_huginn["input_ids"]), logits, atol=1e-5, rtol=0)
    export_checkpoint(model, tmp_path / "back", "huginn", steps=0)
    assert_same_tensors(load_file(tmp_path / "back/model.safetensors"), published_huginn["state_dict"])
    assert import_checkpoint(tmp_path / "back", "huginn").model.recipe == model.recipe


def assert_same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    assert [name for name, x in wanted.items() if x.dtype != found[name].dtype or not torch.equal(x, found[name])] == []


def with_untied_memory(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("layout", written_layouts())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_to_theirs_to_ours_is_bit_identical(layout, dtype, lively_model, tmp_path):
    model = lively_model(layout, n_kv_heads=4, **PUBLISHED_VARIANT[layout])
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.apply_schedule({"tau": 0.3} if layout == "polychromatic" else {})
    export_checkpoint(model, tmp_path / "theirs", layout, steps=7)
    back = import_checkpoint(tmp_path / "theirs", layout)
    assert_same_tensors(back.model.state_dict(), model.state_dict())
    shape = {"d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size", "max_seq_len"}
    assert back.model.recipe.model_dump(include=shape) == model.recipe.model_dump(include=shape)


def test_names_that_compilers_and_launchers_left_behind_are_read(ours, tmp_path):
    file, model = ours("huginn")
    tensors = {f"_orig_mod._original_module.{n}": t for n, t in load_file(file / "model.safetensors").items()}
    torch.save({"model": tensors}, tmp_path / "step-00000010.pth")
    (tmp_path / "config.json").write_bytes((file / "config.json").read_bytes())
    assert_same_tensors(
        import_checkpoint(tmp_path / "step-00000010.pth", "huginn").model.state_dict(), model.state_dict()
    )


def test_the_released_form_without_tied_head_and_in_shards_is_read(ours):
    file, model = ours("huginn")
    tensors = load_file(file / "model.safetensors")
    del tensors["lm_head.weight"], tensors["freqs_cis"]
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in tensors if shards[name] == shard}, file / shard)
    (file / "model.safetensors").unlink()
    (file / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (file / "config.json").write_text(json.dumps(json.loads((file / "config.json").read_text()) | {"block_size": 64}))
    assert_same_tensors(import_checkpoint(file, "huginn").model.state_dict(), model.state_dict())


def edited(file, **changes):
    tensors = torch.load(file, weights_only=True)["model_state_dict"]
    for name, edit in changes.items():
        tensors[name.replace("__", ".")] = edit
    save(file, {name: tensor for name, tensor in tensors.items() if tensor is not None})


DAMAGE = {
    "no tau": (lambda f: save(f, torch.load(f)["model_state_dict"], tau=None), "has no tau"),
    "another system": (
        lambda f: torch.save({"transformer.wte.weight": torch.zeros(2, 2)}, f),
        "lacks embeddings.weight and has transformer.wte.weight",
    ),
    "a lost tensor": (lambda f: edited(f, model_core__1__gqa__W_v__weight=None), r"lacks tensor model_core\.1\.gqa"),
    "a strange tensor": (lambda f: edited(f, extra=torch.zeros(2)), "unexpected tensor extra"),
    "another shape": (
        lambda f: edited(f, model_core__1__polyglu__alpha=torch.zeros(9, 4)),
        r"alpha has shape \[9, 4\]",
    ),
    "an untied head": (lambda f: edited(f, output_head__weight=torch.zeros(61, 24)), "untied head"),
    "another rotation": (lambda f: edited(f, rope__sins=torch.zeros(64, 4)), "another rotation"),
    "scalars for tensors": (lambda f: edited(f, embeddings__weight=torch.tensor(1.0)), "other shapes"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_of_another_model_is_one_clear_line(what, ours):
    file, _ = ours("polychromatic")
    damage, message = DAMAGE[what]
    damage(file)
    with pytest.raises(UserError, match=message) as refused:
        import_checkpoint(file, "polychromatic")
    assert "\n" not in str(refused.value)


def test_a_config_that_asks_for_what_is_not_supported_is_one_clear_line(ours):
    file, _ = ours("huginn")
    (file / "config.json").write_text('{"sampling_scheme": "gupta"}')
    with pytest.raises(UserError, match=r"is not supported: huginn\.sampling: ") as refused:
        import_checkpoint(file, "huginn")
    assert "\n" not in str(refused.value)


def test_an_unknown_layout_and_a_model_of_another_family_are_refused(lively_model, tmp_path):
    with pytest.raises(UserError, match=r"no layout 'gpt': did you mean gpt2\? there are huginn"):
        import_checkpoint(tmp_path, "gpt")
    with pytest.raises(UserError, match="this is a vanilla model: the huginn layout holds huginn alone"):
        export_checkpoint(lively_model("vanilla"), tmp_path / "x", "huginn", steps=0)


def test_a_variant_the_layout_has_no_place_for_is_refused(lively_model, tmp_path):
    with pytest.raises(UserError, match=r"no place for this model's head\.weight"):
        export_checkpoint(lively_model("huginn post-norm"), tmp_path / "x", "huginn", steps=0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_overwritten(ours):
    file, model = ours("polychromatic")
    before = file.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(model, file, "polychromatic", steps=0)
    assert file.read_bytes() == before


def test_export_says_where_their_numbers_will_differ(lively_model, tmp_path):
    says = export_checkpoint(lively_model("polychromatic"), tmp_path / "x.pt", "polychromatic", steps=0)
    assert "average over the whole row" in says


@pytest.fixture
def tokenizer_folder(tmp_path):
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["three hens "] * 9), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@torch.no_grad()
def test_an_import_is_a_portable_checkpoint_that_remembers_its_steps(lively_model, tokenizer_folder, tmp_path):
    model = lively_model("polychromatic", vocab_size=300, polychromatic={"pool": "sequence"})
    export_checkpoint(model, tmp_path / "theirs.pt", "polychromatic", steps=12)
    import_portable(tmp_path / "theirs.pt", "polychromatic", tokenizer_folder, tmp_path / "out")
    ids = torch.arange(1, 13).view(2, 6)
    assert torch.equal(load_portable(tmp_path / "out")(ids), model(ids))
    assert steps_trained(tmp_path / "out") == 12
    with pytest.raises(UserError, match="exists already"):
        import_portable(tmp_path / "theirs.pt", "polychromatic", tokenizer_folder, tmp_path / "out")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused_and_nothing_is_left(ours, tokenizer_folder, tmp_path):
    file, _ = ours("polychromatic")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"the tokenizer has 2\d\d ids, the model of .* 61"):
        import_portable(file, "polychromatic", tokenizer_folder, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_the_steps_of_a_trained_checkpoint_are_those_of_its_log(tmp_path):
    assert steps_trained(tmp_path) is None
    rows = [{"kind": "event", "step": 9}, {"kind": "step", "step": 7}, {"kind": "step", "step": 8}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert steps_trained(tmp_path) == 8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("huginn gate", r"have transformer\.adapter\.weight, which this model has not"),
        ("huginn none", r"have transformer\.adapter\.weight, which this model has not"),
        ("huginn ffn", r"no place for this model's core\.adapter\.gate_up"),
        ("huginn pre-norm", r"have transformer\.prelude\.0\.norm_1\.weight, which this model has not"),
    ],
)
def test_a_variant_without_what_the_layout_holds_is_refused(other, message, lively_model, tmp_path):
    with pytest.raises(UserError, match=message) as refused:
        export_checkpoint(lively_model(other, n_kv_heads=4), tmp_path / "x", "huginn", steps=0)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_keys_that_query_heads_share_have_no_place_among_heads_of_their_own(lively_model, tmp_path):
    with pytest.raises(UserError, match=r"qk_bias as \[2, 1, 4, 8\], this model has not") as refused:
        export_checkpoint(lively_model("huginn"), tmp_path / "x", "huginn", steps=0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("noise", "kind"), [(None, None), (0.25, "geom"), (0.25, None)])
def test_noise_of_use_goes_there_and_back(noise, kind, lively_model, tmp_path):
    section = {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 3, "backprop_depth": 2}
    section |= {"test_time_noise": noise, "test_time_noise_type": kind}
    export_checkpoint(lively_model("huginn", n_kv_heads=4, huginn=section), tmp_path / "x", "huginn", steps=0)
    config = json.loads((tmp_path / "x/config.json").read_text())
    assert (config["test_time_noise"], config["test_time_noise_type"]) == (noise or 0, kind or "fixed")
    back = import_checkpoint(tmp_path / "x", "huginn").model.recipe.huginn
    assert (back.test_time_noise, back.test_time_noise_type) == (noise, kind or "fixed" if noise else None)
