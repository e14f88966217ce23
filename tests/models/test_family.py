"""A family is one folder: whatever lists families finds it there, and it needs no torch until it is built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from athanor.core.errors import UserError
from athanor.models.family import FAMILIES, Family, Section
from athanor.models.model_recipe import ModelRecipe

TOY = {
    "__init__": "",
    "recipe": """
from pydantic import Field
from athanor.models.family import Section

class ToyRecipe(Section):
    gain: float = Field(default=2.0, gt=0)
    first_source: str | None = None

    def check(self, shape):
        if shape.n_layers != 1:
            raise ValueError(f"n_layers={shape.n_layers}: a toy has one layer")

    def sources(self):
        return {"first_source": {self.first_source} - {None}}
""",
    "family": """
from athanor.models.families.toy.recipe import ToyRecipe
from athanor.models.family import Family

def _model():
    from athanor.models.families.toy.model import Toy
    return Toy

def _sizes():
    from athanor.models.families.toy.model import SIZES
    return SIZES

FAMILY = Family("toy", ToyRecipe, _model, _sizes)
""",
    "model": """
from torch import nn
from athanor.models.families.toy.recipe import ToyRecipe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import LanguageModel

SHAPE = dict(d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, max_seq_len=16)
SIZES = {"toy-1": ModelRecipe.model_validate(dict(family="toy", vocab_size=61, toy={"gain": 3.0}, **SHAPE))}

class Toy(LanguageModel):
    cacheable = False

    def __init__(self, recipe):
        super().__init__(recipe)
        self.blocks = nn.ModuleList([nn.ModuleDict({"ffn": nn.Linear(recipe.d_model, recipe.d_model)})])
        self.gain = recipe.section(ToyRecipe).gain

    def body(self, x_BTD, context):
        return x_BTD + self.gain * self.blocks[0]["ffn"](x_BTD)

    def new_layer_states(self):
        return []

    def probes(self):
        return []

    def body_flops_per_token(self, context_tokens):
        return 2.0 * self.blocks[0]["ffn"].weight.numel()

    def cache_bytes_per_token(self, context_tokens):
        return 0.0
""",
}
USE = """
import sys
from pathlib import Path
import athanor.models.families
athanor.models.families.__path__.append(sys.argv[1])

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.flows.presets.preset import load_preset
from athanor.models.family import FAMILIES

assert "torch" not in sys.modules
assert "toy" in FAMILIES
shape = [f"model.{name}={value}" for name, value in {"family": "toy", "polychromatic": "null", "n_layers": 1}.items()]
assert load_preset("quickstart", shape).model.toy is None
for wrong, what in (
    ("model.n_layers=2", "a toy has one layer"),
    ("model.toy.first_source=moon", "model.toy.first_source names moon"),
    ("model.family=dog", "'vanilla' or 'toy'"),
):
    try:
        load_preset("quickstart", [*shape, wrong])
        raise AssertionError(wrong)
    except UserError as error:
        assert what in str(error), error

import torch
from athanor.models.build import build_model
from athanor.models.checkpoints.portable import load_portable, save_portable
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.sizes import SIZES
from athanor.models.step_count import count_step

recipe = SIZES["toy-1"]
assert parameter_counts(recipe) == {"embedding": 61 * 8, "ffn": 72, "norms": 8, "total": 568, "active": 568}
assert flops_per_token(recipe, 16).forward == 2 * (64 + 61 * 8)
assert count_step(recipe, 2, 16, torch.float32, "cpu").weights_bytes == 4 * 568

model = build_model(recipe)
model.init_weights(0)
ids = torch.arange(1, 13)[None]
optimizer = torch.optim.SGD(model.parameter_groups(0.1), lr=0.5)
losses = []
for _ in range(2):
    loss = model.train().loss(ids[:, :-1], ids[:, 1:])
    losses.append(float(loss.total / loss.tokens))
    (loss.total / loss.tokens).backward()
    optimizer.step()
assert losses[1] < losses[0]
save_portable(Path(sys.argv[2]), model, Path(sys.argv[3]))
loaded = load_portable(Path(sys.argv[2]))
assert loaded.recipe == recipe and loaded.gain == 3.0
assert torch.equal(loaded(ids), model.eval()(ids))
"""


def test_a_new_family_is_one_folder_and_nothing_else(tmp_path, tokenizer_dir):
    folder = tmp_path / "families" / "toy"
    folder.mkdir(parents=True)
    for name, text in TOY.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(folder.parent), str(tmp_path / "out"), str(tokenizer_dir)],
        capture_output=True,
        text=True,
        env={**os.environ, "ATHANOR_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_family_is_told_with_those_there_are():
    with pytest.raises(UserError, match=f"no family 'dog': there are {', '.join(FAMILIES)}$"):
        FAMILIES["dog"]
    with pytest.raises(ValueError, match=r"Input should be .*'huginn', .* or 'vanilla'"):
        ModelRecipe.model_validate({"family": "dog"})


@pytest.mark.parametrize("family", FAMILIES.records(), ids=list(FAMILIES))
def test_a_record_bears_its_folders_name_and_its_recipes_are_of_it(family: Family):
    assert Path(sys.modules[family.section.__module__].__file__).parent.name == family.name
    assert family.model().__module__ == f"athanor.models.families.{family.name}.model"
    assert {layout.family for layout in family.layouts().values()} <= {family.name}
    assert ModelRecipe.model_fields[family.name].annotation == family.section | None
    assert family.section.model_validate(family.laptop).sources().keys() <= family.section.model_fields.keys()
    assert issubclass(family.section, Section)
