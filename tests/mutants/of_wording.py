"""Mutants of what a person reads: answers to mistakes, the report's samples and legends, Weights & Biases."""

from mutant import Mutant

_CLI = ("tests/flows/cli/test_mistakes.py",)
_WANDB = ("tests/tasks/trainer/test_wandb_run.py", "tests/tasks/trainer/observers/test_wandb_sink.py")
_CARD = ("tests/reports/test_card.py",)

MUTANTS = [
    Mutant("core/near.py", "name.lower(): name", "name: name", "names in any case", ("tests/core/test_near.py",)),
    Mutant("core/near.py", "_ALIKE = 0.7", "_ALIKE = 0.6", "no likeness too far", ("tests/core/test_near.py",)),
    Mutant("flows/presets/wording.py", "for problem in unknown]", "for problem in unknown[:1]]", "all unknown", _CLI),
    Mutant("flows/presets/wording.py", "[_missing(missing)]", "[_missing(missing[:1])]", "all missing", _CLI),
    Mutant("flows/presets/wording.py", "for problem in wrong]", "for problem in wrong[:1]]", "all that is wrong", _CLI),
    Mutant("flows/presets/preset.py", "if key.value in (before", "if () in (before", "a key stands there once", _CLI),
    Mutant("flows/cli/usage.py", "; got {given!r}", "", "a wrong number is named", _CLI),
    Mutant("reports/sections.py", "zip_longest(*by_model.values())", "by_model.values()", "the models in turn", _CARD),
    Mutant("reports/sections.py", "meanings.get(key, UNKNOWN)", "UNKNOWN", "what a value means", _CARD),
    Mutant("reports/canvas.py", "fill(label, LABEL_CHARACTERS)", "label[:LABEL_CHARACTERS]", "whole names in a legend",
           ("tests/reports/test_figures.py",)),
    Mutant("tasks/trainer/wandb_run.py", 'return begin("offline")', "raise", "kept offline", _WANDB),
    Mutant(
        "tasks/trainer/wandb_run.py",
        "wandb.teardown()  # or",
        "pass  # or",
        "nothing is written into a report that is published",
        _WANDB,
    ),
    Mutant(
        "tasks/trainer/wandb_run.py",
        "wandb.teardown()  # the attempt",
        "pass  # the attempt",
        "the failed attempt lets go of the id",
        _WANDB,
    ),
    Mutant("tasks/trainer/wandb_run.py", '.glob("map-*.png")', '.glob("no.png")', "the maps are sent", _WANDB),
]  # fmt: skip
