"""A run on a worker works in the worker's folder; tests/test_front_page.py has a real one do so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from athanor.core.errors import UserError
from athanor.flows.server.worker_folder import NOTE, enter_worker_folder

PULL = f"from athanor.flows.server.worker_folder import *; import os; note_worker_folder(); print(os.environ['{NOTE}'])"


def test_the_pull_step_notes_the_folder_of_the_process_that_started_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    noted = subprocess.run([sys.executable, "-P", "-c", PULL], cwd="temporary", capture_output=True, text=True)
    assert noted.stdout.strip() == str(tmp_path.resolve()), noted.stderr


def test_the_flow_goes_to_the_noted_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv(NOTE, str(tmp_path))
    with disable_run_logger():
        enter_worker_folder()
    assert Path.cwd() == tmp_path.resolve()


def test_without_a_worker_the_flow_stays_where_it_is(monkeypatch):
    monkeypatch.delenv(NOTE, raising=False)
    before = os.getcwd()
    enter_worker_folder()
    assert os.getcwd() == before


def test_a_worker_whose_folder_is_gone_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv(NOTE, str(tmp_path / "gone"))
    with pytest.raises(UserError, match="gone: No such file or directory; start the worker in another"):
        enter_worker_folder()
