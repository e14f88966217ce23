"""The commands of `athanor` that remove what the store holds and open what lies in it.

Heavy packages are imported inside the commands, as in flows/cli/main.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.core.errors import UserError
from athanor.core.run_files import SPEC
from athanor.flows.cli.browser import open_page
from athanor.flows.cli.completing import removable_beginning

if TYPE_CHECKING:
    from athanor.core.store import Artifact, Store

app = typer.Typer()
ANSWER_S = 3.0  # a server that is there has answered by then
DEFAULT_API = "http://127.0.0.1:4200/api"


class Opened(StrEnum):
    """What can be opened."""

    report = "report"
    ui = "ui"


@app.command()
def rm(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="As `artifacts` and `runs list` print them; a prefix will do",
            autocompletion=removable_beginning,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Remove artifacts, and runs that were begun and not finished; says first how large they are, and asks.

    What was made from them stays and remains valid. A run that needs them
    again builds them again, to the same bytes. What is being built, or read by
    a training that goes on, is not removed.

    athanor rm sft/vanilla-0a1b2c3d4e5f evaluate/word-problems-base
    """
    from athanor.core.numbers import size
    from athanor.core.store import Store

    store = Store()
    found = list({artifact.name: artifact for artifact in map(store.find_or_begun, names)}.values())
    at_work = _at_work(store)
    for artifact in found:
        _refuse_in_use(store, artifact, at_work)
    for artifact in found:
        print(f"{artifact.name}: {size(sum(map(_bytes_below, _folders(store, artifact))))}")
    for artifact in store.made_from(found):
        print(f"    made from it, and stays: {artifact.name}")
    for builder in at_work:
        print(f"{builder.name} is being built: the run it belongs to fails if it still needs what is removed")
    if not yes and not typer.confirm(f"Remove {len(found)} artifact{'s' * (len(found) > 1)}?"):
        return
    for artifact in found:
        with store.lock(artifact, _busy):
            store.remove(artifact)
            shutil.rmtree(store.partial_path(artifact), ignore_errors=True)
        print(f"removed {artifact.name}")


@app.command("open")
def open_(
    what: Annotated[Opened, typer.Argument(help="The newest report, or Prefect's own pages")] = Opened.report,
) -> None:
    """Open the newest report, or the Prefect UI, in the browser.

    The UI is that of the server in PREFECT_API_URL, else of the one that
    `prefect server start` starts here.
    """
    url = _newest_report().as_uri() if what is Opened.report else _answering_ui()
    open_page(url)


def _newest_report() -> Path:
    """UserError where there is none."""
    from athanor.core.store import Store

    store = Store()
    reports = [a for a in store.artifacts() if a.stage == "report" and store.problem(a) is None]
    if not reports:
        raise UserError(f"the store {store.root} holds no report: `athanor run quickstart` makes one")
    return max(reports, key=lambda report: report.manifest["created"]).file("report.html").resolve()


def _answering_ui() -> str:
    """The address of the UI. UserError where no server answers."""
    import httpx
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

    api = PREFECT_API_URL.value() or DEFAULT_API
    try:
        httpx.get(f"{api}/health", timeout=ANSWER_S).raise_for_status()
    except httpx.HTTPError:
        raise UserError(
            f"no Prefect server answers at {api}: start one with `prefect server start`, and set "
            f"PREFECT_API_URL={DEFAULT_API} where `athanor run` is to use it"
        ) from None
    return PREFECT_UI_URL.value() or api.removesuffix("/api")


def _at_work(store: Store) -> list[Artifact]:
    """What is being built by a process that lives."""
    building: list[Artifact] = []
    for begun in store.begun():
        try:
            with store.lock(begun, _busy):
                pass
        except UserError:
            building.append(begun)
    return building


def _busy() -> None:
    raise UserError("it is being built: stop that run first, or wait for its end")


def _refuse_in_use(store: Store, artifact: Artifact, at_work: Collection[Artifact]) -> None:
    """UserError for what is being built, and for what a training at work reads."""
    for builder in at_work:
        spec = store.partial_path(builder) / SPEC
        if builder.name == artifact.name:
            raise UserError(f"{artifact.name} is being built: stop that run first, or wait for its end")
        if spec.is_file() and str(artifact.path) in spec.read_text(encoding="utf-8"):
            raise UserError(f"{artifact.name} is read by {builder.name}, which is being trained: wait for its end")


def _folders(store: Store, artifact: Artifact) -> Collection[Path]:
    return [folder for folder in (artifact.path, store.partial_path(artifact)) if folder.is_dir()]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
