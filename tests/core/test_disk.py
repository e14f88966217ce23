"""Writing to the disk: whole or not at all, and a full disk is one line."""

from __future__ import annotations

import errno
import json

import pytest

from athanor.core import disk
from athanor.core.disk import home, no_space, write_json


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
    monkeypatch.delenv("ATHANOR_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".athanor"
