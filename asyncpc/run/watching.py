"""Who watches a run, and how: what shows it to people lies above this wing, and the entry point installs it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Any, Final, Protocol

from ..core.plan import Plan
from ..logs import WARNING, log
from ..wording import summary
from .running import Running
from .turns import let_in

__all__ = ["LOOK_EVERY", "Beside", "Screens", "giving_way", "install", "looking", "screens"]

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at a run: people need no more, and each look costs half a millisecond."""

WAY_EVERY: Final = 0.05
"""Seconds that a thread may have to wait for that."""

IN_VAIN: Final = 20
"""How many times the other threads have waited meanwhile, if one of them waits in vain; about 400 times is usual."""

Beside = Callable[[Running[Any, Any]], AbstractContextManager[object]]
"""Something that is entered while a run is under way, such as its progress line."""


class Screens(Protocol):
    """What shows pipelines and runs to people."""

    def picture(self, plan: Plan) -> str:
        """Draw a pipeline as text."""
        ...

    def progress(self, plan: Plan) -> Beside:
        """Show how far a run has come; the last state stays."""
        ...

    def live(self) -> Beside:
        """Show all stages of a run at work; the last state stays."""
        ...


_installed: list[Screens] = []


def install(screens: Screens) -> None:
    """Let pipelines find what shows them; the entry point calls this once."""
    _installed[:] = [screens]


def screens() -> Screens:
    """What the entry point has installed."""
    return _installed[0]


@contextmanager
def looking(
    running: Running[Any, Any], look: Callable[[Running[Any, Any]], object], every: float = LOOK_EVERY
) -> Iterator[None]:
    """Call ``look`` every so many seconds while the block runs.

    If it raises, that is logged, and it is not called again: what only watches a run cannot disturb it.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look_again() -> None:
        nonlocal timer
        try:
            look(running)
        except Exception as error:
            log(WARNING, "a run is no longer watched: %s", summary(error))
        else:
            timer = loop.call_later(every, look_again)

    timer = loop.call_later(every, look_again)
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def giving_way(running: Running[Any, Any]) -> Iterator[None]:
    """While the block runs, see twenty times a second whether other threads wait in vain, and let them in."""
    waits = _waits_of_others()

    def give_way(_: Running[Any, Any]) -> None:
        nonlocal waits
        before, waits = waits, _waits_of_others()
        if waits is None or before is None or waits - before >= IN_VAIN:
            let_in(Event())

    with looking(running, give_way, WAY_EVERY):
        yield


def _waits_of_others() -> int | None:
    """How many times the other threads of this process have waited for anything; None where nobody counts that."""
    if sys.platform != "linux":
        return None
    import resource

    of_all, of_this = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_THREAD))
    return of_all.ru_nvcsw - of_this.ru_nvcsw
