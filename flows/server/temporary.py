"""A Prefect server that lives exactly as long as one `athanor run`.

Prefect's own temporary server shares the terminal's process group, so a Ctrl-C kills it before the interrupted flow
can report (the flow then retries for minutes), and a killed flow leaves it behind. This one has a session of its
own and stops when its parent is gone. It listens on loopback only, without UI and background services, and uses the
same database as `prefect server start`.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
import time

import httpx
import uvicorn
from prefect.settings import PREFECT_API_URL, get_current_settings

from athanor.core.errors import UserError

HOST = "127.0.0.1"
START_PATIENCE_S = 120.0
STOP_PATIENCE_S = 5.0


def server_settings() -> dict:
    """Prefect settings to run a flow under: none if PREFECT_API_URL is set, else those of a server started here.

    The server stops at the exit of this process, after Prefect has sent it the last logs and events.
    """
    if get_current_settings().api.url is not None:
        return {}
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "athanor.flows.server.temporary", str(port), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_stop, process)
    url = f"http://{HOST}:{port}/api"
    _wait_until_healthy(url, process)
    return {PREFECT_API_URL: url}


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise UserError("the temporary Prefect server did not start: run `prefect server start` and set PREFECT_API_URL")


def _serve(port: int, parent: int) -> None:
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, host=HOST, port=port, log_level="error", timeout_graceful_shutdown=1)
    uvicorn_server = uvicorn.Server(config)
    threading.Thread(target=_stop_with, args=(uvicorn_server, parent), daemon=True).start()
    uvicorn_server.run()


def _stop_with(uvicorn_server: uvicorn.Server, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    uvicorn_server.should_exit = True


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
