"""What a mutant is: one change of one place that breaks one mechanism, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `file` and becomes `new`; at least one test of `tests` must then fail."""

    file: str
    old: str
    new: str
    mechanism: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Write it into a copy of the sources. Raises ValueError where `old` does not stand there exactly once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {count} times, not once: {self.mechanism}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
