"""``asyncpc.run``: owns a loop, and lets signals drain the run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal

from .checks import check_seconds
from .core.plan import Plan
from .errors import DefinitionError, StateError
from .graph.pipeline import Consumer, Pipeline, Producer, Source, plan_of, run_beside
from .mistakes import explained
from .run.report import PipelineError, Report
from .run.running import Running, look_at, signals_handled
from .run.watching import Beside, install, looking, screens
from .wording import shown

__all__ = ["Loop", "run", "run_watched"]

Loop = Literal["auto", "uvloop", "asyncio"]

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at a run that nobody may watch, so that SIGUSR1 can tell since when workers do what."""

PICTURE: Final = 120
"""Columns of a picture in a notebook."""


class _Screens:
    """What shows pipelines and their runs: the wing ``watch``, imported when it is asked for."""

    def picture(self, plan: Plan) -> str:
        from .watch.drawing import draw

        return draw(plan, PICTURE)

    def progress(self, plan: Plan) -> Beside:
        from .watch.progress import progress

        return progress(plan)

    def live(self) -> Beside:
        from .live import live_beside

        return live_beside("run(live=True)")


install(_Screens())


@explained
def run(
    pipeline: Pipeline[Any, Any],
    *,
    loop: Loop = "auto",
    drain_timeout: float | None = None,
    progress: bool = False,
    live: bool = False,
) -> Report:
    """Run ``pipeline`` to its end in a loop of its own, and return the :class:`~asyncpc.Report`.

    The first SIGINT or SIGTERM drains within ``drain_timeout`` seconds (default: the pipeline's), the second cancels
    now, the third has its default action. ``report.signal`` is the first one, and ``sys.exit(report.exit_status)``
    passes it on (130, 143). Outside the main thread no signal is handled.

    SIGUSR1 logs how the run is doing and where each of its workers is, unless the program has a handler for it.

    ``progress`` shows how far the run has come, as :meth:`Pipeline.progress` does. ``live`` shows all stages at work
    instead, as ``asyncpc.live`` does; it needs the extra ``rich``. ``loop`` is ``"auto"`` (uvloop where it is
    installed), ``"uvloop"`` or ``"asyncio"``. Raises ``PipelineError`` when the run failed or could not finish before
    its deadline, ``DefinitionError`` when it has no source, or without rich for ``live``.
    """
    watch = None
    if isinstance(pipeline, Pipeline):
        watch = screens().live() if live else screens().progress(plan_of(pipeline)) if progress else None
    return run_watched(pipeline, loop=loop, drain_timeout=drain_timeout, watch=watch)


def run_watched(
    pipeline: Pipeline[Any, Any],
    *,
    loop: Loop = "auto",
    drain_timeout: float | None = None,
    watch: Beside | None = None,
    around: AbstractAsyncContextManager[object] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """:func:`run`, with ``watch`` entered while the run is under way, and ``around`` from before its start.

    SIGUSR1 is answered by ``tell``, by default the log.
    """
    if not isinstance(pipeline, Pipeline):
        raise DefinitionError(f"run() takes a Pipeline, such as numbers >> show, not {_not_a_pipeline(pipeline)}")
    if asyncio._get_running_loop() is not None:
        raise StateError("run() creates its own event loop; inside a running one, write 'await pipeline'")
    check_seconds("run()", "drain_timeout", drain_timeout)
    runner = asyncio.Runner(loop_factory=_loop_factory(loop))
    abandoned = False

    @contextmanager
    def beside(running: Running[Any, Any]) -> Iterator[None]:
        nonlocal abandoned
        with signals_handled(running, drain_timeout, tell), looking(running, look_at, LOOK_EVERY):
            yield
        abandoned = bool(running.report and running.report.abandoned)

    async def main() -> Report:
        async with nullcontext() if around is None else around:
            return await run_beside(pipeline, beside, *([] if watch is None else [watch]))

    try:
        return runner.run(main())
    except PipelineError as error:
        raise error.with_traceback(None) from error.__cause__  # the frames in between say nothing
    finally:
        if abandoned or _ignored_by_any(runner.get_loop()):
            _leave_behind(runner.get_loop())
        else:
            runner.close()


def _not_a_pipeline(thing: object) -> str:
    """What somebody gave to ``run`` in place of a pipeline, and what to write instead."""
    if inspect.iscoroutine(thing):
        thing.close()  # or Python warns that it was never awaited
        return f"the coroutine {thing.__name__}(): write asyncio.run({thing.__name__}())"
    if isinstance(thing, Consumer):
        return f"{shown(thing)}: write source(items) >> it"
    if isinstance(thing, (Producer, Source)):
        return f"{shown(thing)}: write it >> a consumer"
    return shown(thing)


def _loop_factory(loop: Loop) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop not in ("auto", "uvloop", "asyncio"):
        raise DefinitionError(f"loop={shown(loop)} must be 'auto', 'uvloop' or 'asyncio'")
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
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # private, but the only way, as said above
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
