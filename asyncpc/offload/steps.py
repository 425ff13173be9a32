"""``Steps``: a generator that is read in a thread, so that its values arrive as they are given, fast ones together.

The thread gathers values for a millisecond, which is a step. A step may have to wait longer for the generator: then
:class:`StepTimer` lets the loop take the values that are there already.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, Final

__all__ = ["StepTimer", "Steps"]

STEP: Final = 0.001
"""Seconds for which a generator gathers values before they go to the loop."""

MOST: Final = 128
"""Values that a generator may be ahead."""

LONGEST: Final = 0.01
"""Seconds between two looks at a step that has to wait for its thread."""


class Steps:
    """A generator that is read in a thread, in steps of as many values as come within a moment.

    The loop may take the values of a step before that has ended, so none waits until the next one comes.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.values: deque[Any] = deque()
        """What it has given and nobody has taken yet."""
        self.ended: bool = False
        """Whether it has given its last value, or raised."""
        self.left: bool = False
        """Whether nobody takes its values any more."""
        self.seconds: float = 0.0
        """How long it has worked, in steps that have ended."""
        self._function = function
        self._args = args
        self._iterator: Any = None
        self._until: float | None = None  # until when a step gathers values, once it has begun

    def step(self) -> None:
        """Gather some values; raises what the generator raises."""
        began = perf_counter()
        self._until = until = monotonic() + STEP  # in real time, also where a test measures in its own
        try:
            if self._iterator is None:
                self._iterator = iter(self._function(*self._args))
            for value in self._iterator:
                self.values.append(value)
                if len(self.values) >= MOST or monotonic() > until or self.left:
                    return
            self.ended = True
        except BaseException:
            self.ended = True
            raise
        finally:
            self.seconds += perf_counter() - began
            self._until = None

    def gathers_no_more(self) -> bool:
        """Whether the step that is under way ends with the next value that is not here by now."""
        return self._until is not None and monotonic() > self._until

    def close(self) -> None:
        """Close the generator, so that its ``finally`` runs."""
        if hasattr(self._iterator, "close"):
            self._iterator.close()


class StepTimer:
    """Wakes whoever awaits the values of a step, when the first have waited long enough for others.

    It is used in the loop. One timer does for many short steps.
    """

    __slots__ = ("_awaited", "_timer")

    def __init__(self) -> None:
        self._awaited: tuple[Steps, Callable[[], None]] | None = None  # and what wakes who awaits it
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, steps: Steps, wake: Callable[[], None], patience: float = STEP) -> None:
        """Call ``wake`` once the step that begins has values that should wait no longer; look in ``patience`` s."""
        self._awaited = steps, wake
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(patience, self._look, min(2 * patience, LONGEST))

    def forget(self) -> None:
        """Nobody awaits the values any more."""
        self._awaited = None

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, patience: float) -> None:
        self._timer = None
        if self._awaited is None:
            return
        steps, wake = self._awaited
        if not steps.gathers_no_more():
            self.watch(steps, wake, patience)
        elif steps.values:
            wake()
