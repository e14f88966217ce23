"""A real browser without a window, driven through its debugging port."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_S = 60.0


class Browser:
    """One page of Chromium, with `folder` for its profile; to be used in a `with`."""

    def __init__(self, folder: Path):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1400,1000",
                   "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}"]  # fmt: skip
        self._process = subprocess.Popen(
            [str(CHROMIUM), *options, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        told = folder / "profile" / "DevToolsActivePort"
        self._wait(lambda: told.exists() and told.read_text().count("\n"), "no port was told")
        port = told.read_text().split()[0]
        (page,) = (p for p in httpx.get(f"http://127.0.0.1:{port}/json").json() if p["type"] == "page")
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None)
        self._calls = 0

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the DevTools protocol."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(PATIENCE_S))).get("id") != self._calls:
            pass
        return answer["result"]

    def before_every_page(self, script: str) -> None:
        """JavaScript that runs before the pages' own."""
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def go(self, url: str) -> None:
        """Open a page; it goes on loading."""
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression in the page; None where it fails."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of the expression, once it is a true one."""
        return self._wait(lambda: self.value(expression), expression)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def photograph(self, file: Path) -> None:
        """Keep what is seen as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _wait(self, asked: Any, what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := asked()):
            assert time.monotonic() < deadline, f"waited in vain: {what}"
            time.sleep(0.1)
        return found
