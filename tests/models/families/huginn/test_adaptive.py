"""What decodes within `adaptively` does so unchanged; drafts and verification answer as greedy decoding does."""

import pytest

from athanor.core.errors import UserError
from athanor.models.decoding.generate import generate
from athanor.models.families.huginn.adaptive import adaptively, speculate
from athanor.models.families.huginn.exit_criteria import ExitRule

PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


def test_generation_within_adaptively_is_that_of_each_row_alone_and_leaves_the_model_as_it_was(deeper):
    model = deeper(6)
    plain = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
    with adaptively(model, ExitRule("latent-diff", 0.5), continuous=True):
        together = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
        alone = [generate(model, [prompt], max_new_tokens=12, eos_id=NO_EOS)[0] for prompt in PROMPTS]
    assert together == alone != plain
    assert generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS) == plain


@pytest.mark.parametrize(("draft_steps", "lookahead"), [(1, 4), (2, 8), (3, 8), (5, 1)])
def test_speculation_answers_what_greedy_decoding_does(draft_steps, lookahead, deeper):
    model = deeper(4).train()
    greedy = generate(model, PROMPTS, max_new_tokens=14, eos_id=NO_EOS)
    options = {"draft_steps": draft_steps, "lookahead": lookahead}
    assert speculate(model, PROMPTS, max_new_tokens=14, eos_id=NO_EOS, **options) == greedy
    eos, stop = greedy[0][4], greedy[1][2]
    wanted = generate(model, PROMPTS, max_new_tokens=14, eos_id=eos, stop_ids=[stop])
    assert speculate(model, PROMPTS, max_new_tokens=14, eos_id=eos, stop_ids=[stop], **options) == wanted
    assert model.training


def test_good_drafts_save_deep_passes_and_room_is_kept(deeper):
    model = deeper(4)
    model.recipe = model.recipe.model_copy(update={"max_seq_len": 20})
    deep = []
    model.core.register_forward_hook(lambda *_: deep.append(model._asked is None))
    answers = speculate(model, [[4, 5]], max_new_tokens=50, eos_id=NO_EOS, draft_steps=4, lookahead=8)
    assert len(answers[0]) == 18
    assert sum(deep) == 4 * 3  # the prompt's first token, then 9 tokens a pass


def test_speculation_refuses_what_cannot_be(model, lively_model):
    unread = lively_model("huginn none")
    for options, message in (({"lookahead": 0}, "lookahead=0"), ({"draft_steps": 0}, "1 step or more")):
        with pytest.raises(UserError, match=message):
            speculate(model, PROMPTS, **{"max_new_tokens": 4, "eos_id": NO_EOS, "draft_steps": 1, **options})
    with pytest.raises(UserError, match="exclude each other"), adaptively(model, continuous=True):
        speculate(model, PROMPTS, max_new_tokens=4, eos_id=NO_EOS, draft_steps=1)
    with pytest.raises(UserError, match=r"huginn\.injection is none"), adaptively(unread, continuous=True):
        pass
    with pytest.raises(ValueError, match="1 to 63"):
        speculate(model, [[]], max_new_tokens=4, eos_id=NO_EOS, draft_steps=1)
