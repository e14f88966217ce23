"""Mutants of the forms of conversations."""

from mutant import Mutant

HELD_BY = ("tests/data/sources/test_conversations.py", "tests/data/test_chatml.py")
CHANGES = (
    ('message["role"] == "assistant" and message.get("weight", 1) != 0', "True", "only what answers say is learned"),
    ('kept["weight"] = 0', "pass", "an answer of weight 0 is marked"),
    ('yield {**turn, "weight": 0} if', "yield turn if", "answers in a prompt are not learned"),
    ("if turn.get(name) not in NOTHING", "if False", "what the template has no place for is refused"),
    ("if record.get(name) not in NOTHING", "if False", "tools are refused"),
    ('turns.insert(0, {"role": "system"', 'turns.append({"role": "system"', "a system text begins a conversation"),
    ("OTHER_ROLES.get(role, role)", "role", "human and gpt are roles"),
    ("not (_is_list(prompt) and _is_list(completion))", "True", "lists of turns in a table without lists"),
    ("if asked and role", "if False and role", "a user's turn that is to be learned is refused"),
    ("record.get(name) is not None for name in names", "name in record for name in names", "an empty form is none"),
)
GIVEN = ("tests/flows/fitting/test_given.py",)
NAMED = (
    ("if _form_of(record) is not None:", "if False:", "a form that is seen needs no naming, and is read whole"),
    ('return {"messages": field}', "return {}", "a list that a recipe must name"),
)
MUTANTS = [
    *(Mutant("data/sources/conversations.py", old, new, mechanism, HELD_BY) for old, new, mechanism in CHANGES),
    *(Mutant("data/sources/conversations.py", old, new, mechanism, GIVEN) for old, new, mechanism in NAMED),
]
