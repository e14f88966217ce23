"""Fixtures shared by all tests: where reference numbers and real data live, and a private Athanor home."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # on a busy machine

if not Path("/dev/nvidiactl").exists():  # before a kernel is imported; only `interpreted()` makes use of it
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable, ROOT.parent / "shared" / default))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are left out where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


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


@pytest.fixture
def logged_run(private_home, step_values) -> Callable[..., Path]:
    """Write the folder of a run that has logged `losses` and is not published; returns it."""
    from athanor.tasks.trainer.records.ledger import Ledger
    from athanor.tasks.trainer.records.metrics import MetricsLog

    def write(digit: str, losses: list[float], stage: str = "pretrain", family: str = "vanilla", steps: int = 1000):
        folder = private_home / "store" / stage / f".{family}-{digit * 12}.partial"
        folder.mkdir(parents=True)
        model = {"family": family, "vocab_size": 64, "d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1}
        model |= {"head_dim": 8, "d_ff": 16, "max_seq_len": 16}
        spec = {"objective": stage, "key": digit * 64, "train": {"steps": steps}, "model": model, "mixture": None}
        (folder / "run.json").write_text(json.dumps(spec))
        ledger = Ledger(folder, "first", devices=1, price_usd_per_hour=3.6)
        ledger.tick(force=True)
        log = MetricsLog(folder, 0, "first", [])
        for step, loss in enumerate(losses, 1):
            log.step(step, **step_values(step, loss))
            if step % 5 == 0:
                log.evaluation(step, {"math": {"loss": loss, "bits_per_byte": loss / 2, "tokens": 64}})
        log.close()
        ledger.close()
        return folder

    return write


@pytest.fixture
def step_values() -> Callable[[int, float], dict]:
    """The fields of a step row, of its step and its loss."""
    return lambda step, loss: {
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens": 256 * step,
        "mix": {"math": 3, "code": 1},
        "schedule": {"tau": 1 - step / 1000},
        "aux": {"ponder": 0.01 * step, "mor_depth": 1.5},
        "cost_usd": 0.001 * step,
        "tokens_per_s": 1000.0,
        "flops_per_s": 1e9,
        "utilisation": 0.25,
        "step_s": 0.256,
        "eta_s": 10.0,
    }
