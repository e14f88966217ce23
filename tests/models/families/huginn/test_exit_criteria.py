"""Exit criteria measure what their formulas say."""

import pytest
import torch

from athanor.core.errors import UserError
from athanor.models.families.huginn.exit_criteria import CRITERIA, ExitRule, Watch


def naive_value(criterion, before, now, logits_before, logits_now, vocab):
    """The measure compared with the threshold, written out for one token."""
    if criterion == "latent-diff":
        return ((now - before).norm() / now.norm()).item()
    if criterion == "cosine":
        return 1 - (now @ before / now.norm() / before.norm()).item()
    p = [None if logits is None else logits.softmax(0) for logits in (logits_before, logits_now)]
    if criterion == "entropy-diff":
        entropy = [100.0 if one is None else -(one * one.log()).sum().item() for one in p]
        return abs(entropy[1] - entropy[0])
    if criterion == "minp-kl":
        for one in p:
            if one is not None:
                one[one < 0.1 * one.max()] = 1 / vocab
                one /= one.sum().clone()
    p = [torch.full((vocab,), 1 / vocab) if one is None else one for one in p]
    return sum((a * (a / b).log()).item() for a, b in zip(*p, strict=True))


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "argmax-stability"])
def test_criteria_measure_what_their_formula_says(criterion):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 1, 1, 8, generator=generator)
    logits = torch.randn(4, 1, 1, 11, generator=generator) * 2
    for step in range(4):
        before = None if step == 0 else logits[step - 1, 0, 0]
        value = naive_value(criterion, states[step, 0, 0], states[step + 1, 0, 0], before, logits[step, 0, 0], 11)
        for threshold, stops in ((value * 0.999, False), (value * 1.001, True)):
            exit = ExitRule(criterion, threshold)
            watch = Watch(exit, states[0], 11)
            seen = logits if exit.reads_logits else states[1:]
            found = [watch.stops(one).item() for one in seen[: step + 1]]
            assert found[-1] is stops


def test_argmax_stability_counts_equal_tokens_in_a_row():
    watch = Watch(ExitRule("argmax-stability", 2), torch.zeros(1, 1, 3), 4)
    tokens = [1, 1, 2, 2, 2, 0]
    found = [watch.stops(torch.eye(4)[t].view(1, 1, 4)).item() for t in tokens]
    assert found == [False, False, False, False, True, False]


@pytest.mark.parametrize("check_every", [2, 3, 8])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_check_compares_with_the_step_before_it_however_far_the_last_check(criterion, check_every):
    generator = torch.Generator().manual_seed(0)
    start, stable = torch.randn(1, 50, 6, generator=generator), criterion == "argmax-stability"
    settling = torch.randn(25, 1, 50, 6, generator=generator) * 1.5 ** -torch.arange(25.0)[:, None, None, None]
    steps = (start + settling) * 3
    threshold = 3 if stable else None
    every, apart = (Watch(ExitRule(criterion, threshold, n), start, 6) for n in (1, check_every))
    found = []
    for step, seen in enumerate(steps, start=1):
        expected = every.stops(seen)
        if apart.looks(step):
            stops = apart.stops(seen)
            if apart.next_check(step) == step:
                assert torch.equal(stops, expected)
                found.append(stops)
        else:
            assert apart.next_check(step) != step
    found = torch.stack(found)
    assert found.any() and not found.all()


def test_an_unknown_criterion_is_refused_in_one_line():
    with pytest.raises(UserError, match="exit criterion 'boredom' does not exist") as refused:
        ExitRule("boredom")
    assert "\n" not in str(refused.value)
