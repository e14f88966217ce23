"""Loaded by every Python process that finds this folder on its path: plants one fault into one rank.

FAULT is `RANK PLACE ERROR`: where the rank fails once two steps are done, and the name of an errno, or `bug`.
"""

import errno
import os


def fail(error):
    if error == "bug":
        raise KeyError("router")
    raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)), "planted")


def install(place, error):
    import athanor.tasks.trainer.records.checkpoint as checkpoint
    from athanor.data.loader import MixtureLoader
    from athanor.tasks.trainer.engines.engine import Engine
    from athanor.tasks.trainer.records.journal import Journal

    if place == "read":
        read = MixtureLoader.batch
        MixtureLoader.batch = lambda self, step, slots: fail(error) if step == 2 else read(self, step, slots)
    elif place == "tensors":
        checkpoint.HuggingFaceStorageWriter.write_data = lambda *arguments: fail(error)
    elif place == "sync":
        checkpoint.fsync_path = lambda path: fail(error)
    elif place == "state":
        checkpoint._random_state = lambda: fail(error)
    elif place == "journal":
        write = Journal.step
        Journal.step = lambda self, step, **row: fail(error) if step == 3 else write(self, step, **row)
    elif place == "update":
        Engine.update = lambda self, lr: fail(error)


if "FAULT" in os.environ and os.environ.get("RANK") == os.environ["FAULT"].split()[0]:
    install(*os.environ["FAULT"].split()[1:])
