"""Word problems: right answers, right English, and a held-out split that no seed can leak into."""

import re
from collections import Counter
from itertools import islice

import pytest

from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.sources.word_problem_stories import BOXES, NOUNS, STORIES
from athanor.data.sources.word_problems import (
    DEFAULT_DOCUMENTS,
    LARGEST,
    SUMS_AND_DIFFERENCES,
    generate,
    is_held_out,
    read_word_problems,
)

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)\.")


@pytest.fixture(scope="module")
def problems():
    return list(islice(generate(3, "train"), 8000)) + list(islice(generate(3, "held_out"), 2000))


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


def test_every_worked_answer_solves_again_to_its_value(problems):
    for problem in problems:
        steps = EQUATION.findall(problem.answer)
        assert problem.answer == " ".join(f"{a} {s} {b} = {c}." for a, s, b, c in steps) + f" #### {problem.value}"
        for left, sign, right, result in steps:
            solved = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
            assert solved == int(result)
        assert int(steps[-1][-1]) == problem.value
        chained = [steps[0][0], *(step[-1] for step in steps)]
        assert [step[0] for step in steps] == chained[:-1]


def test_the_answer_uses_exactly_the_numbers_of_the_question(problems):
    for problem in problems:
        steps = EQUATION.findall(problem.answer)
        used = [int(steps[0][0]), *(int(right) for _, _, right, _ in steps)]
        assert sorted(used) == sorted(numbers(problem.question)), problem.text


def test_sums_and_differences_stay_within_twenty_and_dominate(problems):
    basic = [problem for problem in problems if problem.kind in SUMS_AND_DIFFERENCES]
    assert len(basic) > len(problems) / 2
    for problem in basic:
        assert all(1 <= number <= LARGEST for number in numbers(problem.answer))
        assert len(EQUATION.findall(problem.answer)) == 1
    assert set(Counter(problem.kind for problem in problems)) == set(STORIES)


def test_held_out_keys_are_shared_with_no_training_split_of_any_seed():
    held_out = {problem.key for seed in range(4) for problem in islice(generate(seed, "held_out"), 1500)}
    training = {problem.key for seed in range(4) for problem in islice(generate(seed, "train"), 6000)}
    assert held_out and not held_out & training
    assert all(is_held_out(key) for key in held_out)


def test_about_a_tenth_of_the_keys_is_held_out():
    keys = [f"{story.name} {a} {b}" for story in STORIES["sum"] for a in range(1, 20) for b in range(1, 21 - a)]
    assert 0.08 < sum(map(is_held_out, keys)) / len(keys) < 0.12


def test_the_key_says_all_that_fixes_the_arithmetic(problems):
    answers: dict[str, str] = {}
    for problem in problems:
        assert answers.setdefault(problem.key, problem.answer) == problem.answer


def test_same_seed_same_problems_other_seed_other_problems():
    first = list(islice(generate(5, "train"), 300))
    assert first == list(islice(generate(5, "train"), 300))
    assert first != list(islice(generate(6, "train"), 300))


def test_no_question_comes_twice(problems):
    assert len({problem.question for problem in problems}) == len(problems)


def test_generation_ends_when_nothing_new_is_left(monkeypatch):
    def only(kind):
        return {k: (100 if k == kind else 0) for k in STORIES}

    bare = {"product": tuple(story for story in STORIES["product"] if story.text == "What is {a} * {b}?")}
    monkeypatch.setattr("athanor.data.sources.word_problems._PER_HUNDRED", only("product"))
    monkeypatch.setattr("athanor.data.sources.word_problems._stories", lambda kind, split: bare[kind])
    both = [problem.question for split in ("train", "held_out") for problem in generate(0, split)]
    assert sorted(both) == sorted(f"What is {a} * {b}?" for a in range(2, 10) for b in range(2, 10))


def test_number_and_gender_agree(problems):
    forms = [noun for nouns in NOUNS.values() for noun in nouns] + list(BOXES)
    singular, plural = {noun.one for noun in forms}, {noun.many for noun in forms}
    ones = 0
    for problem in problems:
        for number, noun in re.findall(r"\b(\d+) (?:more )?(?:red |blue )?([a-z]+)", problem.question):
            if noun in singular | plural:
                assert noun in (singular if number == "1" else plural), problem.question
                ones += number == "1"
        assert not re.search(r"\bare 1\b|\bis (?!1\b)\d+ [a-z]+ in|\b1 (are|leave|come)\b", problem.question)
        assert not re.search(r"[{}]", problem.question)
    assert ones > 100


def test_wording_is_short_and_varied(problems):
    assert max(len(problem.text.split()) for problem in problems) <= 40
    assert len({problem.key.split()[0] for problem in problems}) >= 40


def test_multiple_choice_has_four_numbers_and_no_rank_gives_the_answer_away(problems):
    ranks, places = Counter(), Counter()
    for problem in problems:
        assert len(set(problem.choices)) == 4 and min(problem.choices) >= 0
        assert problem.choices[problem.correct_choice] == problem.value
        assert problem.choices == problem.choices
        ranks[sorted(problem.choices).index(problem.value)] += 1
        places[problem.correct_choice] += 1
    for counts in (ranks, places):
        assert max(counts.values()) < 0.30 * len(problems)


def test_held_out_documents_are_spread_and_come_from_held_out_keys():
    for documents, fraction in ((2, 0.02), (50, 0.02), (51, 0.02), (101, 0.02), (40, 0.25)):
        records = list(read_word_problems(0, documents, fraction))
        held_out = [record.line for record in records if record.split == "held_out"]
        assert len(records) == documents
        assert len(held_out) == -(-(documents - 1) * round(fraction * 100) // 100)
        assert held_out[0] == 2
    assert all(record.split == "train" for record in read_word_problems(0, 100, 0.0))


def test_documents_of_the_source_keep_the_split_by_construction(tmp_path):
    facts = write_documents(SourceRecipe(builtin="word-problems", max_documents=600, seed=2), tmp_path)
    assert facts == {"documents": 600, "held_out_documents": 12, "text_bytes": facts["text_bytes"], "rejected": 0}
    held_out = {problem.text for problem in islice(generate(2, "held_out"), 12)}
    assert {document.text for document in read_documents(tmp_path, "held_out")} == held_out


def test_a_byte_limit_never_moves_a_training_problem_to_the_held_out_split(tmp_path):
    write_documents(SourceRecipe(builtin="word-problems", max_bytes=10, held_out_fraction=0.4), tmp_path)
    assert list(read_documents(tmp_path, "held_out")) == []
    assert len(list(read_documents(tmp_path, "train"))) == 1


def test_the_source_is_bounded_by_default(monkeypatch, tmp_path):
    assert DEFAULT_DOCUMENTS == 60_000
    monkeypatch.setattr("athanor.data.sources.word_problems.DEFAULT_DOCUMENTS", 90)
    assert write_documents(SourceRecipe(builtin="word-problems"), tmp_path)["documents"] == 90


def test_it_is_a_chat_source_too(tmp_path):
    write_documents(ChatSourceRecipe(builtin="word-problems", max_documents=3), tmp_path)
    problem = next(generate(0, "train"))
    first = next(read_documents(tmp_path, "train"))
    assert first.text == (
        f'[{{"content":"{problem.question}","role":"user"}},{{"content":"{problem.answer}","role":"assistant"}}]'
    )
