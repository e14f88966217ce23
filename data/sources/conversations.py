"""Conversations as people keep them: a record's form is seen in its own fields, and its messages come out in one form.

    messages              [{role, content}, ...]
    conversations         [{from, value}, ...] (ShareGPT); the names are mixed up freely, so both have either
    prompt, completion    two texts, or two such lists, of which only the second is learned from
    instruction, output   two texts, with an `input` that may be empty (Alpaca)

Records that are none of these are read where the recipe names the field of a list, or a template for each turn; what it
has to name for fields that are often seen, `recipe_fields` says.

A text in a field `system` begins the conversation. A list may be written as JSON in a text, as in a .csv, or as an
object of lists, as data sets hand out their sequences.

Invariant: what is asked of a turn is done or refused by name, never dropped: `weight: 0` and `train: false` keep an
answer out of the loss; tools, reasoning and speakers' names have no place in the template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Message = dict[str, Any]  # role and content; weight 0 where an answer is not to be learned

ROLES = ("system", "user", "assistant")
OTHER_ROLES = {"human": "user", "gpt": "assistant"}
MESSAGES, SHAREGPT = "messages", "conversations"
REFUSED_FIELDS = ("tools", "functions", "history")  # of a record
REFUSED_IN_TURNS = ("tool_calls", "function_call", "reasoning_content", "thinking", "name")
NOTHING = (None, "", "[]", [], {})
KNOWN_FORMS = "messages; conversations; prompt and completion; instruction and output"
OTHER_LISTS = ("conversation",)  # fields of messages that a recipe must name
OTHER_TURNS = (  # fields of the user's text and the assistant's, of which it needs templates
    ("question", "answer"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("user", "assistant"),
    ("input", "output"),
)
_JOINT = "\n\n"  # between an instruction and its input


class NoConversation(ValueError):
    """A record that is no usable conversation; the message says why."""


def names_said(fields: Iterable[str]) -> str:
    """The first names of a record's fields. They are a stranger's text: quoted, so that a reason stays one line."""
    return ", ".join(ascii(name)[:40] for name in list(fields)[:12]) or "none"


def fields_read(messages: str) -> tuple[str, ...]:
    """Names of all the fields that `conversation` looks at, that of the messages first."""
    others = (*(name for names, _ in _FORMS for name in names), "input") if messages == MESSAGES else ()
    return tuple(dict.fromkeys((messages, *others, "system", *REFUSED_FIELDS)))


def conversation(record: Record, messages: str) -> list[Message]:
    """The messages of a record, from the field `messages` or, where that is MESSAGES, from whatever form it has.

    Raises NoConversation naming the field or the turn, and what is wrong with it.
    """
    if refused := next((name for name in REFUSED_FIELDS if record.get(name) not in NOTHING), None):
        raise NoConversation(f"field {refused!r} has no place in the chat template")
    turns = list(_turns(record, messages))
    if isinstance(system := record.get("system"), str) and system.strip():
        if turns and turns[0].get("role") == "system":
            raise NoConversation("field 'system' and a system message; which one counts?")
        turns.insert(0, {"role": "system", "content": system})
    return checked(turns)


def recipe_fields(record: Record) -> dict[str, str]:
    """What a ChatSourceRecipe must say to read records such as this one: nothing where their form is seen.

    Raises NoConversation where no way to read it is known.
    """
    if _form_of(record) is not None:
        return {}
    for field in OTHER_LISTS:
        if isinstance(record.get(field), list):
            return {"messages": field}
    for user, assistant in OTHER_TURNS:
        if user in record and assistant in record:
            return {"user": f"{{{user}}}", "assistant": f"{{{assistant}}}"}
    known = "; ".join((KNOWN_FORMS, *OTHER_LISTS, *(" and ".join(turns) for turns in OTHER_TURNS)))
    raise NoConversation(f"none of {known}; fields: {names_said(record)}")


def checked(turns: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Turns reduced to what is kept of them. NoConversation names the first that is wrong, or says that no answer is to
    be learned."""
    kept = [_checked_turn(number, turn) for number, turn in enumerate(turns, start=1)]
    answers = [turn for turn in kept if turn["role"] == "assistant"]
    if not answers:
        raise NoConversation("no assistant message")
    if all("weight" in answer for answer in answers):
        raise NoConversation("no assistant message that is to be learned (weight 0, train false)")
    return kept


def is_learned(message: Mapping[str, Any]) -> bool:
    """Whether a kept message is one that the model learns to say."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0


def _turns(record: Record, messages: str) -> Iterator[dict[str, Any]]:
    """The turns as they are written, with `role` and `content` where they had other names for them."""
    if messages != MESSAGES:
        yield from _listed(record, messages)
        return
    if (turns_of := _form_of(record)) is None:
        filled = [name for name in record if record[name] is not None]
        raise NoConversation(f"none of the forms {KNOWN_FORMS}; fields: {names_said(filled)}")
    yield from turns_of(record)


def _form_of(record: Record) -> Callable[[Record], Iterator[dict[str, Any]]] | None:
    """The turns of the first form that the record has the fields of; None where it has those of none."""
    return next((turns for names, turns in _FORMS if all(record.get(name) is not None for name in names)), None)


def _listed(record: Record, field: str) -> Iterator[dict[str, Any]]:
    if field not in record:
        raise NoConversation(f"no field {field!r}; fields: {names_said(record)}")
    yield from _turn_list(record[field], field)


def _turn_list(value: Any, field: str) -> Iterator[dict[str, Any]]:
    if isinstance(value, str):
        value = _from_json(value, field)
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=False)]
    if not isinstance(value, list):
        raise NoConversation(f"field {field!r} is {type(value).__name__}, not a list of messages")
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise NoConversation(f"message {number} is {type(turn).__name__}, not an object with role and content")
        yield _renamed(turn)


def _is_list(text: str) -> bool:
    """Whether a text is a list of messages written as JSON, which no one says to a model."""
    try:
        turns = json.loads(text) if text.startswith("[{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(turns, list) and all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in turns)


def _from_json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoConversation(f"field {field!r} is a text that is no JSON list of messages") from None


def _renamed(turn: dict[str, Any]) -> dict[str, Any]:
    if "role" in turn or "from" not in turn:
        return turn
    renamed = {name: value for name, value in turn.items() if name not in ("from", "value")}
    role = turn["from"]
    return {
        **renamed,
        "role": OTHER_ROLES.get(role, role) if isinstance(role, str) else role,
        "content": turn.get("value"),
    }


def _prompt_and_completion(record: Record) -> Iterator[dict[str, Any]]:
    prompt, completion = record["prompt"], record["completion"]
    if isinstance(prompt, str) and isinstance(completion, str) and not (_is_list(prompt) and _is_list(completion)):
        yield {"role": "user", "content": prompt}
        yield {"role": "assistant", "content": completion}
        return
    for turn in _turn_list(prompt, "prompt"):
        yield {**turn, "weight": 0} if turn.get("role") == "assistant" else turn
    yield from _turn_list(completion, "completion")


def _instruction_and_output(record: Record) -> Iterator[dict[str, Any]]:
    asked = [record["instruction"], record.get("input") or ""]
    if not all(isinstance(text, str) for text in asked):
        raise NoConversation("fields 'instruction' and 'input' are not both texts")
    yield {"role": "user", "content": _JOINT.join(text for text in asked if text.strip())}
    yield {"role": "assistant", "content": record["output"]}


# The fields that a form is known by, and its turns; the first that a record has counts.
_FORMS: tuple[tuple[tuple[str, ...], Callable[[Record], Iterator[dict[str, Any]]]], ...] = (
    ((MESSAGES,), lambda record: _listed(record, MESSAGES)),
    ((SHAREGPT,), lambda record: _listed(record, SHAREGPT)),
    (("prompt", "completion"), _prompt_and_completion),
    (("instruction", "output"), _instruction_and_output),
)


def _checked_turn(number: int, turn: Mapping[str, Any]) -> Message:
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise NoConversation(f"message {number}: role {role!r:.40} is not one of {', '.join(ROLES)}")
    if refused := next((name for name in REFUSED_IN_TURNS if turn.get(name) not in NOTHING), None):
        raise NoConversation(f"message {number}: {refused} has no place in the chat template")
    if not isinstance(content, str) or not content.strip():
        raise NoConversation(f"message {number}: content is empty or not a string")
    kept: Message = {"role": role, "content": content}
    for name in ("weight", "train"):
        if (asked := turn.get(name)) is None:
            continue
        if asked not in (0, 1):
            raise NoConversation(f"message {number}: {name} {asked!r:.40} is neither 0 nor 1")
        if asked and role != "assistant":
            raise NoConversation(f"message {number}: {name} {asked!r} of a {role} turn; only answers are learned")
        if not asked and role == "assistant":
            kept["weight"] = 0
    return kept
