"""The disk: the folder everything is kept in, and writing to it so that a crash never leaves half a file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from athanor.core.errors import UserError
from athanor.core.keys import plain


def home() -> Path:
    """The folder everything is kept in: `ATHANOR_HOME`, by default `.athanor` in the working directory, whether or not
    it is there. Raises UserError where it is no folder."""
    folder = Path(os.environ.get("ATHANOR_HOME") or ".athanor").expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"ATHANOR_HOME={folder} is no folder; set it to one")
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never a mixture."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    fsync_path(temporary)
    os.replace(temporary, path)


def fsync_path(path: Path) -> None:
    """Flush a file's or a directory's contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_space(error: OSError, where: Path) -> UserError | None:
    """The one-line form of a full disk or quota; None for any other I/O error."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return UserError(f"no space left on the disk of {where}: free some, or set ATHANOR_HOME to another disk")
