"""The recording in the README is of real commands, whole, and loads nothing."""

from __future__ import annotations

import re
import sys
from html import unescape
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recording():
    spec = spec_from_file_location("recording", ROOT / "docs" / "recording.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(svg: str) -> str:
    """The text of a picture, one line a line; no-break spaces as blanks."""
    lines: dict[float, str] = {}
    for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if "clip-path" in element.attrib:
            lines[float(element.attrib["y"])] = lines.get(float(element.attrib["y"]), "") + (element.text or "")
    return "\n".join(unescape(lines[y].rstrip("\n")).replace("\xa0", " ") for y in sorted(lines))


def test_the_readmes_picture_shows_every_command_and_the_end_of_the_run(recording):
    text = shown(recording.PICTURE.read_text(encoding="utf-8"))
    places = [text.index(f"$ {command}") for command in recording.COMMANDS]
    assert places == sorted(places) and len(places) > 2
    assert re.search(r"lifecycle mine is done in .*: \d+ built, 0 cached", text)
    assert "(reports/recording.svg)" in (ROOT / "README.md").read_text()


def test_a_picture_shows_what_was_printed_and_loads_nothing(recording, tmp_path):
    printed = recording.record([f"{sys.executable} -c 'print(6 * 7)'"], tmp_path)
    svg = recording.picture(printed)
    assert "42" in shown(svg).splitlines()
    assert not re.search(r"url\((?!#)|href=|@import", svg)


def test_of_a_row_of_steps_the_first_and_the_last_are_shown(recording):
    steps = [f"pretrain mine: step {i}/9: loss 2" for i in range(9)]
    assert recording.shortened("\n".join(["before", *steps, "after"])).splitlines() == [
        "before", steps[0], "    ...", steps[-1], "after"
    ]  # fmt: skip
    assert recording.shortened("a\n\n\n\n\n\nb").splitlines() == ["a", "", "    ...", "", "b"]


def test_a_command_that_fails_leaves_no_picture(recording, tmp_path):
    with pytest.raises(SystemExit, match="failed:\nno text"):
        recording.record([f"{sys.executable} -c 'print(\"no text\"); raise SystemExit(2)'"], tmp_path)
