"""A request to stop at a chosen moment, without signals."""

from __future__ import annotations

from athanor.tasks.trainer.process.stop_request import StopRequest


class Stop(StopRequest):
    """Asks to stop at the n-th look; never, without n."""

    def __init__(self, looks: int = 0):
        super().__init__()
        self.looks = looks

    @property
    def reason(self) -> str | None:
        """The reason at the n-th look alone."""
        self.looks -= 1
        return "SIGTERM" if self.looks == 0 else None
