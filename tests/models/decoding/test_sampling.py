"""Sampling: the model's own probabilities, cut as asked, drawn by the seed."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.decoding.generate import generate
from athanor.models.decoding.sampling import Sampling

PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


def test_sampling_repeats_with_its_seed_and_changes_with_it(lively_model):
    model = lively_model("vanilla")
    options = dict(max_new_tokens=12, eos_id=NO_EOS, temperature=1.5)
    first = generate(model, [[4]] * 4, seed=1, **options)
    assert first == generate(model, [[4]] * 4, seed=1, **options)
    assert first != generate(model, [[4]] * 4, seed=2, **options)
    assert len({tuple(answer) for answer in first}) == 4


def test_sampled_tokens_follow_the_softmax(lively_model):
    model = lively_model("vanilla", vocab_size=5)
    with torch.no_grad():
        wanted = (model(torch.tensor([[4]]))[0, -1] / 3.0).softmax(-1)
    drawn = generate(model, [[4]] * 4000, max_new_tokens=1, eos_id=NO_EOS, temperature=3.0)
    found = torch.tensor(drawn)[:, 0].bincount(minlength=5) / 4000
    torch.testing.assert_close(found, wanted, atol=0.04, rtol=0)


def test_top_k_and_top_p_keep_only_the_likeliest(lively_model):
    model = lively_model("vanilla")
    with torch.no_grad():
        logits = model(torch.tensor([[4]]))[0, -1] / 5.0
    order = logits.argsort(descending=True).tolist()
    options = dict(max_new_tokens=1, eos_id=NO_EOS, temperature=5.0)
    some = {answer[0] for answer in generate(model, [[4]] * 500, top_k=3, **options)}
    assert some == set(order[:3])
    mass = logits.softmax(-1)[order].cumsum(0)
    within = int((mass < 0.3).sum()) + 1
    some = {answer[0] for answer in generate(model, [[4]] * 500, top_p=0.3, **options)}
    assert some == set(order[:within])


def test_min_p_keeps_what_has_that_share_of_the_likeliest_tokens_probability(lively_model):
    model = lively_model("vanilla")
    with torch.no_grad():
        share = (model(torch.tensor([[4]]))[0, -1] / 5.0).softmax(-1)
    share = share / share.max()
    least = share.sort(descending=True).values[3:5].mean().item()
    options = dict(max_new_tokens=1, eos_id=NO_EOS, temperature=5.0)
    some = {answer[0] for answer in generate(model, [[4]] * 500, min_p=least, **options)}
    assert some == set((share >= least).nonzero()[:, 0].tolist()) and len(some) == 4


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.5}]
)
def test_an_impossible_sampling_setting_is_named_in_one_line(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"^{name}={value}: must be [^\n]*$"):
        Sampling(**wrong)


def test_greedy_ignores_top_k_one(lively_model):
    model = lively_model("vanilla")
    greedy = generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS)
    assert greedy == generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS, temperature=1.0, top_k=1)


def test_every_token_is_drawn_with_noise_of_its_own(lively_model):
    model = lively_model("vanilla")
    torch.nn.init.zeros_(model.embedding.weight)  # every token equally likely
    answer = generate(model, [[4]], max_new_tokens=40, eos_id=NO_EOS, temperature=1.0)[0]
    assert len(set(answer)) > 20
