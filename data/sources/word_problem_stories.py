"""The wording of the word problems: people, objects and stories. Tables only; `word_problems` fills them in.

A story's `name` is part of a problem's key: renaming one moves its problems between training and held-out.
Placeholders: A and B are people (he, He, him refer to A); a, b, c are the operands; `a_nouns` is '1 pen' or
'7 pens', `a_more` '7 more pens', `a_noun` the noun alone, `a_s` the verb's s, `There_a` 'There are 7 pens'.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["sum", "difference", "comparison", "two-step", "product"]


class Noun(NamedTuple):
    one: str
    many: str


class Person(NamedTuple):
    name: str
    subject: str
    object: str


class Story(NamedTuple):
    """`operations` are applied from left to right to the operands."""

    name: str
    operations: str
    nouns: str
    text: str


def _nouns(*forms: str) -> tuple[Noun, ...]:
    """Nouns from 'pen' (regular) or 'box/boxes'."""
    return tuple(Noun(one, many or one + "s") for one, _, many in (form.partition("/") for form in forms))


_FOOD = _nouns(
    *("apple", "pear", "plum", "cookie", "muffin", "grape", "carrot", "peach/peaches", "cherry/cherries", "nut"),
    *("orange", "lemon", "bun", "sweet", "berry/berries"),
)
_THINGS = _nouns(
    *("pen", "book", "marble", "coin", "sticker", "button", "card", "shell", "toy", "ball", "stone", "bead"),
    *("brush/brushes", "stamp", "crayon", "key", "ribbon", "puzzle", "kite", "cup"),
)
_ANIMALS = _nouns(
    *("duck", "hen", "goat", "cow", "frog", "bird", "rabbit", "pony/ponies", "fox/foxes", "mouse/mice"),
    *("cat", "dog", "horse", "pig", "goose/geese"),
)
NOUNS = {"food": _FOOD, "things": _THINGS, "animals": _ANIMALS, "objects": _FOOD + _THINGS}
BOXES = _nouns("box/boxes", "bag", "basket", "jar", "tin", "bowl", "bucket", "chest")
_GIRLS = ("Mia", "Ann", "Lily", "Emma", "Zoe", "Nina", "Ruth", "Sara", "Eva", "Ida", "Rosa", "Amy", "Maya", "Kim")
_BOYS = ("Tom", "Ben", "Sam", "Leo", "Max", "Jack", "Omar", "Finn", "Paul", "Ali", "Hugo", "Noah", "Ravi", "Dan")
PEOPLE = (
    *(Person(name, "she", "her") for name in _GIRLS),
    *(Person(name, "he", "him") for name in _BOYS),
)

# fmt: off
STORIES: dict[Kind, tuple[Story, ...]] = {
    "sum": (
        Story("sum/together", "+", "objects",
              "{A} has {a_nouns}. {B} has {b_nouns}. How many {nouns} do they have together?"),
        Story("sum/gift", "+", "objects",
              "{A} has {a_nouns}. {B} gives {him} {b_more}. How many {nouns} does {A} have now?"),
        Story("sum/find", "+", "things",
              "{A} finds {a_nouns} on Monday and {b_nouns} on Tuesday. How many {nouns} does {he} find in all?"),
        Story("sum/box", "+", "objects",
              "{There_a} in a {box}. {A} adds {b_more}. How many {nouns} are there now?"),
        Story("sum/buy", "+", "objects",
              "{A} buys {a_nouns}. Then {he} buys {b_more}. How many {nouns} does {he} buy in total?"),
        Story("sum/colours", "+", "things",
              "{A} has {a} red {a_noun} and {b} blue {b_noun}. How many {nouns} does {A} have?"),
        Story("sum/pond", "+", "animals",
              "{There_a} by the pond. Then {b_more} come{b_s}. How many {nouns} are there now?"),
        Story("sum/feed", "+", "animals",
              "{A} feeds {a_nouns} in the morning and {b_nouns} at night. How many {nouns} does {he} feed?"),
        Story("sum/eat", "+", "food",
              "{A} eats {a_nouns}. {B} eats {b_nouns}. How many {nouns} do they eat in all?"),
        Story("sum/shelves", "+", "things",
              "One shelf holds {a_nouns}. Another holds {b_nouns}. How many {nouns} do the two shelves hold?"),
        Story("sum/shop", "+", "objects",
              "A shop sells {a_nouns} before noon and {b_nouns} after noon. How many {nouns} does it sell?"),
        Story("sum/plus-sign", "+", "things",
              "What is {a} + {b}?"),
        Story("sum/plus", "+", "things",
              "What is {a} plus {b}?"),
        Story("sum/add", "+", "things",
              "Add {a} and {b}. What do you get?"),
    ),
    "difference": (
        Story("difference/give", "-", "objects",
              "{A} has {a_nouns}. {He} gives {b} to {B}. How many {nouns} does {A} have left?"),
        Story("difference/eat", "-", "food",
              "{A} has {a_nouns}. {He} eats {b}. How many {nouns} are left?"),
        Story("difference/lose", "-", "things",
              "{A} had {a_nouns} and lost {b}. How many {nouns} does {he} have now?"),
        Story("difference/leave", "-", "animals",
              "{There_a} by the pond. Then {b} leave{b_s}. How many {nouns} are still there?"),
        Story("difference/shop", "-", "objects",
              "A shop has {a_nouns}. It sells {b}. How many {nouns} are left in the shop?"),
        Story("difference/box", "-", "objects",
              "{There_a} in a {box}. {A} takes away {b}. How many {nouns} are left?"),
        Story("difference/need", "-", "objects",
              "{A} needs {a_nouns}. {He} has {b}. How many more {nouns} does {he} need?"),
        Story("difference/red", "-", "things",
              "{A} has {a_nouns}. Of these, {b} {b_are} red. How many {nouns} are not red?"),
        Story("difference/before", "-", "objects",
              "{A} had {a_nouns}. Now {he} has {b}. How many {nouns} are gone?"),
        Story("difference/minus-sign", "-", "things",
              "What is {a} - {b}?"),
        Story("difference/minus", "-", "things",
              "What is {a} minus {b}?"),
        Story("difference/take", "-", "things",
              "Take {b} away from {a}. What is left?"),
    ),
    "comparison": (
        Story("comparison/more", "-", "objects",
              "{A} has {a_nouns}. {B} has {b_nouns}. How many more {nouns} does {A} have than {B}?"),
        Story("comparison/fewer", "-", "objects",
              "{A} has {b_nouns}. {B} has {a_nouns}. How many fewer {nouns} does {A} have than {B}?"),
        Story("comparison/found", "-", "things",
              "{A} found {a_nouns} and {B} found {b_nouns}. How many more {nouns} did {A} find?"),
        Story("comparison/bags", "-", "objects",
              "A red bag holds {a_nouns}. A blue bag holds {b_nouns}. How many more {nouns} are in the red bag?"),
        Story("comparison/farm", "-", "animals",
              "{A} keeps {a_nouns}. {B} keeps {b_nouns}. How many more {nouns} does {A} keep?"),
        Story("comparison/numbers", "-", "things",
              "How much more is {a} than {b}?"),
    ),
    "two-step": (
        Story("two-step/buy-give", "+-", "objects",
              "{A} has {a_nouns}. {He} buys {b_more} and gives {c} to {B}. How many {nouns} does {A} have now?"),
        Story("two-step/pick-eat", "+-", "food",
              "{A} picks {a_nouns}. {B} picks {b_more}. They eat {c}. How many {nouns} are left?"),
        Story("two-step/lose-buy", "-+", "objects",
              "{A} has {a_nouns}. {He} loses {b} and buys {c_more}. How many {nouns} does {he} have now?"),
        Story("two-step/pond", "-+", "animals",
              "{There_a} by the pond. Then {b} leave{b_s} and {c_more} come{c_s}. How many {nouns} are there now?"),
        Story("two-step/week", "++", "objects",
              "A shop sells {a_nouns} on Monday, {b} on Tuesday and {c} on Friday. How many {nouns} does it sell?"),
        Story("two-step/give-eat", "--", "food",
              "{A} has {a_nouns}. {He} gives {b} to {B} and eats {c}. How many {nouns} are left?"),
        Story("two-step/box", "--", "objects",
              "{There_a} in a {box}. {A} takes {b} and {B} takes {c}. How many {nouns} are left?"),
        Story("two-step/numbers", "+-", "things",
              "What is {a} + {b} - {c}?"),
    ),
    "product": (
        Story("product/boxes", "*", "objects",
              "{A} has {a} {boxes}. Each {box} holds {b_nouns}. How many {nouns} are there in all?"),
        Story("product/friends", "*", "objects",
              "{A} has {a} friends and gives {b_nouns} to each. How many {nouns} does {he} give away?"),
        Story("product/days", "*", "things",
              "For {a} days {A} finds {b_nouns} each day. How many {nouns} does {he} find in all?"),
        Story("product/rows", "*", "objects",
              "There are {a} rows with {b_nouns} in each row. How many {nouns} are there?"),
        Story("product/price", "*", "objects",
              "{A} buys {a_nouns}. Each costs {b} dollars. How many dollars does {he} pay?"),
        Story("product/sign", "*", "things",
              "What is {a} * {b}?"),
        Story("product/times", "*", "things",
              "What is {a} times {b}?"),
    ),
}
# fmt: on
