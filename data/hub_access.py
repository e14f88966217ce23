"""Whether a Hugging Face repository can be read, asked before anything is paid: one request or two, with a timeout.

Libraries retry an unreachable hub for half a minute and ask for gated files only when they want them. The token goes to
the hub in a header and nowhere else.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["dataset", "model"]
State = Literal["open", "gated", "renamed", "missing", "offline", "unreachable", "refused"]
TIMEOUT_S = 4.0
_COMMIT = re.compile("[0-9a-f]{40}")
_PAGES = {"dataset": "https://huggingface.co/datasets/", "model": "https://huggingface.co/"}


class Repository(NamedTuple):
    """What can be asked about. One that is streamed is of no use in a local cache."""

    kind: Kind
    repo: str
    revision: str | None = None
    streamed: bool = False


@dataclass(frozen=True)
class Access:
    """What the hub said about a repository. `problem` is one line with the remedy; None where it can be read. `commit`
    is what its revision points to now, where the hub tells."""

    state: State
    problem: str | None = None
    commit: str | None = None


def hub_access(kind: Kind, repo: str, revision: str | None = None) -> Access:
    """Ask the hub of HF_ENDPOINT about a repository, as whoever HF_TOKEN or `hf auth login` says.

    Never raises, and waits at most TIMEOUT_S for each part of an answer.
    """
    import httpx
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Access("offline", "offline mode is on; unset HF_HUB_OFFLINE or give local files")
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    place = f"{endpoint}/api/{kind}s/{repo}"
    try:
        with httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=False) as client:
            answer = client.get(f"{place}/revision/{revision}" if revision else place)
            about = answer.json() if answer.is_success else {}
            commit = str(about.get("sha"))
            if about.get("gated"):
                answer = client.get(f"{place}/auth-check")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        problem = f"the hub at {urlsplit(endpoint).netloc or endpoint} cannot be reached ({type(error).__name__})"
        return Access("unreachable", f"{problem}; check the network")
    access = _judge(kind, repo, revision, answer, has_token=token is not None)
    return replace(access, commit=commit) if access.state == "open" and _COMMIT.fullmatch(commit) else access


def _judge(kind: Kind, repo: str, revision: str | None, answer: object, has_token: bool) -> Access:
    import httpx

    assert isinstance(answer, httpx.Response)
    code, page = answer.headers.get("x-error-code"), _PAGES[kind] + repo
    if answer.is_success:
        return Access("open")
    if answer.is_redirect:
        new = answer.headers.get("location", "").partition(f"/api/{kind}s/")[2].partition("/revision/")[0]
        return Access("renamed", f"renamed to {new}; write that id" if new else "moved; look it up on the hub")
    if code == "GatedRepo":
        if has_token:
            return Access("gated", f"gated, and HF_TOKEN has no access yet; ask for it at {page}")
        return Access("gated", f"gated; ask for access at {page} and set HF_TOKEN")
    if code == "RevisionNotFound":
        return Access("missing", f"no revision {revision!r}; correct it")
    if answer.status_code in (401, 404):
        remedy = "and that HF_TOKEN may read it" if has_token else "or set HF_TOKEN"
        return Access("missing", f"not found or private; check the spelling, {remedy}")
    if answer.status_code >= 500 or answer.status_code == 429:
        return Access("unreachable", f"the hub answers with status {answer.status_code}; try again later")
    return Access("refused", f"the hub refuses it with status {answer.status_code}; look at {page}")
