"""`athanor kernels` says what would run here and why, and refuses a wrong switch."""

from typer.testing import CliRunner

from athanor.core.errors import UserError
from athanor.flows.cli.main import app
from athanor.kernels.kind import KERNELS, switch


def listed(monkeypatch, names=None):
    if names is not None:
        monkeypatch.setenv("ATHANOR_KERNELS", names)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    try:
        return CliRunner().invoke(app, ["kernels"])
    finally:
        switch("all")


def test_every_kernel_has_a_line_with_the_reason(monkeypatch):
    _, *lines = listed(monkeypatch).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(KERNELS)
    for line, kernel in zip(lines, KERNELS.records(), strict=True):
        assert "reference: Triton compiles nothing for a CPU" in line
        assert kernel.what in line


def test_the_environments_switch_is_the_reason_where_it_is_off(monkeypatch):
    for line in listed(monkeypatch, "swiglu").stdout.splitlines()[1:]:
        assert ("reference: switched off" in line) is not line.startswith("swiglu")


def test_a_wrong_switch_is_one_line(monkeypatch):
    error = listed(monkeypatch, "swigl").exception
    assert isinstance(error, UserError)
    assert str(error).startswith("ATHANOR_KERNELS=swigl: no kernel 'swigl': did you mean swiglu?")
