"""The first instant of the command, before anything else is imported.

An empty entry of PYTHONPATH (a colon at its beginning or end) puts the working directory before the standard library,
so that a `json.py` of the user's would be imported for Python's; nobody means that, here or in the processes that are
started from here. And a Ctrl-C while packages are imported is the same one line that it is later.
"""

import os
import sys


def main() -> None:
    """Entry point of `athanor`."""
    _drop_empty_paths()
    import signal

    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # else it was asked to ignore it
        signal.signal(signal.SIGINT, lambda *_: _interrupted())
    from athanor.flows.cli.main import main as command

    signal.signal(signal.SIGINT, interrupt)
    command()


def _drop_empty_paths() -> None:
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [entry for entry in entries if entry]
    if len(named) == len(entries):
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(named)
    here = os.getcwd()
    if here not in map(os.path.abspath, named):
        sys.path[:] = [path for path in sys.path if path and path != here]


def _interrupted() -> None:
    os.write(2, b"athanor: interrupted; nothing was begun\n")
    os._exit(130)


if __name__ == "__main__":
    main()
