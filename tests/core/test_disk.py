"""Writing to the disk: whole or not at all, and a full disk is one line."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from athanor.core import disk
from athanor.core.disk import home, no_space, write_json
from athanor.core.errors import UserError


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": "é"})

    def crash(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "fsync_path", crash)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_with_the_remedy(tmp_path, code):
    error = no_space(OSError(code, "full"), tmp_path)
    assert error is not None and "set ATHANOR_HOME to another disk" in str(error) and "\n" not in str(error)
    assert no_space(OSError(errno.EIO, "broken"), tmp_path) is None


def test_home_is_where_the_environment_says_and_else_here(tmp_path, monkeypatch):
    monkeypatch.setenv("ATHANOR_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.setenv("ATHANOR_HOME", "~/elsewhere")
    assert home() == Path.home() / "elsewhere"
    monkeypatch.chdir(tmp_path)
    for unsaid in ("", None):
        monkeypatch.setenv("ATHANOR_HOME", unsaid) if unsaid is not None else monkeypatch.delenv("ATHANOR_HOME")
        assert home() == tmp_path / ".athanor"


def test_a_home_that_is_no_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATHANOR_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"ATHANOR_HOME=.*/file is no folder; set it to one"):
        home()
