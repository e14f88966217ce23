"""The commands of `athanor` that look up training data: which documents a step read.

Heavy packages are imported inside the commands, as in flows/cli/main.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from athanor.core.errors import UserError
from athanor.flows.cli.completing import runs_beginning

app = typer.Typer()
BEGINNING_TOKENS = 48


@app.command()
def documents(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A pretrain or sft artifact, finished or not (a prefix will do), or a folder",
            autocompletion=runs_beginning,
        ),
    ],
    step: Annotated[int, typer.Argument(metavar="STEP", help="As logged: 1 is the first optimizer step")],
    text: Annotated[bool, typer.Option("--text", help="Also print how each row begins")] = False,
) -> None:
    """Print what each row of an optimizer step read: source, epoch, window, documents, tokens.

    Documents are numbered from 0 in the order of the source's training documents; tokens START:STOP are positions in
    its token shards. Nothing is looked up in a log: the data order is a function of the run's description.
    """
    from athanor.data.tokenizer import load_tokenizer
    from athanor.tasks.trainer.start import read_spec
    from athanor.tasks.trainer.step.batches import build_loader

    spec = read_spec(_run_folder(run))
    if not 1 <= step <= spec.train.steps:
        raise UserError(f"step {step}: the run has steps 1 to {spec.train.steps}")
    loader = build_loader(spec)
    slots = range(loader.batch_rows(step - 1))
    tokenizer = load_tokenizer(Path(spec.tokenizer_dir)) if text else None
    width = max(len("source"), *map(len, loader.counts(step - 1)))
    line = f"{{:>6}}  {{:{width}}}  {{:>5}}  {{:>9}}  {{:>21}}  {{}}"
    print(line.format("slot", "source", "epoch", "window", "documents", "tokens"))
    for slot in slots:
        sample = loader.describe(step - 1, slot)
        place = (slot, sample.source, sample.epoch, sample.window)
        for (start, stop), (first, last) in zip(sample.tokens, sample.documents, strict=True):
            print(line.format(*place, str(first) if first == last else f"{first}-{last}", f"{start}:{stop}"))
            place = ("", "", "", "")
        if tokenizer is not None:
            ids = loader.batch(step - 1, [slot]).ids_BT[0, :BEGINNING_TOKENS].tolist()
            print(f"        {tokenizer.decode(ids)!r}")


def _run_folder(text: str) -> Path:
    """The folder of a run that `text` means: itself, an artifact, or one being built. UserError if there is none."""
    from athanor.core.store import Store

    if (folder := Path(text)).is_dir():
        return folder
    store = Store()
    found = store.find_or_begun(text)
    return found.path if found.path.is_dir() else store.partial_path(found)
