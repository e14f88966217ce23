"""Where a run on a worker works: in the folder that its worker was started in, as `athanor run` does in its own.

Prefect starts a flow in the run's working directory and puts that directory first on Python's path (PYTHONPATH, so
PYTHONSAFEPATH does not help): a `datasets.py` of the user's would be imported in place of the package. Our deployments
therefore name no directory. A run starts in the empty one that the worker made for it, the pull step notes the
worker's own, and the flow goes there once it has been imported. Nothing is ever imported from the user's folder.
"""

from __future__ import annotations

import os
from contextlib import suppress

import psutil
from prefect.logging import get_run_logger

from athanor.core.disk import home
from athanor.core.errors import UserError

NOTE = "ATHANOR_WORKER_FOLDER"  # the environment is all that Prefect hands from a pull step to the flow's process


def note_worker_folder() -> None:
    """Pull step: note the folder of the worker, which is the parent of the process that prepares a run.

    Where no parent is in sight, as in a container of its own, nothing is noted and the run stays where it is.
    """
    with suppress(psutil.Error):
        os.environ[NOTE] = psutil.Process(os.getppid()).cwd()


def enter_worker_folder() -> None:
    """In a run on a worker: go to the worker's folder and log it. Elsewhere: nothing. UserError if it is gone."""
    if (folder := os.environ.get(NOTE)) is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(f"the worker's folder {folder}: {error.strerror}; start the worker in another") from None
    get_run_logger().info("working in %s, where the worker was started; artifacts are kept in %s", folder, home())
