"""Teaching HYDRA's expert routers which experts a source's tokens are for."""

import pytest
import torch

from athanor.core.targets import IGNORE
from athanor.models.build import build_model
from athanor.models.families.hydra.moe import teaching_loss
from athanor.models.family import FAMILIES

SOURCES = ["code", "math", "stem"]
MAPPED = {"experts": 4, "moe_layers": 1, "recursions": 2, "domain_experts": {"math": (0, 2), "code": (3,)}}
IDS = torch.randint(1, 61, (3, 12), generator=torch.Generator().manual_seed(0))
ALL = torch.tensor([0, 1, 2])  # a row of each source


def taught_model(lively_model, **section):
    model = lively_model("hydra", hydra={**MAPPED, **section}).train()
    model.begin_training(SOURCES)
    return model


def losses(model, source_B, ids=IDS):
    return model.loss(ids, ids.roll(-1, 1), None, None, source_B)


def test_the_lesson_is_the_probability_of_the_experts_of_each_rows_source(lively_model, watched):
    model = taught_model(lively_model, domain_loss=0.5)
    seen = watched(model)
    found = losses(model, ALL).aux["domain"]
    p_BTE = seen.experts[0].p_BTE
    code, math = -p_BTE[0, :, 3].log(), -(p_BTE[1, :, 0] + p_BTE[1, :, 2]).log()
    torch.testing.assert_close(found, 0.5 * (code.sum() + math.sum()) / IDS.numel())


def test_rows_of_unmapped_sources_are_left_alone():
    logit = torch.randn(2, 5, 4, requires_grad=True)
    marked = torch.tensor([[True] * 4, [False, True, False, False]])
    teaching_loss(logit, marked, torch.ones(2, 5, dtype=torch.bool)).sum().backward()
    assert logit.grad is not None
    assert (logit.grad[0] == 0).all()
    assert (logit.grad[1] != 0).all()
    assert (teaching_loss(logit, marked[:1].expand(2, 4), torch.ones(2, 5, dtype=torch.bool)) == 0).all()


def test_the_lesson_has_a_sentence_that_says_what_it_means():
    assert "experts" in FAMILIES["hydra"].meanings["domain"]


def test_padding_teaches_nothing(lively_model):
    model, targets = taught_model(lively_model), IDS.roll(-1, 1)
    targets[:, 8:] = IGNORE
    starts = torch.tensor([[0] * 8 + [8] * 4] * 3)
    padded = model.loss(IDS, targets, starts, None, ALL).aux["domain"]
    alone = model.loss(IDS[:, :8], targets[:, :8], None, None, ALL).aux["domain"]
    torch.testing.assert_close(padded, alone)


def test_the_lesson_ends_with_its_share_of_the_training_and_fine_tuning_gives_none(lively_model):
    model = taught_model(lively_model, domain_until=0.25)
    for progress, taught in ((0.0, True), (0.24, True), (0.25, False), (1.0, False)):
        model.apply_schedule(model.schedule(progress))
        assert ("domain" in losses(model, ALL).aux) == taught
    whole = taught_model(lively_model, domain_until=1.0)
    whole.apply_schedule(whole.schedule(1.0))
    assert "domain" not in losses(whole, ALL).aux


def test_the_lesson_moves_the_choice_of_the_taught_sources_alone(lively_model, watched):
    model = taught_model(lively_model, domain_loss=1.0)
    router, seen = model.expert_layers[0].ffn.router, watched(model)

    def right():
        """Share of the tokens of code and of math that choose an expert of theirs."""
        losses(model, ALL)
        chosen = seen.experts[0].chosen_BTk[..., 0]
        return (chosen[0] == 3).float().mean().item(), (chosen[1] % 2 == 0).float().mean().item()

    before = right()
    for _ in range(60):
        model.zero_grad()
        losses(model, ALL).aux["domain"].backward()
        with torch.no_grad():
            router.weight.sub_(0.5 * router.weight.grad)
    assert sum(before) < 1.6
    assert min(right()) == 1.0


def test_without_a_map_the_sources_change_no_number(mode, lively_model):
    model = lively_model(mode).train()
    model.begin_training(SOURCES)
    ids, keys = IDS, torch.arange(3)
    without = model.loss(ids, ids.roll(-1, 1), None, keys)
    given = model.loss(ids, ids.roll(-1, 1), None, keys, ALL)
    assert torch.equal(without.total, given.total)
    assert without.aux == given.aux


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain_experts": {"math": (4,)}}, r"domain_experts.math=\[4\] must name some of .* where experts=4"),
        ({"domain_experts": {"math": (-1,)}}, r"domain_experts.math=\[-1\]"),
        ({"domain_experts": {"math": ()}}, r"domain_experts.math=\[\]"),
        ({"moe_layers": 0}, "moe_layers=0"),
    ],
)
def test_a_map_to_experts_that_do_not_exist_is_refused_in_one_line(tiny_recipe, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        build_model(tiny_recipe("hydra", hydra={**MAPPED, **changes}))
    assert "\n" not in refused.value.errors()[0]["msg"]
