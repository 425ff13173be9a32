"""``Pipeline`` and what it is made of, as users see it: an item's type flows from part to part through ``>>``.

``>>`` makes a ``Pipeline`` of two parts, and a ``Pipeline`` is a part, so these classes know each other. What holds for
parts at run time is in ``parts``.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import update_wrapper
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from ..checks import check_callback
from ..core.plan import Handler, Node, Origin, Plan
from ..core.seams import Following
from ..errors import DefinitionError, StateError
from ..events import Listener
from ..mistakes import explained
from ..run.leaving import end_block, leave, wait_hastening
from ..run.pairs import Pairs
from ..run.report import PipelineError, Report, Unfinished
from ..run.results import Results
from ..run.running import Running
from ..run.supervisor import Supervisor
from ..run.watching import Beside, screens
from .definitions import bind_origin
from .layout import Layout
from .parts import Part, join, stage_layout

__all__ = [
    "Consumer",
    "Pipeline",
    "Producer",
    "Source",
    "StageLike",
    "accompany",
    "follow",
    "handler_of",
    "plan_of",
    "run_beside",
]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T_co = TypeVar("T_co", covariant=True)
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Call_co = TypeVar("Call_co", covariant=True)
P = ParamSpec("P")


class Source(Part, Generic[T_co]):
    """One or several places that items come from; composed with ``>>``, or read with ``async for`` in a test."""

    __slots__ = ()

    def __rshift__(self, following: StageLike[T_co, B]) -> Pipeline[T_co, B]:
        return _joined(self, following)

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Read the items without a pipeline; raises ``DefinitionError`` for a merged source, which needs one."""
        if len(self._layout.origins) != 1 or self._layout.nodes:
            raise DefinitionError(
                "only a pipeline can read a merged source; read each of its parts with 'async for' instead"
            )
        return self._layout.origins[0].iterate()


class Producer(Part, Generic[P, T_co]):
    """A generator function, async or not, as a source: compose it as it is, or call it with its arguments first."""

    __wrapped__: Callable[..., Any]

    def __init__(self, origin: Origin) -> None:
        super().__init__(Layout((origin,)))
        update_wrapper(self, origin.open, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Source[T_co]:
        """Return the source with these arguments; raises ``DefinitionError`` if they do not fit the function."""
        return Source(Layout((bind_origin(self._layout.origins[0], args, kwargs),)))

    def __rshift__(self, following: StageLike[T_co, B]) -> Pipeline[T_co, B]:
        return _joined(self, following)

    def _as_part(self) -> Layout:
        return Layout((bind_origin(self._layout.origins[0], (), {}),))


class StageLike(Part, Generic[In_contra, Out_co]):
    """What items can go into: a consumer, or a pipeline without a source."""

    __slots__ = ()

    def __rshift__(self, following: StageLike[Out_co, B]) -> Pipeline[In_contra, B]:
        return _joined(self, following)

    if not TYPE_CHECKING:  # checkers refuse it as it is

        def __rrshift__(self, first: object) -> None:
            advice = "decorate it with @producer" if callable(first) else "write source(…) >> …"
            raise DefinitionError(f"a {type(first).__name__} before {self._named()} is not a source: {advice}")


class Consumer(StageLike[In_contra, Out_co], Generic[In_contra, Out_co, P, Call_co]):
    """A function or generator, async or not, as a stage; calling it calls just the function."""

    __wrapped__: Callable[..., Any]

    def __init__(self, handler: Handler) -> None:
        super().__init__(Layout(nodes=(Node(handler),)))
        update_wrapper(self, handler.function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call_co:
        """Call just the function, without a queue or a pipeline."""
        return cast(Call_co, handler_of(self).function(*args, **kwargs))

    def _label(self) -> str:
        return self._layout.nodes[0].handler.name


Start = Source[A] | Producer[..., A] | Iterable[A] | AsyncIterable[A]
"""What a pipeline can begin with."""


@explained
class Pipeline(StageLike[In_contra, Out_co]):
    """Sources and stages, ready to run: ``await`` it, enter it with ``async with``, or ``.stream()`` it.

    ``numbers >> double >> show`` makes one. ``Pipeline(numbers, double >> show, maxsize=…)`` is the same with settings;
    there the first part may be any iterable or async iterable, or be left out, for a pipeline that is fed with
    :meth:`Running.put`. More than two parts run as well, but type checkers refuse them: ``>>`` types any number.

    ``maxsize``
        Items that each queue holds, unless its stage or an inner pipeline sets its own; 0 means unbounded. By default
        that of the first part, if that is a pipeline that sets it, else 128.
    ``drain_timeout``
        Seconds that a drain may take. By default that of the first part that sets it, else 30.
    ``on_unfinished``
        A function, or a coroutine function, that gets the accepted items which a run has not handled to their end: a
        tuple of :class:`Unfinished`. It is called when the run has ended and left items, for whatever reason, before
        ``await`` or the block returns or raises; what it raises fails the run. By default that of the first part that
        sets it.
    ``name``
        What the log and errors call it. By default its parts: ``numbers >> double >> show``.

    Raises ``DefinitionError`` for a pipeline that cannot run. A pipeline can run any number of times, but only once at
    a time.
    """

    __slots__ = ("_around", "_beside", "_following", "_is_used", "_listeners", "_plan", "_run")

    @overload
    def __init__(
        self: Pipeline[A, B],
        only: StageLike[A, B],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        on_unfinished: Callable[[tuple[Unfinished, ...]], object] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, B],
        source: Start[A],
        stage: StageLike[A, B],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        on_unfinished: Callable[[tuple[Unfinished, ...]], object] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, C],
        stage: StageLike[A, B],
        following: StageLike[B, C],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        on_unfinished: Callable[[tuple[Unfinished, ...]], object] | None = ...,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        *parts: Any,
        maxsize: int | None = None,
        drain_timeout: float | None = None,
        on_unfinished: Callable[[tuple[Unfinished, ...]], object] | None = None,
        name: str | None = None,
    ) -> None:
        self._plan, layout = join(parts, maxsize, drain_timeout, on_unfinished, name)
        super().__init__(layout)
        self._run: Supervisor | None = None
        self._beside: dict[Beside, ExitStack] = {}  # what accompanies each run, and how to end that
        self._around: ExitStack | None = None  # ends what accompanies the current run, if anything does
        self._listeners: list[Listener] = []
        self._following: Following | None = None  # what follows some items of each run
        self._is_used = False  # run, shown, or a part of another

    def __await__(self) -> Generator[Any, None, Report]:
        """Run to the end in the caller's loop and return the :class:`Report`; signal handlers stay as they are.

        Raises ``PipelineError`` when it failed. *Cancel safety*: the workers are cancelled too, and when none is
        left ``CancelledError`` comes out; a second cancel cuts their clean-up short.
        """
        return self._complete().__await__()

    async def _complete(self, *beside: Beside) -> Report:
        """Run to the end; each ``beside`` is entered while it runs."""
        run = self._start("awaiting it", beside)
        try:
            await wait_hastening(run)
        finally:
            self._release()
        return run.outcome.complete_result()

    async def __aenter__(self) -> Running[In_contra, Out_co]:
        """Start the run; leaving the block drains it, within ``drain_timeout`` seconds.

        Leaving raises ``PipelineError`` if the run failed, or if items were left at the deadline. After an exception in
        the block the run drains too, then the exception comes out. A cancelled block cancels the workers.
        """
        return Running(self._start(entered=True))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._run is not None
        run = self._run
        end_block(run, error)
        await leave(run, error, self._release, run.outcome.complete_result)

    def stream(self) -> Results[Out_co]:
        """Run it and read the last stage's values: ``async with pipeline.stream() as values: async for …``.

        At most ``maxsize`` values wait to be read; a reader that pauses is backpressure.
        """
        return Results(lambda: self._start("streaming it", streamed=True), self._release)

    @overload
    async def collect(self, *, pairs: Literal[False] = ...) -> list[Out_co]: ...

    @overload
    async def collect(self: Pipeline[A, B], *, pairs: Literal[True]) -> list[tuple[A, B | Exception]]: ...

    async def collect(self, *, pairs: bool = False) -> Any:
        """Run to the end and return the values of the last stage, or of the last stage of each branch, in a list.

        They come in the order in which they were made; with ``ordered=True``, in that of the items. If they do not all
        fit into memory, use :meth:`stream`. Raises ``PipelineError`` as ``await`` does; its ``results`` are the values
        that came before. *Cancel safety*: as with ``await``, the workers are cancelled too; the ``CancelledError`` has
        the ``results`` too.

        With ``pairs=True`` the list has a pair for each item of the sources: the item, and the result that was made
        from it. If ``on_error="skip"`` or a function lets the run go on after a failure, the error takes the place of
        the result; an item that was dropped has ``asyncio.QueueFull``. A stage that may give several results for an
        item is refused with ``DefinitionError``, and so is one whose failures go to a consumer. Items that are fed have
        no pair.
        """
        if pairs:
            return await self._collect_pairs()
        results: list[Out_co] = []
        try:
            async with Results[Out_co](
                lambda: self._start("collecting from it", streamed=True), self._release
            ) as values:
                async for value in values:
                    results.append(value)  # noqa: PERF401  # an error takes along what came before it; a comprehension would lose that
        except PipelineError as error:
            error.results = results
            raise
        except asyncio.CancelledError as cancelled:
            vars(cancelled)["results"] = results  # no class of ours: the caller's cancel has to come out as it is
            raise
        return results

    async def _collect_pairs(self) -> list[tuple[Any, Any]]:
        pairs = Pairs()
        run = self._start("collecting from it", plan=pairs.plan(self._plan), tracks=True)
        run.accounts.tracked = True
        try:
            await wait_hastening(run)
            run.outcome.complete_result()
        except (PipelineError, asyncio.CancelledError) as error:
            vars(error)["results"] = pairs.found
            raise
        finally:
            self._release()
        return pairs.found

    def progress(self) -> AbstractAsyncContextManager[None]:
        """Show how far each run of this pipeline has come: ``async with pipeline.progress(): await pipeline``.

        A terminal and a notebook show a line that moves, with a bar if the sources know their total; elsewhere stderr
        gets a line every 10 s. The last state stays. A block may have several runs, one after the other, each started
        in any way; a run that goes on after the block is no longer shown. An error of the display is logged and
        does not affect the run.
        """
        return self._accompanied(screens().progress(self._plan))

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with what happens in this pipeline's runs from now on, also in one that is under way.

        :mod:`asyncpc.events` has the events. A listener is called in the loop and should return at once; one that takes
        longer than half a second is logged, and one that raises is logged and not called again in the same run.
        """
        check_callback(f"pipeline {self._plan.name!r}", "listener", listener, "a function of an event")
        self._listeners.append(listener)
        if self._run is not None:
            self._run.events.add(listener)

    @asynccontextmanager
    async def _accompanied(self, beside: Beside) -> AsyncIterator[None]:
        """Enter ``beside`` for each run in the block, until that run has ended, or the block."""
        self._beside[beside] = own = ExitStack()
        if self._run is not None and self._run.belongs_here():
            self._enter_beside(self._run, beside, own)
        try:
            yield
        finally:
            del self._beside[beside]
            if self._run is not None and self._run.belongs_here():
                asyncio.get_running_loop().call_soon(_end_unless_stopping, own, self._run)

    def _enter_beside(self, run: Supervisor, beside: Beside, own: ExitStack) -> None:
        """Enter ``beside``; it ends with ``own``, with the run at the latest."""
        own.enter_context(beside(Running(run)))
        if self._around is None:
            self._around = ExitStack()
        self._around.callback(own.close)

    def _start(
        self,
        means: str | None = None,
        beside: Sequence[Beside] = (),
        *,
        plan: Plan | None = None,
        streamed: bool = False,
        tracks: bool = False,
        entered: bool = False,
    ) -> Supervisor:
        """Start a run, accompanied by ``beside``; ``means`` names the way of running that needs a source."""
        self._is_used = True
        if self._run is not None and not self._run.lost_its_loop():
            raise StateError(
                f"pipeline {self._plan.name!r} is running already; make a Pipeline for each concurrent run "
                "(they can share their stages: first >> second makes another)"
            )
        if means is not None and not self._plan.origins:
            raise DefinitionError(
                f"pipeline {self._plan.name!r} has no source, so {means} would never end: "
                "begin it with a producer, or use 'async with pipeline as running' and running.put(item)"
            )
        self._run = run = Supervisor(
            plan or self._plan,
            streamed=streamed,
            tracks=tracks,
            entered=entered,
            listeners=self._listeners,
            following=self._following,
        )
        try:
            for one in beside:
                self._enter_beside(run, one, ExitStack())
            for one, own in self._beside.items():
                self._enter_beside(run, one, own)
            run.start()
        except BaseException:
            self._release()
            raise
        return run

    def _release(self) -> None:
        self._run = None
        if self._around is not None:
            around, self._around = self._around, None
            around.close()

    def _as_part(self) -> Layout:
        self._is_used = True
        return super()._as_part()

    def _as_plan(self) -> Plan:
        self._is_used = True
        return self._plan

    def _label(self) -> str:
        return self._plan.name

    def __repr__(self) -> str:
        # asyncio shows it where it refuses a pipeline, as asyncio.run(pipeline) does
        advice = "await it, or asyncpc.run(it)" if self._plan.origins else "enter it: async with it as running"
        return f"<Pipeline {self._plan.name}; {advice}>"

    if sys.flags.dev_mode:  # a coroutine may have made it and forgotten to await it; a module may have any number

        def __del__(self) -> None:
            if not getattr(self, "_is_used", True) and asyncio._get_running_loop() is not None:
                warnings.warn(
                    f"{self._named()} was never run: await it, or enter it with 'async with'",
                    RuntimeWarning,
                    stacklevel=2,
                )

    if not TYPE_CHECKING:  # checkers refuse these as they are; without docstrings, the reference leaves them out

        def __aiter__(self) -> None:
            raise DefinitionError(
                f"{self._named()} is not read by itself: write 'async with pipeline.stream() as values: async for "
                "value in values:', or 'await pipeline.collect()'"
            )

        __iter__ = __aiter__

        def __enter__(self) -> None:
            raise DefinitionError(f"{self._named()}: write 'async with' instead of 'with'")

        __exit__ = __enter__

    def _repr_html_(self) -> str:
        return f"<pre>{escape(screens().picture(self._as_plan()))}</pre>"


def _joined(first: Any, following: Any) -> Pipeline[Any, Any]:
    return Pipeline(first, following)


def _end_unless_stopping(own: ExitStack, run: Supervisor) -> None:
    """End what a block began, unless the block of the run was left with it: then its drain is of interest too."""
    if not run.statistics().stop_asked:
        own.close()


def plan_of(pipeline: Pipeline[Any, Any]) -> Plan:
    """The plan that a pipeline's runs are made from."""
    return pipeline._as_plan()


def accompany(pipeline: Pipeline[Any, Any], beside: Beside) -> None:
    """Enter ``beside`` for each run of the pipeline from now on, and for one that is under way, in any loop."""
    pipeline._beside[beside] = own = ExitStack()
    if pipeline._run is not None:
        pipeline._enter_beside(pipeline._run, beside, own)


def follow(pipeline: Pipeline[Any, Any], following: Following) -> None:
    """Let ``following`` follow items in each run of the pipeline that begins from now on."""
    pipeline._following = following


async def run_beside(pipeline: Pipeline[Any, Any], *beside: Beside) -> Report:
    """Run a pipeline to its end as ``await`` does; each ``beside`` is entered while it runs."""
    return await pipeline._complete(*beside)


def handler_of(consumer: StageLike[Any, Any]) -> Handler:
    """The definition of a consumer's stage."""
    return stage_layout(consumer, "a consumer").nodes[0].handler
