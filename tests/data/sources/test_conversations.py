"""Conversations in whatever form and container people have them: the same messages, or one reason why not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from athanor.core.errors import UserError
from athanor.data.data_recipe import ChatSourceRecipe
from athanor.data.documents import read_documents, write_documents
from athanor.data.sources.conversations import NoConversation, conversation, is_learned

TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
FORMS = {
    "messages": {"messages": TURNS},
    "conversations": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "prompt and completion": {"prompt": "2 + 2?", "completion": "4"},
    "lists of turns": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "4"},
    "alpaca without input": {"instruction": "2 + 2?", "output": "4"},
}
CONTAINERS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def write(file: Path, records: list[dict]) -> None:
    """The records in the container that the suffix names, with a column that is none of theirs."""
    records = [{"id": n, **record} for n, record in enumerate(records)]
    match file.suffix:
        case ".jsonl" | ".ndjson":
            file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        case ".json":
            file.write_text(json.dumps(records), encoding="utf-8")
        case ".parquet":
            parquet.write_table(pyarrow.Table.from_pylist(records), file)
        case _:
            with file.open("w", encoding="utf-8", newline="") as out:
                rows = csv.writer(out, delimiter="," if file.suffix == ".csv" else "\t")
                rows.writerow(records[0])
                rows.writerows(
                    [value if isinstance(value, str | int) else json.dumps(value) for value in record.values()]
                    for record in records
                )


def kept(recipe: ChatSourceRecipe, out: Path) -> list:
    write_documents(recipe, out)
    return [json.loads(document.text) for document in read_documents(out, "train")]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_seen_in_every_container(tmp_path, form, suffix):
    file = tmp_path / f"chat{suffix}"
    write(file, [FORMS[form], {**FORMS[form], "system": "Be brief."}])
    if suffix in (".csv", ".tsv", ".parquet"):
        write(file, [{**FORMS[form], "system": ""}, {**FORMS[form], "system": "Be brief."}])
    plain, led = kept(ChatSourceRecipe(path=str(file), held_out_fraction=0), tmp_path / "out")
    assert plain == TURNS
    assert led == [{"role": "system", "content": "Be brief."}, *TURNS]


def test_a_table_in_which_rows_have_different_forms_is_read(tmp_path):
    file = tmp_path / "chat.parquet"
    rows = [{"messages": None, **FORMS["alpaca"]}, {"messages": TURNS, "instruction": None, "output": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    assert kept(ChatSourceRecipe(path=str(file), held_out_fraction=0), tmp_path / "out") == [TURNS, TURNS]


def test_a_folder_may_hold_every_form(tmp_path):
    for n, form in enumerate(FORMS.values()):
        turned = json.loads(json.dumps(form).replace("2 + 2?", f"2 + {n}?"))
        write(tmp_path / f"{n}{CONTAINERS[n]}", [turned])
    found = kept(ChatSourceRecipe(path=str(tmp_path), held_out_fraction=0), tmp_path / "out")
    assert [turns[0]["content"] for turns in found] == [f"2 + {n}?" for n in range(len(FORMS))]


def test_a_field_that_is_named_is_the_only_one_that_is_read():
    record = {"talk": FORMS["conversations"]["conversations"], **FORMS["alpaca"]}
    assert conversation(record, "talk") == TURNS
    with pytest.raises(NoConversation, match="no field 'talk'; fields: 'instruction', 'input', 'output'"):
        conversation(FORMS["alpaca"], "talk")


def test_what_alpaca_gives_to_an_instruction_follows_it():
    turns = conversation({"instruction": "Add.", "input": "2, 2", "output": "4"}, "messages")
    assert turns[0]["content"] == "Add.\n\n2, 2"


def test_an_object_of_lists_is_a_list_of_messages():
    assert conversation({"messages": {"role": ["user", "assistant"], "content": ["2 + 2?", "4"]}}, "messages") == TURNS


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_an_answer_that_is_not_to_be_learned_is_marked_and_the_others_are_as_without_marks(mark):
    turns = [TURNS[0], {**TURNS[1], **mark}, TURNS[0], {**TURNS[1], "weight": 1, "train": True}]
    found = conversation({"messages": turns}, "messages")
    assert found == [TURNS[0], {**TURNS[1], "weight": 0}, *TURNS]
    assert [is_learned(turn) for turn in found] == [False, False, False, True]


def test_answers_in_a_prompt_are_not_learned():
    found = conversation({"prompt": [*TURNS, TURNS[0]], "completion": TURNS[1:]}, "messages")
    assert [is_learned(turn) for turn in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [{**TURNS[0], "weight": 1}, TURNS[1]]}, "message 1: weight 1 of a user turn; only answers"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 0.5}]}, "message 2: weight 0.5 is neither 0 nor 1"),
        ({"messages": [TURNS[0], {**TURNS[1], "train": False}]}, "no assistant message that is to be learned"),
        ({"messages": [TURNS[0], {**TURNS[1], "tool_calls": [{"id": "1"}]}]}, "message 2: tool_calls has no place"),
        (
            {"messages": [TURNS[0], {**TURNS[1], "reasoning_content": "hm"}]},
            "message 2: reasoning_content has",
        ),
        ({"messages": [{**TURNS[0], "name": "Ada"}, TURNS[1]]}, "message 1: name has no place"),
        ({"messages": TURNS, "tools": [{"type": "function"}]}, "field 'tools' has no place"),
        ({"messages": [{"role": "system", "content": "a"}, *TURNS], "system": "b"}, "field 'system' and a system"),
        (
            {"conversations": [{"from": "human", "value": "?"}, {"from": "tool", "value": "!"}]},
            "message 2: role 'tool'",
        ),
        ({"messages": "[{'role': 'user'}]"}, "field 'messages' is a text that is no JSON list"),
        ({"prompt": "2 + 2?", "answer": "4"}, "none of the forms messages; conversations; prompt and completion;"),
        ({"instruction": "a", "input": 3, "output": "b"}, "fields 'instruction' and 'input' are not both texts"),
        ({"prompt": "2 + 2?", "completion": None}, "none of the forms"),
    ],
)
def test_what_has_no_place_in_the_template_is_refused_by_name(record, reason):
    with pytest.raises(NoConversation) as caught:
        conversation(record, "messages")
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", [None, [], "", "[]"])
def test_a_field_that_holds_nothing_asks_for_nothing(nothing):
    turns = [{**turn, "tool_calls": nothing, "name": nothing, "weight": None} for turn in TURNS]
    assert conversation({"messages": turns, "tools": nothing, "system": None}, "messages") == TURNS


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_conversations_is_one_line_with_the_forms_there_are(tmp_path, suffix):
    file = tmp_path / f"chat{suffix}"
    write(file, [{"question": "2 + 2?", "answer": "4"}])
    with pytest.raises(UserError) as caught:
        write_documents(ChatSourceRecipe(path=str(file)), tmp_path / "out")
    assert str(caught.value) == (
        f"{file}: no column 'messages'; columns: id, question, answer; "
        "conversations are messages; conversations; prompt and completion; instruction and output"
    )
