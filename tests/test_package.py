"""What is installed: the whole package, nothing beside it, and modules that import without doing anything."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stranger import build_wheel, clean_environment, make_clone, tracked_files

ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")
INSTALLED = (".py", ".yaml", ".j2", "py.typed")


def test_the_wheel_holds_every_module_and_data_file_and_nothing_beside_the_package(tmp_path):
    wheel = build_wheel(make_clone(tmp_path / "clone"), tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if not name.startswith("athanor-0.")}
    expected = {name for name in tracked_files() if name.startswith(tuple(f"{room}/" for room in ROOMS))}
    assert package == {f"athanor/{name}" for name in expected if name.endswith(INSTALLED)}
    (tops,) = [name for name in names if name.endswith("top_level.txt")]
    assert zipfile.ZipFile(wheel).read(tops).split() == [b"athanor"]


IMPORT_ALL = """
import importlib, json, os, sys, threading
import matplotlib, prefect, psutil, torch  # theirs may start threads and write caches
before, folder = threading.active_count(), os.getcwd()
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)
print(json.dumps({
    "failed": failed, "threads": threading.active_count() - before, "files": os.listdir(folder),
    "devices": torch.cuda.is_initialized(), "folder": os.getcwd() == folder,
    "children": len(psutil.Process().children()),
}))
"""


@pytest.mark.slow
def test_every_module_imports_and_does_no_work_in_being_imported(tmp_path):
    modules = [
        "athanor." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in tracked_files()
        if name.startswith(tuple(f"{room}/" for room in ROOMS)) and name.endswith(".py")
    ]
    modules = [name for name in modules if not name.endswith("__main__")]
    environment = clean_environment(Path(sys.executable).parent, HOME=str(tmp_path / "home"))
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [sys.executable, "-P", "-c", IMPORT_ALL, json.dumps(modules)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"failed": {}, "threads": 0, "files": [], "devices": False, "folder": True, "children": 0}
