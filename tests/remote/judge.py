"""The judge of the tests of crashes: it knows only what the programs wrote down before and after they acted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Judge", "Line"]


class Line(NamedTuple):
    """What a program did; see ``programs.Log``."""

    time: float
    who: str
    what: str
    message: str


class Judge:
    """Reads the log of one run; ask again after :meth:`read`."""

    def __init__(self, log: Path) -> None:
        self._path = log
        self._log = log.open("rb")
        self.up: set[str] = set()
        self.worked: set[str] = set()
        self.attempted: set[str] = set()
        self.confirmed: dict[str, float] = {}
        self.began: dict[str, list[Line]] = defaultdict(list)
        self.handled: dict[str, list[Line]] = defaultdict(list)
        self.in_hand: dict[str, set[str]] = defaultdict(set)
        """What each has begun and not handled."""
        self.last: dict[str, float] = {}
        """When each thing was done last."""

    def read(self) -> None:
        """Take in what was written since."""
        whole = self._log.read()
        cut = whole.rfind(b"\n") + 1
        self._log.seek(cut - len(whole), 1)  # a line is written at once, but maybe not read at once
        for text in whole[:cut].decode().splitlines():
            when, who, what, message = text.split(" ")
            self._note(Line(float(when), who, what, message))

    def _note(self, line: Line) -> None:
        self.last[line.what] = line.time
        if line.what in ("began", "confirmed"):
            self.worked.add(line.who)
        match line.what:
            case "up":
                self.up.add(line.who)
            case "attempted":
                self.attempted.add(line.message)
            case "confirmed":
                self.confirmed[line.message] = line.time
            case "began":
                self.began[line.message].append(line)
                self.in_hand[line.who].add(line.message)
            case "handled":
                self.handled[line.message].append(line)
                self.in_hand[line.who].discard(line.message)
            case _:
                raise AssertionError(f"nobody writes {line}")

    def is_up(self, who: str) -> bool:
        """Whether a program has begun."""
        return who in self.up

    def has_worked(self, who: str) -> bool:
        """Whether a program has put or begun something."""
        return who in self.worked

    def is_busy(self, who: str) -> bool:
        """Whether a program has begun something that it has not handled."""
        return bool(self.in_hand[who])

    def was(self, what: str, since: float) -> bool:
        """Whether something was done after that time."""
        return self.last.get(what, 0.0) > since

    def close(self) -> None:
        """The file."""
        self._log.close()

    # -- the verdict --------------------------------------------------------------------------------

    def lost(self) -> set[str]:
        """Messages that were confirmed and never handled."""
        return set(self.confirmed) - set(self.handled)

    def invented(self) -> set[str]:
        """Messages that were handled and that nobody has put."""
        return set(self.handled) - self.attempted

    def duplicates(self) -> int:
        """How often a message was handled once more."""
        return sum(len(lines) - 1 for lines in self.handled.values())

    def taken_over(self, died: Mapping[str, float]) -> list[tuple[float, float]]:
        """For each message that a worker had begun and not handled when it died: from when to when nobody had it.

        If several died of those who had begun it, the time begins with the last death.
        """
        waited = []
        for message, lines in self.began.items():
            ended = min((line.time for line in self.handled.get(message, ())), default=0.0)
            deaths = [died[line.who] for line in lines if died.get(line.who, ended) < ended]
            if deaths:
                waited.append((max(deaths), ended))
        return waited
