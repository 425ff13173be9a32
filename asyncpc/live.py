"""A run on a terminal, live: each stage with its queue, its workers, its rate and its failures; needs the extra rich.

::

    async with pipeline as running, live(running):
        await running.wait()

``run(pipeline, live=True)`` and ``asyncpc run app:pipeline --live`` show the same. In a notebook it is the output of
the cell, and without a terminal it is the progress of before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from threading import Lock, Thread
from typing import Any, Final

from .errors import DefinitionError
from .logs import WARNING, log
from .run.running import Running, plan_followed
from .run.turns import Turns
from .run.watching import LOOK_EVERY, Beside, looking
from .watch.foot import FOOT, Row, has_screen
from .watch.notebook import Output, Rows, display_of_notebook
from .watch.progress import progress
from .watch.screen import screen
from .watch.watcher import View, Watcher
from .wording import shown, summary

__all__ = ["live", "live_beside", "need_rich"]

PATIENCE: Final = 0.75
"""Seconds without a look of the event loop, three times as long as usual, after which the thread looks itself."""

UNBOUNDED: Final = 100_000
"""Lines for what stays above the foot of the terminal: all stages."""

NOTEBOOK: Final = 120
"""Columns in a notebook, which scrolls if it is narrower."""


@asynccontextmanager
async def live(running: Running[Any, Any]) -> AsyncIterator[None]:
    """Show the run on the terminal while the block runs: write ``await running.wait()`` in it to see the end.

    In a notebook it is shown below the cell. What the program logs and prints stays readable above it. The last state
    stays. Raises ``DefinitionError`` without rich, which a terminal needs. *Cancel safety*: the run is not touched.
    """
    if not isinstance(running, Running):
        raise DefinitionError(f"live() takes a run, as 'async with pipeline as running' gives it, not {shown(running)}")
    with live_beside("live()")(running):
        yield


def live_beside(what: str) -> Beside:
    """What shows a run while it is under way, at the wish of ``what``; raises ``DefinitionError`` without rich."""
    if (display := display_of_notebook()) is not None:
        return partial(_in_notebook, display)
    need_rich(what)

    @contextmanager
    def beside(running: Running[Any, Any]) -> Iterator[None]:
        if not has_screen():
            with progress(plan_followed(running))(running):
                yield
            return
        try:
            shows = _Live(running)
        except Exception as error:  # a screen that fails leaves the run in peace
            log(WARNING, "no live view is shown: %s", summary(error))
            yield
            return
        try:
            with looking(running, shows.look):
                yield
        finally:
            with suppress(Exception):  # as above
                shows.close()

    return beside


def need_rich(what: str) -> None:
    """Raise ``DefinitionError`` without rich."""
    if find_spec("rich") is None:
        raise DefinitionError(f"{what} needs rich: pip install 'asyncpc[rich]'")


@contextmanager
def _in_notebook(display: Callable[..., Any], running: Running[Any, Any]) -> Iterator[None]:
    """Show the rows below the cell, redrawn in their place by the loop: the notebook is drawn elsewhere."""
    watcher, output = Watcher(running), Output(display)

    def look(_: Running[Any, Any]) -> None:
        view = watcher.look()
        if view is not None:
            output.show(Rows(screen(view, NOTEBOOK, UNBOUNDED)))

    try:
        with looking(running, look):
            yield
    finally:
        with suppress(Exception):  # as on a terminal
            look(running)


class _Live:
    """The rows of one run at the foot of the terminal.

    The event loop looks at the run, and a thread draws: a slow terminal holds up the loop for a few milliseconds at
    most, and a loop that is blocked is told by the thread, which then looks itself.
    """

    def __init__(self, running: Running[Any, Any]) -> None:
        self._watcher = Watcher(running)
        self._view: View | None = None
        self._looking = Lock()
        self._turns = Turns()  # the loop looks, then the thread draws
        self._is_over = False
        self._look()  # or there would be no figures if the loop were blocked from now on
        asyncio.get_running_loop().call_soon(self.look, running)  # likewise, if the run is only about to start
        FOOT.enter(self)
        try:
            Thread(target=self._draw, name="asyncpc:live", daemon=True).start()
        except RuntimeError:  # there is no room for another thread
            FOOT.leave(self, [])
            raise

    def look(self, running: Running[Any, Any]) -> None:
        """Look at the run, in its loop, and let it be drawn."""
        if not self._is_over and self._look():
            self._turns.give()

    def rows(self, parts: int) -> Sequence[Row]:
        """Its rows as they are now."""
        columns, lines = FOOT.size()
        room = max(1, (lines - 1) // parts)
        return [] if self._view is None else screen(self._view, columns, room, is_named=parts > 1)

    def close(self) -> None:
        """Let the last state stay.

        The thread ends by itself: it may just be waiting for an answer of this loop, which cannot wait for it then.
        """
        self._is_over = True
        self._turns.wake()
        last: Sequence[Row] = []
        try:
            with self._looking:
                view = self._watcher.look()
            last = [] if view is None else screen(view, FOOT.size().columns, UNBOUNDED)
        finally:
            FOOT.leave(self, last)

    def _look(self) -> bool:
        """Look in the loop, unless the thread has just begun to."""
        if not self._looking.acquire(blocking=False):
            return False
        try:
            self._view = self._watcher.look()
        finally:
            self._looking.release()
        return True

    def _draw(self) -> None:
        try:
            while True:
                is_silent = self._view is not None and self._view.silent
                is_news = self._turns.rest(LOOK_EVERY if is_silent else PATIENCE)
                if self._is_over:
                    return
                if not is_news:
                    with self._looking:
                        self._view = self._watcher.look()
                FOOT.draw()
        except Exception as error:  # such as a terminal that is gone
            log(WARNING, "a run is no longer shown: %s", summary(error))
        finally:
            self._is_over = True
            self._turns.end()
