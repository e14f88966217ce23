"""The package as it is met by someone who does not work on it: a clone, a wheel, an environment that has the wheel, and
a folder full of traps.

Nothing here sees the checkout: the environment finds the dependencies where the running one has them, through a path
line (the `.pth` files over there, and so its editable finder, are not read), and `athanor` in the wheel alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TRAP_PACKAGES = ("data", "models", "tasks", "flows", "reports", "kernels", "core", "athanor", "wandb")
TRAP_MODULES = ("evaluate", "tokenizers", "torch", "prefect", "datasets", "yaml", "numpy", "safetensors", "lm_eval",
                "json", "random")  # fmt: skip
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


def program(command: str) -> str:
    """What a command line starts, behind its variables."""
    return next((word for word in command.split() if "=" not in word), "")


@dataclass
class Stranger:
    """Someone with an environment, a folder full of traps and a terminal in it."""

    binaries: Path
    folder: Path
    environment: dict[str, str]
    background: list[subprocess.Popen] = field(default_factory=list)

    def elsewhere(self, folder: Path, **variables: str) -> Stranger:
        """The same person in another folder full of traps, with other environment variables."""
        return Stranger(self.binaries, set_traps(folder), {**self.environment, **variables})

    def _words(self, command: str) -> tuple[list[str], dict[str, str]]:
        words = shlex.split(command)
        variables = dict(word.split("=", 1) for word in words[: words.index(program(command))])
        name, *arguments = words[len(variables) :]
        return [str(self.binaries / name), *arguments], {**self.environment, **variables}

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a command to its end and return what it printed; the test fails if it fails."""
        words, environment = self._words(command)
        done = subprocess.run(
            words, cwd=folder or self.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def start(self, command: str) -> None:
        """Start a command that stays; `stop` ends it."""
        words, environment = self._words(command)
        with open(self.folder.parent / f"{len(self.background)}.log", "wb") as log:
            process = subprocess.Popen(words, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.background.append(process)

    def stop(self) -> None:
        """End what was started, newest first, as Ctrl-C does."""
        for process in reversed(self.background):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def new_files(self) -> set[str]:
        """What lies in the folder beside the traps."""
        return {path.name for path in self.folder.iterdir()} - {*TRAP_PACKAGES, *(f"{m}.py" for m in TRAP_MODULES)}


def set_traps(folder: Path) -> Path:
    """Make a folder in which every import of a name of ours or of a dependency raises; returns it."""
    folder.mkdir(parents=True)
    traps = [folder / f"{name}.py" for name in TRAP_MODULES] + [folder / n / "__init__.py" for n in TRAP_PACKAGES]
    for trap in traps:
        trap.parent.mkdir(exist_ok=True)
        trap.write_text("raise RuntimeError(f'imported from the working directory: {__file__}')\n")
    return folder
