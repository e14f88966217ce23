"""A Prefect server that lives exactly as long as one `athanor run`.

Prefect's own temporary server shares the terminal's process group, so a Ctrl-C kills it before the interrupted flow
can report (the flow then retries for minutes), and a killed flow leaves it behind. This one has a session of its
own and stops when its parent is gone. It listens on loopback only, without UI, and uses the same database as
`prefect server start`.

Starting it takes seconds, most of them imports. So nothing here imports Prefect before the server's process runs: a
command starts the server first, then imports and checks what it needs itself, and then waits. Whether Prefect's
settings name another server is found out on both sides; then this one ends at once. The socket listens before
the process does, so no port is guessed and nobody polls: the first request is answered when the server can.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.core.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
START_PATIENCE_S = 120.0
STOP_PATIENCE_S = 10.0
DRAIN_PATIENCE_S = 5.0
# No telemetry, and no block types in the database: our flows use none, and `prefect server start` adds them. Patience
# with a database that others write to on a busy machine: a minute, where the server gives up after seconds.
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "60",
}
_ERROR = re.compile(r"(\w+\.)*\w*Error: |\[Errno ")
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class TemporaryServer:
    """A server that has been started and will answer; it stops at the exit of this process. What it says of its
    troubles is shown if `verbose`; of those that keep it from starting the last line always is."""

    def __init__(self, verbose: bool = False) -> None:
        _check_home()
        self._said = None if verbose else tempfile.TemporaryFile()  # noqa: SIM115  as long as the server
        with socket.create_server((HOST, 0), backlog=128) as listening:
            self._port: int = listening.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(listening.fileno()), str(os.getpid())],
                env={**SETTINGS, **os.environ},
                stdin=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(listening.fileno(),),
                start_new_session=True,
            )
        atexit.register(self.stop)  # before Prefect is imported, so after it has sent the last logs and events

    def wait(self) -> str | None:
        """The URL of its API, once it answers; None if Prefect's settings name another one. UserError if it cannot."""
        from prefect.settings import get_current_settings

        if get_current_settings().api.url is not None:  # of a profile or a settings file
            return None
        connection = http.client.HTTPConnection(HOST, self._port, timeout=START_PATIENCE_S)
        try:
            connection.request("GET", "/api/health")
            answers = connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            answers = False
        finally:
            connection.close()
        if not answers:
            raise UserError(
                f"the temporary Prefect server did not start{self.last_words()}; its database is in {_home()}, which "
                "PREFECT_HOME can change; or run `prefect server start` and set PREFECT_API_URL"
            )
        return f"http://{HOST}:{self._port}/api"

    def last_words(self) -> str:
        """The last error it wrote, as an addition in brackets."""
        if self._said is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        errors = [line.strip() for line in lines if _ERROR.match(line)]
        return f" ({errors[-1][:200]})" if errors else ""

    def stop(self) -> None:
        """Let it finish what it was told and end it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_PATIENCE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # the second Ctrl-C of someone in a hurry
            self._process.kill()
            self._process.wait()


def _home() -> Path:
    """Where Prefect keeps its database; found out here, for Prefect itself would be imported first."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def _check_home() -> None:
    """Raise UserError where Prefect could write nothing."""
    folder = _home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise UserError(
            f"PREFECT_HOME={folder} cannot be written to ({error.strerror}); set it to a folder you can write to"
        ) from None


def _serve(listening: socket.socket, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    gc.disable()  # what is imported stays
    import uvicorn
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return
    application = _application()
    gc.freeze()
    gc.enable()
    config = uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _application() -> FastAPI:
    from prefect.server.api.server import create_app

    application = create_app(ephemeral=True)
    application.router.lifespan_context = _drained(application.router.lifespan_context)
    return application


def _drained(lifespan: Lifespan) -> Lifespan:
    """Prefect's lifespan, ended once every event was handled: task runs are recorded from events, and those that still
    wait when its services stop would be lost."""
    from prefect.server.utilities.messaging.memory import METRICS

    @asynccontextmanager
    async def longer(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            yield state
            deadline = time.monotonic() + DRAIN_PATIENCE_S
            while any(t["consumed"] < t["published"] for t in METRICS.values()) and time.monotonic() < deadline:
                await asyncio.sleep(0.01)

    return longer


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
