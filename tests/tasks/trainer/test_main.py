"""The command `python -m athanor.tasks.trainer`: what it says and the code it ends in."""

import errno
import signal

import pytest

from athanor.tasks.trainer.__main__ import main


@pytest.fixture
def restore_signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_command_says_a_mistake_in_one_line_on_stderr(tmp_path, capsys, restore_signals):
    assert main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{tmp_path}/run.json does not exist; give the folder of a run\n"


def test_the_command_names_the_disk_that_is_full(tmp_path, monkeypatch, capsys, restore_signals):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("athanor.tasks.trainer.run.train", full)
    assert main([str(tmp_path)]) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert str(tmp_path) in line


def test_the_command_raises_a_fault_of_the_code(tmp_path, monkeypatch, restore_signals):
    def broken(*arguments):
        raise ValueError("a fault of ours")

    monkeypatch.setattr("athanor.tasks.trainer.run.train", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        main([str(tmp_path)])
