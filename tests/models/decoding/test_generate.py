"""Generation: a row answers the same alone, batched, cached or recomputed."""

import pytest
import torch

from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.models.decoding.generate import TokenStream, generate, stream_text
from athanor.models.decoding.sampling import GREEDY, Sampling

PROMPTS = [[5, 9, 2], [7], [3, 3, 8, 1, 40, 22]]
NO_EOS = -1


@torch.no_grad()
def recomputed(model, prompt, tokens):
    """Greedy continuation by a full forward pass for every token."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def test_packed_prompts_leave_the_logits_and_the_cache_that_left_padded_ones_do(mode, lively_model):
    model = lively_model(mode)
    h_ND, packed = model.prefill(PROMPTS)
    pads = torch.tensor([[6 - len(prompt)] for prompt in PROMPTS])
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in PROMPTS])
    padded = model.new_cache(3)
    found = [(h_ND, model.hidden(ids, torch.where(torch.arange(6) >= pads, pads, 0), cache=padded)[:, -1])]
    alone = [model.hidden(torch.tensor([prompt]))[0, -1] for prompt in PROMPTS]
    torch.testing.assert_close(h_ND, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert (packed.rows, packed.length) == (padded.rows, padded.length)
    for token in range(1, 13):
        ids = torch.full((3, 1), token)
        found.append(tuple(model.hidden(ids, pads, cache=cache)[:, -1] for cache in (packed, padded)))
    for one, other in found:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["left-padded", "packed"])
def test_greedy_batch_equals_full_recomputation_of_each_row_in_either_layout(mode, layout, lively_model):
    model = lively_model(mode)
    answers = generate(model, PROMPTS, max_new_tokens=12, eos_id=NO_EOS, layout=layout)
    assert answers == [recomputed(model, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) > 1


def test_rows_stop_at_eos_or_a_stop_id_and_leave_the_others_running(mode, lively_model):
    model = lively_model(mode)
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


@pytest.mark.filterwarnings("ignore:polychromatic.pool=sequence")
def test_published_pooling_decodes_by_recomputation_row_by_row(lively_model):
    model = lively_model("polychromatic", polychromatic={"pool": "sequence"})
    answers = generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS)
    assert answers == [recomputed(model, prompt, 6) for prompt in PROMPTS]


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


def streamed(model, prompts, close=lambda row, made: False):
    """What a stream yields, as (row, id), closing rows as told."""
    stream = TokenStream(model, prompts, max_new_tokens=6, stop_ids=(), sampling=GREEDY, seed=0)
    made = []
    for row, token in stream:
        made.append((row, token))
        if close(row, made):
            stream.close(row)
    return made


def test_a_stream_yields_token_by_token_what_generate_collects(mode, lively_model):
    model = lively_model(mode)
    made = streamed(model, PROMPTS)
    assert [row for row, _ in made] == [0, 1, 2] * 6
    answers = generate(model, PROMPTS, max_new_tokens=6, eos_id=NO_EOS)
    assert [[token for row, token in made if row == n] for n in range(3)] == answers


def test_a_closed_row_ends_at_once_and_leaves_the_others_as_they_were(lively_model):
    model = lively_model("vanilla")
    whole, cut = streamed(model, PROMPTS), streamed(model, PROMPTS, close=lambda row, made: row == 1 and len(made) > 3)
    assert cut == [(row, token) for n, (row, token) in enumerate(whole) if row != 1 or n <= 4]


def test_a_stream_computes_nothing_before_it_is_read(lively_model):
    model, calls = lively_model("vanilla"), []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    stream = iter(TokenStream(model, PROMPTS, max_new_tokens=6, stop_ids=(), sampling=GREEDY, seed=0))
    assert calls == []
    next(stream)
    assert calls == [1]


def test_whoever_reads_a_stream_keeps_gradient_and_mode(lively_model):
    model = lively_model("vanilla").train()
    for _ in TokenStream(model, PROMPTS, max_new_tokens=2, stop_ids=(), sampling=GREEDY, seed=0):
        assert torch.is_grad_enabled() and model.training


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TokenizerRecipe(vocab_size=300), iter(["three hens, naïve café, 漢字. "] * 20), folder)
    return load_tokenizer(folder)


def test_streamed_text_spells_non_ascii_and_ends_before_a_stop_string_that_spans_tokens(scripted_model, tokenizer):
    script = tokenizer.encode("naïve 漢字 STOP more")
    model = scripted_model(script, max_seq_len=99)
    options = dict(max_new_tokens=40, stops=["STOP"])
    pieces = list(stream_text(model, tokenizer, [tokenizer.encode("a")], **options))
    assert "".join(piece for _, piece in pieces) == "naïve 漢字 "
    assert len(pieces) > 1 and len(tokenizer.encode("STOP")) > 1
    assert model.steps == len(tokenizer.encode("naïve 漢字 STOP"))


def test_streamed_text_keeps_the_rows_of_a_ragged_batch_apart(lively_model, tokenizer):
    model = lively_model("polychromatic", vocab_size=tokenizer.vocab_size)
    prompts = [tokenizer.encode(text) for text in ("three", "a", "hens, naïve")]
    together = ["", "", ""]
    for row, piece in stream_text(model, tokenizer, prompts, max_new_tokens=9):
        together[row] += piece
    answers = generate(model, prompts, max_new_tokens=9, eos_id=tokenizer.eos_id)
    assert together == [tokenizer.decode(answer) for answer in answers]


def test_streamed_text_is_sampled_with_its_seed(lively_model, tokenizer):
    model = lively_model("vanilla", vocab_size=tokenizer.vocab_size)
    options = dict(max_new_tokens=9, sampling=Sampling(temperature=2.0))
    one, again, other = (list(stream_text(model, tokenizer, [[4]], seed=seed, **options)) for seed in (1, 1, 2))
    assert one == again != other
