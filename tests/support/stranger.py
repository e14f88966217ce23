"""The package as it is met by someone who does not work on it: a clone, a wheel, an environment that has the wheel.

Nothing here sees the checkout: the environment finds the dependencies where the running one has them, through a path
line (the `.pth` files over there, and so its editable finder, are not read), and `athanor` in the wheel alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PRIVATE = ("PYTHON", "ATHANOR", "PREFECT", "WANDB", "VIRTUAL_ENV", "HF_TOKEN")


def tracked_files() -> list[str]:
    """The files of a fresh clone, as paths below its root. Skips the test where there is no git checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def make_clone(folder: Path) -> Path:
    """Copy the tracked files, as they are now, to `folder`; returns it."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build_wheel(clone: Path, folder: Path) -> Path:
    """Build the wheel of a clone into `folder`; returns its path."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, clone], check=True, capture_output=True)
    (wheel,) = folder.glob("athanor-*.whl")
    return wheel


def make_environment(wheel: Path, folder: Path) -> Path:
    """Make an environment with the wheel installed and the running one's dependencies in sight; returns its bin."""
    venv.create(folder, with_pip=False)
    binaries = folder / "bin"
    install = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = (Path(sys.executable).parent / "prefect").read_text()
    (binaries / "prefect").write_text(f"#!{binaries / 'python'}\n{script.partition(chr(10))[2]}")
    (binaries / "prefect").chmod(0o755)
    return binaries


def clean_environment(binaries: Path, **variables: str) -> dict[str, str]:
    """Environment variables of a shell in which the environment is active, without any setting of this process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **variables}
