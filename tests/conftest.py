"""Fixtures shared by all tests: where reference numbers and real data live, and a private Athanor home."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable, ROOT.parent / "shared" / default))


@pytest.fixture
def oracle_path():
    """Path of a reference file by name; skips where the folder is absent."""

    def find(name: str) -> Path:
        path = _folder("ATHANOR_ORACLES", "oracles") / name
        if not path.exists():
            pytest.skip(f"no reference numbers at {path}; set ATHANOR_ORACLES")
        return path

    return find


@pytest.fixture
def test_data_path():
    """Path of a real data file by name; skips where the folder is absent."""

    def find(name: str) -> Path:
        path = _folder("ATHANOR_TEST_DATA", "data") / name
        if not path.exists():
            pytest.skip(f"no test data at {path}; set ATHANOR_TEST_DATA")
        return path

    return find


@pytest.fixture(autouse=True)
def private_home(tmp_path, monkeypatch) -> Path:
    """Every test has an Athanor home of its own and never logs to wandb online."""
    home = tmp_path / "home"
    monkeypatch.setenv("ATHANOR_HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return home
