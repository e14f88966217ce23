"""Presets load, override and refuse in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from athanor.core.errors import UserError
from athanor.flows.presets import preset as module
from athanor.flows.presets.names import preset_names
from athanor.flows.presets.preset import load_preset, reproducing_command
from athanor.models.counts import parameter_counts
from athanor.tasks.preset_recipe import Preset


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_survives_its_own_yaml(name):
    preset = load_preset(name)
    assert Preset.model_validate(yaml.safe_load(preset.to_yaml())) == preset


def test_the_600m_presets_are_the_published_model_and_its_twin():
    published = load_preset("polychromatic-600m")
    assert parameter_counts(published.model)["total"] == 597_153_888
    sources = {(s.hub, s.hub_config) for s in published.data.sources.values()}
    assert ("nvidia/Nemotron-CC-Math-v1", "4plus") in sources
    assert {hub for hub, _ in sources} >= {"nvidia/Nemotron-CC-v2", "nvidia/Nemotron-CC-Code-v1"}
    assert published.sft is not None and published.sft.source.hub == "nvidia/Nemotron-Math-v2"
    assert published.evaluate is not None
    assert {task.name for task in published.evaluate.tasks.values()} == {"gsm8k", "minerva_math", "mmlu_stem"}
    twin = load_preset("vanilla-600m")
    assert twin.model.family == "vanilla"
    assert twin.model_copy(update={"name": "", "description": "", "model": published.model}) == published.model_copy(
        update={"name": "", "description": ""}
    )
    assert abs(parameter_counts(twin.model)["total"] / 597_153_888 - 1) < 0.01


def test_an_override_replaces_one_field_and_an_origin_replaces_the_origin():
    preset = load_preset("quickstart", ["pretrain.steps=900", "data.sources.math.path=FILE.jsonl"])
    assert preset.pretrain.steps == 900
    assert (preset.data.sources["math"].path, preset.data.sources["math"].builtin) == ("FILE.jsonl", None)


def test_a_template_on_the_command_line_is_text_and_a_mapping_is_one():
    source = load_preset("quickstart", ["sft.source={path: a.jsonl, user: '{q}'}", "sft.source.assistant={answer}"]).sft
    assert source is not None and (source.source.user, source.source.assistant) == ("{q}", "{answer}")


def test_a_users_preset_extends_ours_and_null_removes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nsft: null\npretrain: {steps: 7, warmup_steps: 1}\n")
    preset = load_preset(str(file))
    assert (preset.name, preset.sft, preset.pretrain.steps) == ("mine", None, 7)
    assert preset.model == load_preset("quickstart").model


def test_a_file_is_extended_from_beside_the_file_that_says_so_wherever_one_works(tmp_path, monkeypatch):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "base.yaml").write_text("extends: quickstart\npretrain: {steps: 77}\n", encoding="utf-8")
    (tmp_path / "presets" / "mine.yaml").write_text("extends: base.yaml\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("extends: quickstart\npretrain: {steps: 88}\n", encoding="utf-8")
    assert load_preset("presets/mine.yaml").pretrain.steps == 77
    (tmp_path / "presets" / "base.yaml").unlink()
    with pytest.raises(UserError, match=r"preset file presets/base.yaml: No such file"):
        load_preset("presets/mine.yaml")


def own(tmp_path, data: str) -> Preset:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: quickstart\ndata: {data}\n", encoding="utf-8")
    return load_preset(str(file))


def test_sources_of_new_names_take_the_place_of_the_extended_presets_and_share_equally(tmp_path):
    preset = own(tmp_path, "{sources: {notes: {path: notes}, books: {path: books}}}")
    assert list(preset.data.sources) == ["notes", "books"]
    assert preset.data.mixture.start == {"notes": 1.0, "books": 1.0} and preset.data.mixture.end is None


def test_a_source_of_the_extended_preset_that_is_named_keeps_it_and_the_others(tmp_path):
    with pytest.raises(UserError, match=r"give each source its share, such as mixture: \{start: \{math: 1, stem: 1"):
        own(tmp_path, "{sources: {math: {}, notes: {path: notes}}}")
    kept = own(
        tmp_path,
        "{sources: {math: {}, notes: {path: notes}, stem: null, code: null}, "
        "mixture: {start: {notes: 1, stem: null, code: null}, end: null}}",
    )
    assert kept.data.mixture.start == {"math": 0.7, "notes": 1.0}


def test_one_more_source_on_the_command_line_replaces_nothing_unseen():
    with pytest.raises(UserError, match=r"data.mixture.start names math, stem, code, but data.sources are math, stem"):
        load_preset("quickstart", ["data.sources.notes.path=a.txt"])


def test_a_section_that_is_null_is_left_out_whatever_its_default_and_survives_the_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: quickstart\ninterpret: null\nsft: null\n")
    preset = load_preset(str(path))
    assert preset.interpret is None and preset.sft is None
    path.write_text(preset.to_yaml())
    assert load_preset(str(path)) == preset
    assert load_preset("quickstart", ["interpret=null"]).interpret is None


def test_maps_of_rows_longer_than_the_model_reads_are_refused():
    with pytest.raises(UserError, match=r"interpret.seq_len_tokens=1024 is longer than model.max_seq_len=512: set it"):
        load_preset("quickstart", ["interpret.seq_len_tokens=1024"])


def test_the_reproducing_command_names_a_preset_only_when_it_is_unchanged():
    assert reproducing_command(load_preset("quickstart")) == "athanor run quickstart"
    assert reproducing_command(load_preset("quickstart", ["pretrain.steps=900"])) == "athanor run preset.yaml"


MISTAKES = {
    "pretrain.stepz=3": "unknown key pretrain.stepz=3; did you mean steps?",
    "data.sources.math.pathh=3": "unknown key data.sources.math.pathh=3; did you mean path?",
    "pretrain.steps=-1": "pretrain.steps=-1: input should be greater than or equal to 1",
    "pretrain.steps=many": "pretrain.steps='many': input should be a valid integer",
    "pretrain.batch_tokens=1000": "batch_tokens=1000 must be a multiple of seq_len_tokens=128",
    "pretrain.length_phases=[{seq_len_tokens: 48, until_fraction: 0.5}]": "length_phases.0.seq_len_tokens=48 must be",
    "pretrain.length_phases=[{seq_len_tokens: 64, until_fraction: 0.5, x: 1}]": "allowed here: seq_len_tokens, until",
    "sft.train.length_phases=[{seq_len_tokens: 64, until_fraction: 0.5}]": "train.length_phases: packed conversations",
    "data.mixture.filter.max_token_share=2": "data.mixture.filter.max_token_share=2: input should be less than",
    "pretrain.warmup_steps=10000": "warmup_steps=10000 must be below steps=",
    "model.n_heads=3": "n_kv_heads=2 must divide n_heads=3",
    "model.max_seq_len=64": "pretrain.seq_len_tokens=128 is longer than model.max_seq_len=64",
    "data.sources.math.builtin=poems": "data.sources.math.builtin='poems': input should be 'stdlib-code'",
    "data.mixture.start.prose=1": "mixture.start names ['code', 'math', 'prose', 'stem']",
    "runtime.device=tpu": "runtime.device='tpu': input should be 'auto', 'cpu' or 'cuda'",
    "pretrain.peak_lr=.nan": "pretrain.peak_lr",
    "pretrain.steps": "write it as key=value",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_a_wrong_value_is_one_line_with_key_value_and_what_is_allowed(override, message):
    with pytest.raises(UserError) as error:
        load_preset("quickstart", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_map_from_sources_that_the_mixture_lacks_is_one_line_with_both_fields():
    load_preset("quickstart-hydra", ["model.hydra.domain_experts={math: [0, 1]}"])
    with pytest.raises(UserError) as error:
        load_preset("quickstart-hydra", ["model.hydra.domain_experts={math: [0], law: [1]}"])
    assert "model.hydra.domain_experts names law, but data.mixture has code, math, stem" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is no YAML"), ("just text", "must hold keys"), ("extends: nothing", "no preset 'nothing'")],
)
def test_a_broken_preset_file_is_one_line(tmp_path, text, message):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_preset(str(file))
    assert "\n" not in str(error.value)


def test_an_unknown_or_missing_preset_is_one_line(tmp_path):
    with pytest.raises(UserError, match="did you mean quickstart"):
        load_preset("quikstart")
    with pytest.raises(UserError, match="No such file"):
        load_preset(str(tmp_path / "none.yaml"))


def test_a_preset_cannot_extend_itself(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text(f"extends: {file}\n")
    with pytest.raises(UserError, match="extends itself"):
        load_preset(str(file))


def test_off_is_a_word_and_true_is_a_truth_value():
    preset = load_preset("quickstart", ["runtime.wandb=off", "runtime.compile=true"])
    assert (preset.runtime.wandb, preset.runtime.compile) == ("off", True)


BAD_VALUES = (
    "null", "-1", "x", "''", "[]", "[1]", "{}", "{a: 1}", "{1: 2}", "{[1]: 2}", "true", ".nan", "1e400", "9" * 24,
    "2001-99-99", "0x_", "0b_", "&a [*a]", "!!python/object:os.system x",
)  # fmt: skip


def _keys(fields: dict, above: str = "") -> Iterator[str]:
    for name, value in fields.items():
        yield above + name
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{name}.")


@pytest.mark.parametrize("name", preset_names())
def test_no_value_of_any_key_is_more_than_one_line(name, monkeypatch):
    fields = load_preset(name).model_dump(mode="json")
    monkeypatch.setattr(module, "_read", lambda *_: fields)
    refused = 0
    for key in _keys(fields):
        for value in BAD_VALUES:
            try:
                load_preset(name, [f"{key}={value}"])
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "text",
    ["{[1]: 2}", "name: 2001-99-99", "name: 0x_", "[" * 2000, "extends: quickstart\n1: 2", 'extends: "\\0.yaml"'],
)
def test_no_mistake_in_a_preset_file_is_more_than_one_line(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_preset(str(file))
    assert "\n" not in str(error.value)


def test_a_preset_is_read_without_what_it_would_start():
    heavy = {"torch", "prefect", "numpy", "pyarrow", "datasets", "tokenizers", "lm_eval", "matplotlib"}
    code = "import sys; from athanor.flows.presets.preset import load_preset; load_preset('quickstart');"
    subprocess.run([sys.executable, "-c", f"{code} assert not {heavy} & set(sys.modules)"], check=True)
