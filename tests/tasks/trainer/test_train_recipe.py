"""Training recipes: what they refuse, and what keeps their keys."""

from __future__ import annotations

import pytest

from athanor.core.keys import canonical_json
from athanor.data.data_recipe import MixtureRecipe
from athanor.data.phases import Phase
from athanor.tasks.trainer.train_recipe import TrainRecipe


def recipe(**fields) -> TrainRecipe:
    return TrainRecipe.model_validate(
        {"steps": 100, "seq_len_tokens": 2048, "batch_tokens": 16384, "peak_lr": 0.01} | fields
    )


def test_phases_in_steps_keep_the_tokens_of_a_step():
    shorter = [{"seq_len_tokens": 512, "until_fraction": 0.25}, {"seq_len_tokens": 1024, "until_fraction": 0.6}]
    phases = recipe(length_phases=shorter).phases
    assert phases == (Phase(0, 512, 32), Phase(25, 1024, 16), Phase(60, 2048, 8))
    assert recipe().phases == (Phase(0, 2048, 8),)


def test_recipes_without_phases_or_filter_keep_their_keys():
    assert "length_phases" not in canonical_json(recipe())
    assert "filter" not in canonical_json(MixtureRecipe(start={"a": 1.0}))


@pytest.mark.parametrize(
    ("phases", "complaint"),
    [
        ([(300, 0.5)], r"length_phases.0.seq_len_tokens=300 .* 2048, and divide it"),
        ([(2048, 0.5)], r"length_phases.0.seq_len_tokens=2048 must be shorter"),
        ([(1024, 0.2), (512, 0.5)], r"length_phases.0.seq_len_tokens=1024 must be shorter .* 512"),
        ([(512, 0.5), (1024, 0.4)], r"phase 1 would last from step 50 to step 40 of 100"),
        ([(512, 0.001)], r"phase 0 would last from step 0 to step 0"),
        ([(512, 0.999)], r"phase 1 would last from step 100 to step 100"),
        ([], r"at least 1 item"),
    ],
)
def test_phases_that_do_not_follow_are_refused(phases, complaint):
    with pytest.raises(ValueError, match=complaint):
        recipe(length_phases=[{"seq_len_tokens": n, "until_fraction": f} for n, f in phases])
