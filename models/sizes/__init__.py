"""Named sizes: the published shapes of every family, one file each; `athanor models` prints their true counts."""

from __future__ import annotations

from models.config import ModelRecipe
from models.sizes import huginn, hydra, polychromatic, swa_mla, vanilla

SIZES: dict[str, ModelRecipe] = {
    **vanilla.SIZES,
    **polychromatic.SIZES,
    **hydra.SIZES,
    **swa_mla.SIZES,
    **huginn.SIZES,
}
