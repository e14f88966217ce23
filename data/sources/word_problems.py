"""Arithmetic word problems with exact worked answers, generated from a seed.

    Question: Mia has 7 pens. Tom gives her 8 more pens. How many pens does Mia have now?
    Answer: 7 + 8 = 15. #### 15

Sums and differences up to 20 dominate; comparisons, two-step problems and small products are mixed in.
A problem's *key* is its story and operands. The key's hash alone, never the seed, puts it in training or,
for a tenth of the keys, in the held-out split. So no pretraining, fine-tuning or evaluation set, whatever
its seed, can share a held-out story-with-operands with training: names and objects vary within a key, the
arithmetic does not. Operands and results of sums and differences lie in 1..20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import pairwise, product
from random import Random
from typing import TypeVar

from athanor.data.data_recipe import SourceRecipe
from athanor.data.sources.records import Raw
from athanor.data.sources.source import Source
from athanor.data.sources.word_problem_stories import BOXES, NOUNS, PEOPLE, STORIES, Kind, Noun, Person, Story
from athanor.data.splits import SPLITS, Split

T = TypeVar("T")

DEFAULT_DOCUMENTS = 60_000
DOCUMENT_BYTES = 113
HELD_OUT_SHARE = 0.10  # of the keys
SUMS_AND_DIFFERENCES: frozenset[Kind] = frozenset({"sum", "difference"})
LARGEST = 20  # of every number in sums and differences
LARGEST_FACTOR = 9
_PER_HUNDRED: dict[Kind, int] = {"sum": 36, "difference": 34, "comparison": 10, "two-step": 10, "product": 10}
_REPEATS_BEFORE_STOP = 1000
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One solved problem. `key` names story and operands; `kind` lets an evaluation score one kind alone."""

    question: str
    answer: str
    value: int
    key: str
    kind: Kind

    @property
    def text(self) -> str:
        """The problem as a pretraining document."""
        return f"Question: {self.question}\nAnswer: {self.answer}"

    @property
    def choices(self) -> tuple[int, int, int, int]:
        """Four consecutive numbers in shuffled order, one of them right.

        The right one's rank among them is drawn evenly, so that a rule such as taking a middle one is no
        better than chance (answers 1 and 2 allow fewer ranks: the best such rule gains about 3 points).
        """
        rng = Random(self.question)
        lowest = self.value - int(rng.random() * (min(3, self.value) + 1))
        first, second, third, fourth = sorted(range(lowest, lowest + 4), key=lambda _: rng.random())
        return first, second, third, fourth

    @property
    def correct_choice(self) -> int:
        """Index of the right number in `choices`."""
        return self.choices.index(self.value)


def generate(seed: int, split: Split) -> Iterator[Problem]:
    """Problems of one split, none twice; ends when 1,000 draws in a row bring nothing new.

    The sequence is a function of (seed, split) and a prefix does not depend on how much is taken.
    """
    rng = Random(f"{seed}/{split}")
    kinds: list[Kind] = [kind for kind, share in _PER_HUNDRED.items() for _ in range(share)]
    seen: set[bytes] = set()
    repeats = 0
    while repeats < _REPEATS_BEFORE_STOP:
        problem = _draw(rng, _pick(rng, kinds), split)
        fingerprint = blake2b(problem.question.encode(), digest_size=8).digest()
        repeats = repeats + 1 if fingerprint in seen else 0
        if not repeats:
            seen.add(fingerprint)
            yield problem


def read_word_problems(seed: int, documents: int, held_out_fraction: float) -> Iterator[Raw]:
    """`documents` records with fields question, answer, text and messages, held-out ones spread evenly.

    Of n > 1 documents ceil((n - 1) * held_out_fraction) come from the held-out keys, the rest from training.
    """
    streams: dict[Split, Iterator[Problem]] = {s: generate(seed, s) for s in SPLITS}
    for index in range(documents):
        held_out = math.ceil(index * held_out_fraction) > math.ceil((index - 1) * held_out_fraction)
        split: Split = "held_out" if held_out else "train"
        problem = next(streams[split], None)
        if problem is None:
            return
        yield Raw(_record(problem), "word-problems", index + 1, split)


def _documents(recipe: SourceRecipe) -> int:
    return recipe.max_documents or DEFAULT_DOCUMENTS


BUILTIN = Source(
    name="word-problems",
    read=lambda recipe, fields: read_word_problems(recipe.seed, _documents(recipe), recipe.held_out_fraction),
    identity=lambda recipe: {},
    read_bytes_per_s=1.8e6,
    document_bytes=DOCUMENT_BYTES,
    whole_bytes=lambda recipe, identity: _documents(recipe) * DOCUMENT_BYTES,
)


def is_held_out(key: str) -> bool:
    """Whether a key belongs to the held-out tenth; a function of the key alone."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") < HELD_OUT_SHARE * 2**64


def _record(problem: Problem) -> dict[str, object]:
    messages = [
        {"role": "user", "content": problem.question},
        {"role": "assistant", "content": problem.answer},
    ]
    return {"question": problem.question, "answer": problem.answer, "text": problem.text, "messages": messages}


def _draw(rng: Random, kind: Kind, split: Split) -> Problem:
    story = _pick(rng, _stories(kind, split))
    operands = _pick(rng, _operands(story, split))
    first = _pick(rng, PEOPLE)
    second = _pick(rng, [person for person in PEOPLE if person != first])
    question = story.text.format_map(_words(operands, first, second, _pick(rng, NOUNS[story.nouns]), _pick(rng, BOXES)))
    results = _results(story.operations, operands)
    steps = zip(pairwise(results), story.operations, operands[1:], strict=True)
    worked = " ".join(f"{left} {sign} {right} = {result}." for (left, result), sign, right in steps)
    return Problem(question, f"{worked} #### {results[-1]}", results[-1], _key(story, operands), kind)


def _pick(rng: Random, options: Sequence[T]) -> T:
    """An even choice from `random()` alone, the one method Python promises to keep across versions."""
    return options[int(rng.random() * len(options))]


def _key(story: Story, operands: tuple[int, ...]) -> str:
    return f"{story.name} {' '.join(map(str, operands))}"


@cache
def _stories(kind: Kind, split: Split) -> tuple[Story, ...]:
    return tuple(story for story in STORIES[kind] if _operands(story, split))


@cache
def _operands(story: Story, split: Split) -> tuple[tuple[int, ...], ...]:
    """Every tuple of operands the story allows in the split."""
    numbers = range(2, LARGEST_FACTOR + 1) if story.operations == "*" else range(1, LARGEST + 1)
    return tuple(
        operands
        for operands in product(numbers, repeat=len(story.operations) + 1)
        if _allowed(story, operands) and is_held_out(_key(story, operands)) == (split == "held_out")
    )


def _allowed(story: Story, operands: tuple[int, ...]) -> bool:
    if story.operations == "*":
        return True
    return all(1 <= result <= LARGEST for result in _results(story.operations, operands))


def _results(operations: str, operands: tuple[int, ...]) -> list[int]:
    """The first operand, then the result after each operation."""
    results = [operands[0]]
    for sign, operand in zip(operations, operands[1:], strict=True):
        results.append(_OPERATIONS[sign](results[-1], operand))
    return results


def _words(operands: tuple[int, ...], first: Person, second: Person, noun: Noun, box: Noun) -> dict[str, str]:
    """Everything a story may mention, with number and gender agreed."""
    words = {
        "A": first.name,
        "B": second.name,
        "he": first.subject,
        "He": first.subject.capitalize(),
        "him": first.object,
        "noun": noun.one,
        "nouns": noun.many,
        "box": box.one,
        "boxes": box.many,
    }
    for letter, number in zip("abc", operands, strict=False):
        form = noun.one if number == 1 else noun.many
        words |= {
            letter: str(number),
            f"{letter}_noun": form,
            f"{letter}_nouns": f"{number} {form}",
            f"{letter}_more": f"{number} more {form}",
            f"{letter}_s": "s" if number == 1 else "",
            f"{letter}_are": "is" if number == 1 else "are",
            f"There_{letter}": f"There {'is' if number == 1 else 'are'} {number} {form}",
        }
    return words
