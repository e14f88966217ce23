"""Rows that would teach noise: long repetitions, a handful of tokens over and over, mangled characters.

Whether a row is noise is a function of its tokens alone, so it is the same in every run, phase and grouping.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from athanor.data.data_recipe import FilterRecipe
from athanor.data.tokenizer import Tokenizer


class RowFilter:
    """Judges rows of one tokenizer's ids by a recipe."""

    def __init__(self, recipe: FilterRecipe, tokenizer: Tokenizer):
        self._recipe = recipe
        self._broken_V = np.array(["\ufffd" in tokenizer.decode([i]) for i in range(tokenizer.vocab_size)])

    def noisy(self, ids_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool [B]: the rows beyond a threshold of the recipe."""
        share_B, entropy_B, broken_B = self.measures(ids_BT)
        recipe = self._recipe
        return (
            (share_B > recipe.max_token_share)
            | (entropy_B < recipe.min_entropy_nats)
            | (broken_B > recipe.max_broken_share)
        )

    def measures(self, ids_BT: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """(share of the most frequent token, unigram entropy in nats, share of broken characters), float64 [B]."""
        tokens = ids_BT.shape[1]
        shares = [np.unique(row_T, return_counts=True)[1] / tokens for row_T in ids_BT]
        share_B = np.array([share_N.max() for share_N in shares])
        entropy_B = np.array([-(share_N * np.log(share_N)).sum() for share_N in shares])
        return share_B, entropy_B, self._broken_V[ids_BT].mean(axis=1)
