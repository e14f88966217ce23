"""A run at Weights & Biases for each training run here, which its training and the report on it write to.

It is online where that is asked for and can be had; else it is kept offline, in the same form, for `wandb sync`.
Its id is made once and lies in the training run's folder. Nothing that fails here stops anything: it is said.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.disk import write_json
from athanor.core.run_files import SPEC, WANDB_ID
from athanor.core.runtime import Runtime
from athanor.core.store import Artifact
from athanor.core.text import one_line
from athanor.tasks.trainer.train_recipe import RunSpec

if TYPE_CHECKING:
    from wandb import Run

PATIENCE_S = 20.0  # for the network, when starting and when finishing


def open_run(spec: RunSpec, runtime: Runtime, training: Path, folder: Path, say: Callable[[str], None]) -> Run:
    """The run of the training in the folder `training`, whose new files go into `folder`/wandb; finish it.

    Where it was to be online and cannot be, it is kept offline, and `say` hears how to send it.
    """
    import wandb

    mode: Any = runtime.wandb
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"

    def begin(mode: Any) -> Run:
        run = wandb.init(
            project=spec.project,
            name=spec.run_name,
            id=_run_id(training),
            resume="allow",
            mode=mode,
            dir=folder,
            config=spec.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True, init_timeout=PATIENCE_S, finish_timeout=PATIENCE_S),
        )
        run.define_metric("*", step_metric="step")
        return run

    try:
        return begin(mode)
    except Exception as error:
        if mode != "online":
            raise
        wandb.teardown()  # the attempt still holds the id
        say(f"wandb is kept offline: {one_line(str(error), 120)}; send it later with: {sync_command(folder)}")
        return begin("offline")


def sync_command(folder: Path) -> str:
    """What sends the offline runs of a folder of the store, which has its last name when it is whole."""
    whole = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    return f"wandb sync {whole}/wandb/offline-run-*"


def add_report(report: Path, model: Artifact, results: Mapping[str, Any], runtime: Runtime, say: Callable[[str], None]):
    """Put what is known at the end into a training's run: scores, the maps among the figures of `report`, and its page.

    `results`: benchmark -> its `result.json`. Nothing for a training that told Weights & Biases nothing.
    """
    if runtime.wandb == "off" or not (model.path / WANDB_ID).exists():
        return
    import wandb

    try:
        spec = RunSpec.model_validate_json((model.path / SPEC).read_text(encoding="utf-8"))
        run = open_run(spec, runtime, model.path, report, say)
        for label, result in results.items():
            for metric, measured in result["metrics"].items():
                scores = {name: measured[name] for name in ("value", "ci_low", "ci_high", "n")}
                run.summary.update({f"benchmarks/{label}/{metric}/{name}": value for name, value in scores.items()})
        for figure in sorted((report / "figures").glob("map-*.png")):
            run.summary[f"report/{figure.stem}"] = wandb.Image(str(figure))
        run.summary["report/page"] = wandb.Html((report / "report.html").read_text(encoding="utf-8"), inject=False)
        run.finish()
    except Exception as error:
        say(f"wandb does not have this report: {type(error).__name__}: {one_line(str(error), 120)}")
    finally:
        wandb.teardown()  # or its service would write more into its logs, which are part of what is published


def _run_id(training: Path) -> str:
    path = training / WANDB_ID
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    return json.loads(path.read_text(encoding="utf-8"))["id"]
