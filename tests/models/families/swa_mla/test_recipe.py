"""Sections that cannot be are refused in one line."""

import pytest

SECTION = dict(window=3, sink=1, kv_rank=6, qk_nope_dim=4, qk_rope_dim=4, v_dim=6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_swa": 0, "n_mla": 0}, "n_swa=0 and n_mla=0"),
        ({"qk_rope_dim": 3}, "qk_rope_dim=3 must be even"),
        ({"window": 0}, "greater than or equal to 1"),
        ({"rope_factor": 0.5}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"label_smoothing": 0}, "greater than 0"),
        ({"logit_scale_base": 1}, "greater than 1"),
        ({"logit_scale_window": 64}, "logit_scale_window and logit_scale_in_training need logit_scale_base"),
    ],
)
def test_an_impossible_section_is_refused_in_one_line(tiny_recipe, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        tiny_recipe("swa_mla", swa_mla={**SECTION, **changes})
    assert "\n" not in refused.value.errors()[0]["msg"]


def test_a_section_of_another_family_is_refused(tiny_recipe):
    with pytest.raises(ValueError, match="section swa_mla belongs to family=swa_mla, not family=vanilla"):
        tiny_recipe("vanilla", swa_mla={})
