"""``Events``: tells the listeners of one run what happens in it.

Telling comes last, after all bookkeeping, and raises nothing: whatever a listener does, counts are right and the run
stops as it should. A listener that raises has a mistake, and is told no more; one that is slow may have met a busy
machine, and the next event may be the one that matters, so it goes on and is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from time import perf_counter
from typing import Final

from ..events import Event, Listener
from ..logs import WARNING, log
from ..wording import summary

__all__ = ["Events", "tell_here"]

LONGEST: Final = 0.5
"""Seconds that a listener may take, in which nothing else happens in the loop, before that is logged."""

_current: ContextVar[Events | None] = ContextVar("asyncpc_events", default=None)
"""Those of the run that the caller belongs to."""


class Events:
    """Whoever listens to one run; false if nobody does, so that no event has to be made."""

    __slots__ = ("_interrupt", "_listeners", "_slow", "pipeline")

    def __init__(
        self, pipeline: str, listeners: Iterable[Listener], interrupt: Callable[[BaseException, str], None]
    ) -> None:
        """``interrupt`` ends the run with a ``KeyboardInterrupt`` or ``SystemExit`` that comes in a listener."""
        self.pipeline: str = pipeline
        self._listeners = list(listeners)
        self._slow: list[Listener] = []  # those that were logged
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
                self._drop(listener, error)
            else:
                if (seconds := perf_counter() - began) > LONGEST:
                    self._note_slow(listener, seconds)

    def let_go(self, keep: Callable[[BaseException, str], None]) -> None:
        """The run has ended, so nothing can end it any more; an interrupt that comes in a last event is only kept."""
        self._interrupt = keep

    def _drop(self, listener: Listener, error: BaseException) -> None:
        self._listeners = [one for one in self._listeners if one is not listener]  # == may be anything
        message = "a listener raised %s: it is told no more of this run"
        log(WARNING, message, summary(error), error=error, pipeline=self.pipeline)

    def _note_slow(self, listener: Listener, seconds: float) -> None:
        if not any(one is listener for one in self._slow):
            self._slow.append(listener)
            message = "a listener held the event loop for %.1f seconds; let it give what takes time to a thread"
            log(WARNING, message, seconds, pipeline=self.pipeline)

    def __bool__(self) -> bool:
        return bool(self._listeners)


def tell_here(make: Callable[[str], Event]) -> None:
    """Tell the listeners of the run that the caller belongs to, if it belongs to one.

    ``make`` gets the name of the pipeline.
    """
    if events := _current.get():
        events.tell(make(events.pipeline))
