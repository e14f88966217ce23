"""The command `athanor tasks`. Heavy packages are imported inside it, as in flows/cli/main.py."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from athanor.core.errors import UserError
from athanor.flows.cli.tables import print_table, table

app = typer.Typer()


@app.command()
def tasks(
    word: Annotated[
        str | None, typer.Argument(metavar="[WORD]", help="Only what has this in its name: math, gsm8k, mmlu")
    ] = None,
) -> None:
    """List what a model can be evaluated on: our own tasks, and lm-eval's that have WORD in their name.

    Put one into a preset under a label of your choice:

    evaluate: {tasks: {sums: {name: gsm8k, limit: 200}}}

    A group is evaluated with all of its tasks, a tag with all that bear it.
    `name` may also be the path of an lm-eval task file (.yaml) of your own.
    Most of lm-eval's data come from the Hugging Face hub; `path` gives a file
    instead.
    """
    from athanor.tasks.benchmarks.index import definitions, lm_eval_tasks
    from athanor.tasks.benchmarks.local import local_names, what_it_is

    defined, root, wanted = definitions(), lm_eval_tasks(), (word or "").lower()
    local = table("task", prose="what it is")
    for name in local_names():
        if wanted in name:
            local.add_row(name, what_it_is(name))
    if local.row_count:
        print_table(local)
    if word is None:
        folders = Counter(found[0].file.relative_to(root).parts[0] for found in defined.values())
        print(f"\nlm-eval has {len(defined):,} more in {len(folders)} folders: athanor tasks WORD")
        return
    listing = table("lm-eval's", "kind", "folder")
    for name in sorted(name for name in defined if wanted in name.lower()):
        first = defined[name][0]
        kinds = ", ".join(sorted({one.kind for one in defined[name]}))
        listing.add_row(name, kinds, first.file.parent.relative_to(root).as_posix())
    if not local.row_count and not listing.row_count:
        raise UserError(f"no task has {word!r} in its name; give a part of one, such as math, or none to see ours")
    if listing.row_count:
        print_table(listing)
