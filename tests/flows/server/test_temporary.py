"""The temporary Prefect server: it starts beside its command, answers or is missed, and never outlives it."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import psutil
import pytest
from prefect.server.utilities.messaging import memory

from athanor.core.errors import UserError
from athanor.flows.server import temporary
from athanor.flows.server.temporary import HOST, TemporaryServer


@pytest.fixture
def private_prefect(tmp_path, monkeypatch):
    """A Prefect home of its own."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.mark.slow
def test_it_answers_without_block_types_until_it_is_stopped(private_prefect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uvicorn.py").write_text("raise RuntimeError('imported from the folder it was started in')")
    server = TemporaryServer()
    try:
        url = server.wait()
        assert url is not None
        assert httpx.post(f"{url}/block_types/filter", json={}, timeout=60).json() == []
        port = int(url.split(":")[2].split("/")[0])
    finally:
        server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0
    server.stop()  # what is registered for the exit may come second


def test_a_server_that_cannot_start_is_told_at_once_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    server = TemporaryServer()
    with pytest.raises(UserError, match="set PREFECT_API_URL"):
        server.wait()
    server.stop()


def test_its_last_words_are_in_that_line_and_nothing_else_is_shown(private_prefect, tmp_path, monkeypatch, capfd):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").mkdir()
    server = TemporaryServer()
    with pytest.raises(UserError, match=r"did not start \(.*unable to open database file.*PREFECT_HOME can change"):
        server.wait()
    server.stop()
    assert capfd.readouterr().err == ""


def test_a_prefect_home_that_cannot_be_written_to_is_refused_before_anything_starts(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    with pytest.raises(UserError, match=r"PREFECT_HOME=.*/file/prefect cannot be written to \(Not a directory\)"):
        TemporaryServer()


STARTS_ONE = """
import time
from athanor.flows.server.temporary import TemporaryServer
print(TemporaryServer()._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_a_command_that_is_killed_while_it_starts(private_prefect, how):
    command = subprocess.Popen([sys.executable, "-c", STARTS_ONE], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    server = psutil.Process(int(command.stdout.readline()))
    command.send_signal(how)
    command.wait()
    command.stdout.close()
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_events_that_still_wait_are_handled_before_its_services_stop(monkeypatch):
    depth = {"published": 3, "consumed": 2, "retried": 0}
    monkeypatch.setattr(memory, "METRICS", {"events": depth})
    monkeypatch.setattr(temporary, "DRAIN_PATIENCE_S", 600.0)
    handled_at_the_end = []

    @asynccontextmanager
    async def services(app):
        yield
        handled_at_the_end.append(depth["consumed"])

    async def shut_down() -> None:
        async with temporary._drained(services)(None):
            asyncio.get_running_loop().call_later(0.05, lambda: depth.update(consumed=3))

    asyncio.run(shut_down())
    assert handled_at_the_end == [3]


def test_the_application_that_is_served_is_so_drained(monkeypatch):
    monkeypatch.setattr(temporary, "_drained", lambda lifespan: "drained")
    assert temporary._application().router.lifespan_context == "drained"


def test_an_event_that_is_never_handled_does_not_keep_it(monkeypatch):
    monkeypatch.setattr(memory, "METRICS", {"events": {"published": 1, "consumed": 0, "retried": 0}})
    monkeypatch.setattr(temporary, "DRAIN_PATIENCE_S", 0.0)

    @asynccontextmanager
    async def services(app):
        yield

    async def shut_down() -> None:
        async with temporary._drained(services)(None):
            pass

    asyncio.run(asyncio.wait_for(shut_down(), timeout=60))
