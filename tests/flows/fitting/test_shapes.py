"""Every family has shapes from small to large, each a possible model."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.flows.fitting.shapes import quickstart_of, shapes, with_steps
from athanor.models.counts import parameter_counts
from athanor.models.family import FAMILIES


@pytest.mark.parametrize("family", list(FAMILIES))
def test_shapes_grow_and_one_of_them_is_the_quickstarts(family):
    found = list(shapes(family))
    sizes = [parameter_counts(shape.model_copy(update={"vocab_size": 512}))["total"] for shape in found]
    assert sizes == sorted(set(sizes)) and sizes[-1] > 100 * sizes[0]
    assert quickstart_of(family).model.recipe in found


def test_a_family_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="hydra"):
        quickstart_of("hidra")


def test_what_a_section_counts_in_steps_keeps_its_share_of_the_run():
    base = quickstart_of("hydra")
    twice = with_steps(base.model, 2 * base.pretrain.steps)
    assert twice.hydra.mod_ramp_steps == 2 * base.model.hydra.mod_ramp_steps  # pyright: ignore
