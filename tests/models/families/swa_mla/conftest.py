"""A lively SWA-MLA model, by its section."""

import pytest

SECTION = dict(window=3, sink=1, kv_rank=6, qk_nope_dim=4, qk_rope_dim=4, v_dim=6)


@pytest.fixture(scope="module")
def model_of(lively_model):
    """A lively model whose section is SECTION with some fields changed."""

    def make(n_layers=3, **changes):
        return lively_model("swa_mla", n_layers=n_layers, swa_mla={**SECTION, **changes})

    return make
