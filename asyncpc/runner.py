"""``asyncpc.run``: owns a loop, and turns signals into a drain."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Literal

from .checks import check_seconds
from .core.plan import Plan
from .errors import DefinitionError, StateError
from .graph.pipeline import Pipeline, plan_of, run_beside
from .run.report import PipelineError, Report
from .run.running import Running
from .run.watching import Beside, install, screens

__all__ = ["Loop", "run", "run_watched"]

Loop = Literal["auto", "uvloop", "asyncio"]

PICTURE: Final = 120
"""Columns of a picture in a notebook."""

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class _Screens:
    """What shows pipelines and their runs: the wing ``watch``, imported when it is asked for."""

    def picture(self, plan: Plan) -> str:
        from .watch.drawing import draw

        return draw(plan, PICTURE)

    def progress(self, plan: Plan) -> Beside:
        from .watch.progress import progress

        return progress(plan)


install(_Screens())


def run(
    pipeline: Pipeline[Any, Any],
    *,
    loop: Loop = "auto",
    drain_timeout: float | None = None,
    progress: bool = False,
) -> Report:
    """Run ``pipeline`` to its end in a loop of its own, and return the :class:`~asyncpc.Report`.

    The first SIGINT or SIGTERM drains within ``drain_timeout`` seconds (default: the pipeline's), the second cancels
    now, the third has its default action. ``report.signal`` is the first one, and ``sys.exit(report.exit_status)``
    passes it on (130, 143). Outside the main thread no signal is handled.

    ``progress`` shows how far the run has come, as :meth:`Pipeline.progress` does. ``loop`` is ``"auto"`` (uvloop where
    it is installed), ``"uvloop"`` or ``"asyncio"``. Raises ``PipelineError`` when
    the run failed or could not finish before its deadline, ``DefinitionError`` when it has no source.
    """
    watch = screens().progress(plan_of(pipeline)) if progress and isinstance(pipeline, Pipeline) else None
    return run_watched(pipeline, loop=loop, drain_timeout=drain_timeout, watch=watch)


def run_watched(
    pipeline: Pipeline[Any, Any],
    *,
    loop: Loop = "auto",
    drain_timeout: float | None = None,
    watch: Beside | None = None,
) -> Report:
    """:func:`run`, with ``watch`` entered while the run is under way."""
    if not isinstance(pipeline, Pipeline):
        raise DefinitionError(f"run() takes a Pipeline, such as numbers >> show, not {pipeline!r}")
    if asyncio._get_running_loop() is not None:
        raise StateError("run() creates its own event loop; inside a running one, write 'await pipeline'")
    check_seconds("run()", "drain_timeout", drain_timeout)
    runner = asyncio.Runner(loop_factory=_loop_factory(loop))
    abandoned = False
    signals = _Signals(plan_of(pipeline).drain_timeout if drain_timeout is None else drain_timeout)

    @contextmanager
    def beside(running: Running[Any, Any]) -> Iterator[None]:
        nonlocal abandoned
        with signals.handled(running):
            yield
        abandoned = bool(running.report and running.report.abandoned)

    try:
        report = runner.run(run_beside(pipeline, beside, *([] if watch is None else [watch])))
        report.signal = signals.first
        return report
    except PipelineError as error:
        error.report.signal = signals.first
        raise error.with_traceback(None) from error.__cause__  # the frames in between say nothing
    finally:
        if abandoned or _ignored_by_any(runner.get_loop()):
            _leave_behind(runner.get_loop())
        else:
            runner.close()


class _Signals:
    """Handles signals: the first drains, the second cancels, the third has its default action, which no loop delays."""

    def __init__(self, drain_timeout: float) -> None:
        self.first: int | None = None
        self.drain_timeout = drain_timeout

    @contextmanager
    def handled(self, running: Running[Any, Any]) -> Iterator[None]:
        """Handle signals while the block runs, then restore the handlers that were there before (faults D2, D3)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def came(number: int, frame: FrameType | None) -> None:
            """Runs between two bytecodes, also while user code blocks the loop, so the third signal always works."""
            if self.first is None:
                self.first = number
                loop.call_soon_threadsafe(self._drain, running)
            else:
                for each in SIGNALS:
                    signal.signal(each, signal.SIG_DFL)
                loop.call_soon_threadsafe(running.stop, 0)

        with _woken_by_signals(loop):
            before = {number: signal.signal(number, came) for number in SIGNALS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _drain(self, running: Running[Any, Any]) -> None:
        running.stop(self.drain_timeout)
        if self.first is not None and sys.stderr is not None and sys.stderr.isatty():  # somebody sits at a terminal
            name, most = signal.Signals(self.first).name, self.drain_timeout
            sys.stderr.write(f"asyncpc: {name}: draining for at most {most:g} s; a second signal cancels now\n")
            sys.stderr.flush()


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let every signal wake ``loop``, even one that comes just before it sleeps, or to another thread (fault D2).

    The interpreter runs ``came`` only when the main thread runs again. uvloop and the proactor loop see to that
    themselves; asyncio's selector loop only for signals that go through its ``add_signal_handler``.
    """
    if not isinstance(loop, asyncio.SelectorEventLoop):
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        loop.add_reader(ours, ours.recv, 4096)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(ours)


def _loop_factory(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop not in ("auto", "uvloop", "asyncio"):
        raise DefinitionError(f"loop={loop!r} must be 'auto', 'uvloop' or 'asyncio'")
    if loop == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if loop == "auto":
            return asyncio.new_event_loop
        raise DefinitionError("loop='uvloop' needs uvloop: pip install uvloop") from error
    return uvloop.new_event_loop


def _ignored_by_any(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a worker of another run in this loop, such as a run inside a handler, has ignored two cancellations."""
    return any(task.cancelling() > 1 and task.get_name().startswith("asyncpc:") for task in asyncio.all_tasks(loop))


def _leave_behind(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop whose abandoned workers never end; ``Runner.close`` would wait for them (fault B4)."""
    for task in asyncio.all_tasks(loop):
        # Not in typeshed, since it is no public attribute; but there is no public way to say that a pending task is
        # left behind on purpose, asyncio.gather sets the same one, and without it Python prints "Task was destroyed but
        # it is pending" for a worker that the report has named already (fault B9). Without it only that comes back.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
