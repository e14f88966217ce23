"""Named sizes: the published shapes of every family, one file each; `athanor models` prints their true counts."""

from __future__ import annotations

from athanor.models.families.huginn import sizes as huginn
from athanor.models.families.hydra import sizes as hydra
from athanor.models.families.polychromatic import sizes as polychromatic
from athanor.models.families.swa_mla import sizes as swa_mla
from athanor.models.families.vanilla import sizes as vanilla
from athanor.models.model_recipe import ModelRecipe

SIZES: dict[str, ModelRecipe] = {
    **vanilla.SIZES,
    **polychromatic.SIZES,
    **hydra.SIZES,
    **swa_mla.SIZES,
    **huginn.SIZES,
}
