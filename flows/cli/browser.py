"""Opening a page in the browser, where there is one."""

from __future__ import annotations

import webbrowser


def open_page(url: str) -> None:
    """Say the address, and open it; where no browser can be started, the address alone."""
    print(url)
    webbrowser.open_new_tab(url)
