"""The command line teaches, and fails in one line. What it loads before it answers: test_start.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from athanor.core.errors import UserError
from athanor.flows.cli import run_flow
from athanor.flows.cli.main import main

ATHANOR = str(Path(sys.executable).with_name("athanor"))


def athanor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ATHANOR, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "did you mean quickstart"),
        (["run", "quickstart", "--set", "pretrain.steps=0"], "pretrain.steps=0: input should be greater than"),
        (["presets", "mine.yaml"], "preset file mine.yaml: No such file"),
        (["show", "nothing"], "no artifact matches 'nothing'"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(arguments, message):
    done = athanor(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_the_version_is_that_of_the_package():
    assert athanor("--version").stdout == f"athanor {version('athanor')}\n"


@pytest.mark.parametrize("command", ["run", "plan", "presets", "twin"])
def test_the_shell_completes_the_names_of_presets(command, monkeypatch):
    monkeypatch.setenv("_ATHANOR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"athanor {command} quickstart-h")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert athanor().stdout.split() == ["quickstart-huginn", "quickstart-hydra"]
    monkeypatch.setenv("COMP_WORDS", f"athanor {command} mine.y")
    assert athanor().stdout.split() == [], "the shell completes files of its own accord"


def test_presets_lists_what_comes_with_athanor():
    done = athanor("presets")
    assert "10,239,868,928" in done.stdout and "quickstart-hydra" in done.stdout


def test_a_printed_preset_is_a_file_that_runs(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(athanor("presets", "quickstart", "--set", "pretrain.steps=900").stdout)
    assert "steps: 900" in athanor("presets", str(file)).stdout


def test_an_empty_store_says_what_to_do():
    assert "try `athanor run quickstart`" in athanor("artifacts").stdout
    assert athanor("artifacts", "--json").stdout == ""


def test_artifacts_and_show_name_a_torn_one(private_home):
    folder = private_home / "store" / "toy" / "x-0123456789ab"
    folder.mkdir(parents=True)
    assert json.loads(athanor("artifacts", "--json").stdout)["problem"] == "manifest.json is missing"
    assert "is torn: manifest.json is missing" in athanor("show", "toy/x").stderr


@pytest.mark.parametrize("becomes", [KeyboardInterrupt, ValueError, UserError])
def test_a_ctrl_c_is_one_line_whatever_libraries_make_of_it(monkeypatch, capsys, becomes):
    def run(*arguments, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise becomes from error

    monkeypatch.setattr(run_flow, "run_flow", run)
    monkeypatch.setattr(sys, "argv", ["athanor", "run", "quickstart"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "athanor: interrupted; the same command continues where it stopped\n"
