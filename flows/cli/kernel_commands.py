"""The command `athanor kernels`. Heavy packages are imported inside it, as in flows/cli/main.py."""

from __future__ import annotations

import typer

from athanor.flows.cli.tables import print_table, table

app = typer.Typer()


@app.command()
def kernels() -> None:
    """List the Triton kernels, and for each what would run here, as the arguments of a real preset, and why.

    The reference is the same op in plain torch. ATHANOR_KERNELS in the
    environment, or a preset's `runtime: {kernels: ...}`, leaves some out:
    all, none, or names with commas between them.
    """
    import torch

    from athanor.core.runtime import Runtime
    from athanor.kernels.kind import KERNELS, choice
    from athanor.models.device import choose_device, choose_precision, set_up

    set_up(Runtime())
    dtype = choose_precision("auto", device := choose_device("auto"))
    listing = table("kernel", "here", prose="what it is")
    for kernel in KERNELS.records():
        chosen = {choice(kernel, *example.make(torch.device("meta"), dtype), on=device) for example in kernel.examples}
        listing.add_row(kernel.name, "; ".join(sorted(chosen)), kernel.what)
    print_table(listing)
