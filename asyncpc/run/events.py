"""``Events``: tells the listeners of one run what happens in it.

Telling comes last, after all bookkeeping, and raises nothing: whatever a listener does, counts are right and the run
stops as it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from time import perf_counter
from typing import Final

from ..core.waiting import nobody
from ..events import Event, Listener
from ..logs import WARNING, log
from ..wording import summary

__all__ = ["Events", "tell_here"]

LONGEST: Final = 0.5
"""Seconds that a listener may take, in which nothing else happens in the loop."""

_current: ContextVar[Events | None] = ContextVar("asyncpc_events", default=None)
"""Those of the run that the caller belongs to."""


class Events:
    """Whoever listens to one run; false if nobody does, so that no event has to be made."""

    __slots__ = ("_interrupt", "_listeners", "pipeline")

    def __init__(
        self, pipeline: str, listeners: Iterable[Listener], interrupt: Callable[[BaseException, str], None]
    ) -> None:
        """``interrupt`` ends the run with a ``KeyboardInterrupt`` or ``SystemExit`` that comes in a listener."""
        self.pipeline: str = pipeline
        self._listeners = list(listeners)
        self._interrupt = interrupt

    def add(self, listener: Listener) -> None:
        """Tell ``listener`` of what happens from now on."""
        self._listeners.append(listener)

    def open(self, context: Context) -> None:
        """Let :func:`tell_here` tell the listeners of this run in ``context``, and in those that are copied from it."""
        context.run(_current.set, self)

    def tell(self, event: Event) -> None:
        """Call each listener. The last thing that a function does."""
        for listener in tuple(self._listeners):
            began = perf_counter()
            try:
                listener(event)
            except (KeyboardInterrupt, SystemExit) as interrupt:  # fault B13
                self._interrupt(interrupt, "a listener")
            except BaseException as error:  # pytest.fail and a cancelled future raise no Exception
                self._drop(listener, f"raised {summary(error)}", error)
            else:
                if (seconds := perf_counter() - began) > LONGEST:
                    self._drop(listener, f"held the event loop for {seconds:.1f} seconds", None)

    def let_go(self) -> None:
        """The run has ended, so nothing can end it any more."""
        self._interrupt = nobody

    def _drop(self, listener: Listener, what: str, error: BaseException | None) -> None:
        if listener in self._listeners:  # an event that it caused itself may have come first
            self._listeners.remove(listener)
        message = "a listener %s: it is told no more of this run"
        log(WARNING, message, what, error=error, pipeline=self.pipeline)

    def __bool__(self) -> bool:
        return bool(self._listeners)


def tell_here(make: Callable[[str], Event]) -> None:
    """Tell the listeners of the run that the caller belongs to, if it belongs to one.

    ``make`` gets the name of the pipeline.
    """
    if events := _current.get():
        events.tell(make(events.pipeline))
