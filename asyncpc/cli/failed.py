"""``asyncpc run --failed FILE``: writes each item that fails, or is left unfinished, to a file as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ..events import Event, ItemFailed
from ..run.running import Running, listen_to
from ..wording import redacted
from .as_json import as_line, failure_as_json, item_as_json
from .output import UsageError, print_error

__all__ = ["FailedItems"]


class FailedItems:
    """The file of a run, written by a thread of its own: a slow disk must not hold the event loop.

    An error of the file ends the writing, never the run.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            # appended to, since it may hold the items of an earlier run that are yet to be tried again
            # and without a buffer, so that each line is one write: several processes may append to it
            self._file = FileIO(path, "a")
        except OSError as error:
            raise UsageError(f"--failed: cannot write to {path}: {error.strerror}") from error
        self._running: Running[Any, Any] | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._trouble: str | None = None
        self._writer = Thread(target=lambda: self._write(iter(self._lines.get, None)), name="asyncpc:failed")
        self._writer.start()

    @property
    def is_complete(self) -> bool:
        """Whether all was written."""
        return self._trouble is None

    @contextmanager
    def told(self, running: Running[Any, Any]) -> Iterator[None]:
        """Write what fails in a run while it is under way."""
        self._running = running
        listen_to(running, self._keep)
        yield

    def close(self) -> None:
        """Write what the run has left, and no more; say so if the file is not complete."""
        self._lines.put(None)
        self._writer.join()
        if self._running is not None and self._running.report is not None and self.is_complete:
            left = self._running.report.left
            self._write(as_line(_unfinished(stage, item)) for stage, items in left for item in items)
        self._file.close()
        if not self.is_complete:
            print_error(f"asyncpc: --failed: {self._path} is not complete: {self._trouble}")

    def _keep(self, event: Event) -> None:
        if isinstance(event, ItemFailed) and self.is_complete:
            self._lines.put(as_line(failure_as_json(event.stage, event.item, event.error, event.attempts)))

    def _write(self, lines: Iterable[str]) -> None:
        try:
            for line in lines:
                rest = f"{line}\n".encode("ascii")
                while rest:  # a disk that is almost full takes a part
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._trouble = error.strerror or type(error).__name__


def _unfinished(stage: str, item: Any) -> dict[str, Any]:
    return {"stage": redacted(stage), "item": item_as_json(item), "unfinished": True}
