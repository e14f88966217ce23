"""`athanor run` uses the server that Prefect's settings name, wherever they name it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ATHANOR = str(Path(sys.executable).with_name("athanor"))
NOWHERE = "http://127.0.0.1:9/api"


def test_a_server_that_a_prefect_profile_names_is_used_and_none_is_started_beside_it(tmp_path):
    (tmp_path / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{NOWHERE}"\n')
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    command = [ATHANOR, "run", "quickstart", "--only", "data"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"athanor: Failed to reach API at {NOWHERE}")
    assert not (tmp_path / "prefect.db").exists()
