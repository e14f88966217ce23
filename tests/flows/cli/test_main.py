"""The command line answers at once, teaches, and fails in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ATHANOR = str(Path(sys.executable).with_name("athanor"))


def athanor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ATHANOR, *arguments], capture_output=True, text=True, timeout=120)


def test_help_loads_no_heavy_package():
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "athanor.flows.cli.main", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "raw text" in loaded.stdout
    for package in ("torch", "prefect", "lm_eval", "matplotlib", "datasets"):
        assert f"| {package}\n" not in loaded.stderr


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


def test_presets_lists_what_comes_with_athanor():
    done = athanor("presets")
    assert "597,153,888" in done.stdout and "quickstart" in done.stdout


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
