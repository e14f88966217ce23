"""The pages in a real browser: no error, no request, and nothing wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FRAME = """<!doctype html><iframe scrolling="no" style="width: {width_px}px; border: 0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const seen = document.querySelector("iframe")
  document.body.append(`${{seen.clientWidth}} px hold ${{seen.contentDocument.documentElement.scrollWidth}}`)
}}
</script>"""
OUTSIDE = '<img src="http://outside.invalid/a.png" alt="">'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor chromium-browser is installed")


@dataclass
class Visit:
    dom: str
    console: list[str]
    requests: list[str]


def visit(html: str, folder: Path) -> Visit:
    """Open `html` and return its document, console lines and the requests the page (not the browser) made."""
    page, log = folder / "page.html", folder / "net.json"
    page.write_text(html, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
               "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
               f"--log-net-log={log}"]  # fmt: skip
    done = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    record = json.loads(log.read_text())
    start = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [
        event["params"] for event in record["events"] if event["type"] == start and "url" in event.get("params", {})
    ]
    asked = [job["url"] for job in jobs if "file://" in job["network_isolation_key"]]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    return Visit(done.stdout, console, [url for url in asked if not url.startswith(("file:", "data:"))])


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def without_policy(html: str) -> str:
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert bare != html
    return bare


def test_page_makes_no_request_and_no_error_even_without_its_policy(html, tmp_path):
    seen = visit(without_policy(html), tmp_path)
    assert seen.requests == [] and seen.console == []
    assert seen.dom.count("<section ") == 11 and "✗ wrong" in seen.dom


def test_policy_is_accepted_and_blocks_what_is_smuggled_in(html, tmp_path):
    assert visit(html, tmp_path).console == []
    seen = visit(html.replace("</main>", OUTSIDE + "</main>"), tmp_path)
    assert seen.requests == [] and "Content Security Policy" in seen.console[0]


def test_the_watch_itself_sees_a_request(html, tmp_path):
    seen = visit(without_policy(html).replace("</main>", OUTSIDE + "</main>"), tmp_path)
    assert seen.requests == ["http://outside.invalid/a.png"]


def test_the_page_of_compared_runs_makes_no_request_and_no_error(compared_html, tmp_path):
    seen = visit(without_policy(compared_html), tmp_path)
    assert seen.requests == [] and seen.console == [] and seen.dom.count("<section ") == 6


@pytest.mark.parametrize("width_px", [390, 1200])
@pytest.mark.parametrize("page", ["html", "compared_html"])
def test_no_page_is_wider_than_a_phone_or_a_window(page, width_px, request, tmp_path):
    framed = FRAME.format(width_px=width_px, page=escape(without_policy(request.getfixturevalue(page))))
    seen = visit(framed, tmp_path)
    assert re.findall(r"(\d+) px hold (\d+)", seen.dom) == [(str(width_px), str(width_px))]
