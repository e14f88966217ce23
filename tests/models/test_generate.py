"""Generation: a row answers the same alone, batched, cached or recomputed."""

import pytest
import torch

from models.build import FAMILIES
from models.generate import generate

families = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


@torch.no_grad()
def recomputed(model, prompt, tokens):
    """Greedy continuation by a full forward pass for every token."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@families
def test_greedy_batch_equals_full_recomputation_of_each_row(family, lively_model):
    model = lively_model(family)
    answers = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
    assert answers == [recomputed(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) == 3


@families
def test_rows_stop_at_eos_or_a_stop_id_and_leave_the_others_running(family, lively_model):
    model = lively_model(family)
    free = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS)
    eos, stop = free[0][4], free[1][2]
    stopped = generate(model, PROMPTS, max_new_tokens=12, eos_id=eos, stop_ids=[stop])
    for answer, whole in zip(stopped, free, strict=True):
        ends = [i for i, token in enumerate(whole) if token in (eos, stop)]
        assert answer == whole[: ends[0] if ends else None]


def test_a_row_ends_where_its_own_prompt_and_answer_fill_the_model(lively_model):
    model = lively_model("polychromatic", max_seq_len=10)
    answers = generate(model, PROMPTS, max_new_tokens=50, eos_id=NO_EOS)
    assert [len(answer) for answer in answers] == [7, 9, 4]
    assert answers[1] == generate(model, PROMPTS[1:2], max_new_tokens=50, eos_id=NO_EOS)[0]


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


def test_greedy_ignores_top_k_one(lively_model):
    model = lively_model("vanilla")
    greedy = generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS)
    assert greedy == generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS, temperature=1.0, top_k=1)


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_published_pooling_decodes_by_recomputation_row_by_row(lively_model):
    model = lively_model("polychromatic", polychromatic={"pool": "sequence"})
    answers = generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS)
    assert answers == [recomputed(model, prompt, 6) for prompt in PROMPTS]


def test_every_token_is_drawn_with_noise_of_its_own(lively_model):
    model = lively_model("vanilla")
    torch.nn.init.zeros_(model.embedding.weight)  # every token equally likely
    answer = generate(model, [[4]], max_new_tokens=40, eos_id=NO_EOS, temperature=1.0)[0]
    assert len(set(answer)) > 20


def test_generation_runs_in_eval_mode_and_restores_the_mode(lively_model):
    model, modes = lively_model("polychromatic").train(), []
    model.blocks[0].register_forward_pre_hook(lambda module, _args: modes.append(module.training))
    generate(model, PROMPTS, max_new_tokens=2, eos_id=NO_EOS)
    assert modes == [False, False]
    assert model.training


def test_impossible_prompts_are_refused_by_number(lively_model):
    model = lively_model("vanilla")
    for prompts in ([[1], []], [[1], [1] * 64]):
        with pytest.raises(ValueError, match="prompt 1 has"):
            generate(model, prompts, max_new_tokens=1, eos_id=NO_EOS)
    assert generate(model, [], max_new_tokens=1, eos_id=NO_EOS) == []
