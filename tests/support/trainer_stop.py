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


class StopWithin(StopRequest):
    """Gets a signal at the n-th place within steps and evaluations."""

    def __init__(self, places: int):
        self.places = places
        super().__init__()

    @property
    def signal(self) -> str | None:
        """The signal, from the n-th place on."""
        self.places -= 1
        return "SIGTERM" if self.places <= 0 else None

    @signal.setter
    def signal(self, value: str | None) -> None:
        assert value is None

    @property
    def reason(self) -> str | None:
        """None: between steps nothing is asked."""
        return None
