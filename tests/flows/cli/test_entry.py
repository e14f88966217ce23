"""The command's first instant: a hostile working directory is not imported from, and Ctrl-C is one line at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import pytest

ATHANOR = [sys.executable, "-P", "-m", "athanor.flows.cli.entry"]
SHADOWING = ("json", "data", "core", "models", "flows", "queue", "random", "torch", "yaml", "typer")
SLOW = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "athanor.flows.cli.main":
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from athanor.flows.cli.entry import main
main()
"""


@pytest.fixture
def hostile(tmp_path):
    for name in SHADOWING:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported from the working directory')")
    return tmp_path


@pytest.mark.parametrize("paths", ["", ":", ":/nowhere", "/nowhere:", "/nowhere::/elsewhere"])
def test_an_empty_entry_of_pythonpath_does_not_import_from_the_working_directory(hostile, paths):
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([*ATHANOR, "presets"], cwd=hostile, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_pythonpath_names_stays_there_for_the_command_and_what_it_starts(tmp_path):
    code = "import os, sys; from athanor.flows.cli import entry; entry._drop_empty_paths(); "
    code += "print(sys.path.count(os.getcwd()), os.environ['PYTHONPATH'])"
    environment = os.environ | {"PYTHONPATH": f":{tmp_path}:"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    count, left = done.stdout.split()
    assert int(count) >= 1 and left == str(tmp_path)


def test_ctrl_c_while_packages_are_imported_is_one_line():
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore Ctrl-C
    command = [sys.executable, "-c", SLOW, "presets"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    assert process.stdout is not None and process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said.decode()) == (130, "athanor: interrupted; nothing was begun\n")
