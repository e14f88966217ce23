"""The ledger: time, device time and money spent on a run, over all its attempts. A price is that of one device.

Every attempt appends what it has used as it goes, so that a crash loses at most a few seconds of account and a crash
loop cannot spend the same budget twice. Rows are never rewritten.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from athanor.core.rows import RowWriter, read_rows
from athanor.core.run_files import LEDGER

ROW_EVERY_S = 5.0


@dataclass(frozen=True)
class LedgerTotal:
    """Sums over a ledger: seconds of the clock, seconds of devices held, and their price."""

    wall_s: float
    device_s: float
    usd: float


def ledger_total(run_dir: Path) -> LedgerTotal:
    """What the run has used so far; zero when it never started."""
    rows = list(read_rows(run_dir / LEDGER))
    wall_s = sum(row.get("wall_s", row["device_s"]) for row in rows)  # rows of 0.1 are of one device and do not say
    return LedgerTotal(wall_s, sum(row["device_s"] for row in rows), sum(row["usd"] for row in rows))


class Ledger:
    """Charges the running attempt to `RUN_DIR/ledger.jsonl`. The price is that of each of the devices; `running_s` is
    for how long the attempt had held them before the ledger was opened."""

    def __init__(self, run_dir: Path, attempt: str, devices: int, price_usd_per_hour: float, running_s: float = 0.0):
        self._before = ledger_total(run_dir)
        self._attempt = attempt
        self._devices = devices
        self._price_usd_per_s = devices * price_usd_per_hour / 3600
        self._writer = RowWriter(run_dir / LEDGER)
        self._started = self._charged = time.monotonic() - running_s

    @property
    def usd(self) -> float:
        """Spent so far, earlier attempts included."""
        return self._before.usd + (time.monotonic() - self._started) * self._price_usd_per_s

    @property
    def device_s(self) -> float:
        """Device seconds used so far, earlier attempts included."""
        return self._before.device_s + (time.monotonic() - self._started) * self._devices

    def tick(self, force: bool = False) -> None:
        """Charge the time since the last row, at most every ROW_EVERY_S unless forced."""
        now = time.monotonic()
        wall_s = now - self._charged
        if wall_s < ROW_EVERY_S and not force:
            return
        self._charged = now
        row = {
            "attempt": self._attempt,
            "time": time.time(),
            "wall_s": wall_s,
            "device_s": wall_s * self._devices,
            "usd": wall_s * self._price_usd_per_s,
        }
        self._writer.append(row)
        self._writer.sync()

    def close(self) -> None:
        """Charge the rest."""
        self.tick(force=True)
        self._writer.close()
