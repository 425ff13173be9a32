"""Composition: what the decorators make, joined into a pipeline.

``@producer`` and ``@consumer`` make definitions, ``>>`` joins them into a :class:`Pipeline`, and a pipeline is awaited,
entered or streamed. All of them are inert (invariant 9): each run is made fresh from the pipeline's plan.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Hashable,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from .checks import OnError, Overflow, RunIn, check_maxsize, check_name, refuse_called
from .errors import DefinitionError, StateError
from .policies import Adaptive, Batch, Breaker, Rate, Restart, Retry
from .queue import DEFAULT_MAXSIZE
from .report import Report
from .running import Results, Running, conclude, conclude_with
from .stages import OPTIONS, Handler, Origin, Plan, bind_origin, define_handler, define_origin, iterable_origin, unique
from .supervisor import Supervisor

__all__ = [
    "Consumer",
    "Pipeline",
    "Producer",
    "Results",
    "Running",
    "Source",
    "consumer",
    "merge",
    "producer",
    "source",
]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T_co = TypeVar("T_co", covariant=True)
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Call_co = TypeVar("Call_co", covariant=True)
Resource_co = TypeVar("Resource_co", covariant=True)
P = ParamSpec("P")

DRAIN_TIMEOUT = 30.0
"""Seconds a drain may take by default: what Kubernetes grants a pod between SIGTERM and SIGKILL."""

Items = Iterable[T_co] | AsyncIterable[T_co]
Resource = Callable[[], AbstractAsyncContextManager[T]] | AbstractAsyncContextManager[T]


class Source(Generic[T_co]):
    """One or several places that items come from; composed with ``>>``, or read with ``async for`` in a test."""

    __slots__ = ("_origins",)

    def __init__(self, *origins: Origin) -> None:
        self._origins = origins

    def __rshift__(self, following: Consumer[T_co, B, Any] | Pipeline[T_co, B]) -> Pipeline[T_co, B]:
        return _join(self, following)

    def __aiter__(self) -> AsyncIterator[T_co]:
        """The items alone, without a pipeline; a merged source needs a pipeline to be read."""
        if len(self._origins) != 1:
            raise DefinitionError(
                "a merged source is read by a pipeline only: async for item in each of its parts instead"
            )
        return self._origins[0].iterate()

    def __repr__(self) -> str:
        return f"<Source {' + '.join(origin.name for origin in self._origins)}>"


class Producer(Generic[P, T_co]):
    """An async generator function as a source: composed as it is, or called with its arguments first."""

    __slots__ = ("__wrapped__", "_origin")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self.__wrapped__: Callable[..., Any] = origin.open

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Source[T_co]:
        """The source with these arguments. Raises ``DefinitionError`` if they do not fit the function."""
        return Source(bind_origin(self._origin, args, kwargs))

    def __rshift__(self, following: Consumer[T_co, B, Any] | Pipeline[T_co, B]) -> Pipeline[T_co, B]:
        return _join(self, following)

    def __repr__(self) -> str:
        return f"<Producer {self._origin.name}>"


class Consumer(Generic[In_contra, Out_co, Call_co]):
    """An async function or generator as a stage; calling it calls just the function."""

    __slots__ = ("__wrapped__", "_handler")

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.__wrapped__: Callable[..., Any] = handler.function

    def __call__(self, item: In_contra, /, *args: Any, **kwargs: Any) -> Call_co:
        """Just the function, as it was written: no queue, no pipeline."""
        return cast(Call_co, self._handler.function(item, *args, **kwargs))

    def __rshift__(self, following: Consumer[Out_co, B, Any] | Pipeline[Out_co, B]) -> Pipeline[In_contra, B]:
        return _join(self, following)

    def __repr__(self) -> str:
        return f"<Consumer {self._handler.name}>"


class Pipeline(Generic[In_contra, Out_co]):
    """Sources and stages, ready to run: ``await`` it, enter it with ``async with``, or ``.stream()`` it.

    ``Pipeline(numbers, double, show)`` is ``numbers >> double >> show``; the first part may be any iterable or async
    iterable, or be left out, for a pipeline that is fed with :meth:`Running.put`.

    ``maxsize`` (items) bounds each queue whose stage does not set its own; ``drain_timeout`` (seconds) bounds a drain.
    Raises ``DefinitionError`` for what cannot run. A pipeline can be run any number of times, once at a time.
    """

    __slots__ = ("_plan", "_run")

    @overload
    def __init__(
        self: Pipeline[A, B],
        only: _Stage[A, B],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, B],
        first: _Start[A],
        second: _Stage[A, B],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, C],
        first: _Stage[A, B],
        second: _Stage[B, C],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, C],
        first: _Start[A],
        second: _Stage[A, B],
        third: _Stage[B, C],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        name: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Pipeline[A, D],
        first: _Start[A],
        second: _Stage[A, B],
        third: _Stage[B, C],
        fourth: _Stage[C, D],
        /,
        *,
        maxsize: int = ...,
        drain_timeout: float = ...,
        name: str | None = ...,
    ) -> None: ...
    def __init__(
        self,
        *parts: Any,
        maxsize: int | None = None,
        drain_timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        self._plan = _plan(parts, maxsize, drain_timeout, name)
        self._run: Supervisor | None = None

    def __rshift__(self, following: Consumer[Out_co, B, Any] | Pipeline[Out_co, B]) -> Pipeline[In_contra, B]:
        return _join(self, following)

    def __await__(self) -> Generator[Any, None, Report]:
        """Run to completion in the caller's loop and return the :class:`Report`; no signal handler is touched.

        Raises ``PipelineError`` when it failed. *Cancel safety*: the workers are cancelled too, and when none is
        left ``CancelledError`` comes out; a second cancel cuts their clean-up short.
        """
        return self._complete().__await__()

    async def _complete(
        self, beside: Callable[[Running[In_contra, Out_co]], AbstractContextManager[None]] | None = None
    ) -> Report:
        """Run to the end, with ``beside`` entered while it runs."""
        run = self._start("await it")
        try:
            with nullcontext() if beside is None else beside(Running(run)):
                await run.wait_hastening()
        finally:
            self._release()
        return conclude(run)

    async def __aenter__(self) -> Running[In_contra, Out_co]:
        """Start it here; leaving the block drains it, within ``drain_timeout`` seconds.

        Leaving raises ``PipelineError`` if the run failed, or if items were left at the deadline. An exception in the
        block drains too, and comes out; a cancelled block cancels the workers.
        """
        return Running(self._start(answers=True))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._run is not None
        run = self._run
        if error is None or isinstance(error, Exception):
            run.stop()
        else:
            run.abort()
        try:
            await run.wait_hastening(error)
        finally:
            self._release()
        if error is None and not run.told:
            conclude(run)
        elif isinstance(error, Exception) and not run.told:
            conclude_with(run, error)

    def stream(self) -> Results[Out_co]:
        """The last stage's values, to be read with ``async with pipeline.stream() as values: async for …``.

        At most ``maxsize`` of them wait to be read: not reading is backpressure.
        """
        return Results(lambda: self._start("stream it", streamed=True), self._release)

    def _start(self, means: str | None = None, *, streamed: bool = False, answers: bool = False) -> Supervisor:
        """A fresh run; ``means`` names the way of running that needs a source."""
        if self._run is not None and not self._run.lost_its_loop():
            raise StateError(
                f"pipeline {self._plan.name!r} is running already; give each concurrent run a Pipeline of its own "
                "(stages can be shared: first >> second makes another)"
            )
        if means is not None and not self._plan.origins:
            raise DefinitionError(
                f"pipeline {self._plan.name!r} has no source, so to {means} would wait for ever: "
                "begin it with a producer, or use 'async with pipeline as running' and running.put(item)"
            )
        self._run = run = Supervisor(self._plan.for_a_run(), streamed=streamed, answers=answers)
        for source in run.producers:
            if source.origin.blocks:
                from .bridge import read_in_thread  # here, since most programs have no such source

                source.origin = source.origin._replace(open=partial(read_in_thread, source, source.origin.open))
        try:
            run.start()
        except BaseException:
            self._run = None
            raise
        return run

    def _release(self) -> None:
        self._run = None

    def __repr__(self) -> str:
        return f"<Pipeline {self._plan.name}>"


_Start = Source[A] | Producer[..., A] | Iterable[A] | AsyncIterable[A]
_Stage = Consumer[A, B, Any] | Pipeline[A, B]


# -- making definitions ---------------------------------------------------------------------------


class _ProducerDecorator(Protocol):
    def __call__(self, function: Callable[P, AsyncIterator[T] | Iterator[T]], /) -> Producer[P, T]: ...


class _ConsumerDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[[A], AsyncGenerator[B, None]], /
    ) -> Consumer[A, B, AsyncGenerator[B, None]]: ...
    @overload
    def __call__(self, function: Callable[[A], AsyncIterator[B]], /) -> Consumer[A, B, AsyncIterator[B]]: ...
    @overload
    def __call__(
        self, function: Callable[[A], Coroutine[Any, Any, B]], /
    ) -> Consumer[A, B, Coroutine[Any, Any, B]]: ...
    @overload
    def __call__(
        self, function: Callable[[A], Generator[B, None, None]], /
    ) -> Consumer[A, B, Generator[B, None, None]]: ...
    @overload
    def __call__(self, function: Callable[[A], Iterator[B]], /) -> Consumer[A, B, Iterator[B]]: ...
    @overload
    def __call__(self, function: Callable[[A], B], /) -> Consumer[A, B, B]: ...


class _ContextDecorator(Protocol[Resource_co]):
    @overload
    def __call__(
        self, function: Callable[[A, Resource_co], AsyncIterator[B]], /
    ) -> Consumer[A, B, AsyncIterator[B]]: ...
    @overload
    def __call__(
        self, function: Callable[[A, Resource_co], Coroutine[Any, Any, B]], /
    ) -> Consumer[A, B, Coroutine[Any, Any, B]]: ...
    @overload
    def __call__(self, function: Callable[[A, Resource_co], Iterator[B]], /) -> Consumer[A, B, Iterator[B]]: ...
    @overload
    def __call__(self, function: Callable[[A, Resource_co], B], /) -> Consumer[A, B, B]: ...


if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class Options(TypedDict, total=False):
        """What :func:`consumer` takes, apart from ``context``."""

        concurrency: int | Adaptive
        maxsize: int | None
        retry: int | Retry | None
        timeout: float | None
        on_error: OnError
        max_failures: float | None
        rate: Rate | None
        breaker: Breaker | None
        ordered: bool
        key: Callable[[Any], Hashable] | None
        priority: Callable[[Any], Any] | None
        overflow: Overflow
        on_drop: Callable[[Any], object] | None
        run_in: RunIn | None
        name: str | None


class _BatchDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[[list[A]], AsyncIterator[B]], /) -> Consumer[A, B, AsyncIterator[B]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, list[B]]], /
    ) -> Consumer[A, B, Coroutine[Any, Any, list[B]]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, None]], /
    ) -> Consumer[A, None, Coroutine[Any, Any, None]]: ...


class _BatchContextDecorator(Protocol[Resource_co]):
    @overload
    def __call__(
        self, function: Callable[[list[A], Resource_co], AsyncIterator[B]], /
    ) -> Consumer[A, B, AsyncIterator[B]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A], Resource_co], Coroutine[Any, Any, list[B]]], /
    ) -> Consumer[A, B, Coroutine[Any, Any, list[B]]]: ...
    @overload
    def __call__(
        self, function: Callable[[list[A], Resource_co], Coroutine[Any, Any, None]], /
    ) -> Consumer[A, None, Coroutine[Any, Any, None]]: ...


@overload
def producer(function: Callable[P, AsyncIterator[T] | Iterator[T]], /) -> Producer[P, T]: ...
@overload
def producer(*, restart: Restart | None = None, name: str | None = None) -> _ProducerDecorator: ...
def producer(
    function: Callable[..., Any] | None = None, /, *, restart: Restart | None = None, name: str | None = None
) -> Any:
    """Make a generator function a source of items, async or not.

    It is asked for its next item only while there is room for it. When the run stops, it is cancelled where it waits
    and closed, so its ``finally`` runs. A plain generator may block: each run reads it in a thread of its own. A stop
    does not wait for one that is blocked; it is closed when it comes back, and what it gives then is not taken.

    ``restart`` starts it again when it raises; by default an error ends the intake, what it gave is handled, and the
    error comes out. Raises ``DefinitionError`` for anything else.
    """
    if function is None:
        return lambda function: Producer(define_origin(function, restart, name))
    return Producer(define_origin(function, restart, name))


@overload
def consumer(function: Callable[[A], AsyncIterator[B]], /) -> Consumer[A, B, AsyncIterator[B]]: ...
@overload
def consumer(function: Callable[[A], Coroutine[Any, Any, B]], /) -> Consumer[A, B, Coroutine[Any, Any, B]]: ...
@overload
def consumer(function: Callable[[A], Generator[B, None, None]], /) -> Consumer[A, B, Generator[B, None, None]]: ...
@overload
def consumer(function: Callable[[A], Iterator[B]], /) -> Consumer[A, B, Iterator[B]]: ...
@overload
def consumer(function: Callable[[A], B], /) -> Consumer[A, B, B]: ...
@overload
def consumer(**options: Unpack[Options]) -> _ConsumerDecorator: ...
@overload
def consumer(*, context: Resource[T], **options: Unpack[Options]) -> _ContextDecorator[T]: ...
@overload
def consumer(*, batch: Batch, **options: Unpack[Options]) -> _BatchDecorator: ...
@overload
def consumer(*, batch: Batch, context: Resource[T], **options: Unpack[Options]) -> _BatchContextDecorator[T]: ...
def consumer(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function (one value per item) or generator (any number) a stage; both may be async or not.

    What it gives goes on to the next stage. The options, all of them optional:

    ``concurrency``
        How many items it handles at once, at most; workers start when there is work for them. An :class:`Adaptive`
        follows the latency of the calls.
    ``maxsize``
        Items that the queue before it holds; 0 is unbounded.
    ``context``
        An async context manager, or a function that returns one, entered once per worker, when the run starts: the
        handler gets what it gives as a second argument.
    ``retry``
        How many calls an item gets, or a :class:`Retry`. A generator begins anew; what it gave before stays given.
    ``timeout``
        Seconds a call may take, then it is cancelled and has failed with ``TimeoutError``.
    ``on_error``
        What becomes of an item that has failed at last. ``"stop"``: the run fails. ``"skip"``: it is counted, and the
        run goes on. A function or queue: likewise, and it is told the :class:`Failure` (if that fails, the run does).
    ``max_failures``
        How many items may fail so, or which share of them (below 1, judged over at least 100 items).
    ``rate``
        A :class:`Rate` that its calls begin at.
    ``breaker``
        A :class:`Breaker` that lets the stage rest when calls fail in a row.
    ``batch``
        A :class:`Batch`: the handler gets lists of items.
    ``ordered``
        Whether values leave in the order the items came in; a worker that is ahead need not wait for a slow one.
    ``key``
        A function of an item: those of one key are handled in order and one at a time, whatever the concurrency.
    ``priority``
        A function of an item: the lowest first.
    ``overflow``, ``on_drop``
        What becomes of an item that finds the queue full: ``"wait"`` is backpressure; ``"drop_oldest"`` and
        ``"drop_newest"`` give one up, count it as dropped and call ``on_drop`` with it; ``"raise"`` is
        ``asyncio.QueueFull`` for whoever gives it.
    ``run_in``
        ``"loop"`` for async functions, ``"thread"`` for all others: a thread for each of its workers. ``"process"``
        makes the calls in as many processes as ``concurrency`` says, for work that would keep one processor busy; the
        function is imported there by its name, and items, results and errors are pickled. Small items travel together.
        A call whose process died is made once more. A thread cannot be interrupted: a call that outlives its timeout
        keeps its thread until it ends. A process can, and is replaced.
    ``name``
        For the report and for errors.

    Raises ``DefinitionError``, which names the stage and the cure, for a function or option that does not fit.
    """
    if unknown := options.keys() - OPTIONS:
        raise DefinitionError(f"consumer has no option {', '.join(sorted(unknown))}; it has {', '.join(OPTIONS)}")

    def define(function: Callable[..., Any]) -> Consumer[Any, Any, Any]:
        return Consumer(define_handler(function, **options))

    return define if function is None else define(function)


def source(items: Items[T], name: str | None = None) -> Source[T]:
    """Any iterable or async iterable as a source; ``name`` is for the report. It is iterated afresh in each run."""
    return Source(iterable_origin(items, name))


def merge(*sources: Source[T] | Producer[..., T] | Items[T]) -> Source[T]:
    """Several sources as one: each gives its items as they come, under the same bound."""
    if not sources:
        raise DefinitionError("merge() needs at least one source")
    return Source(*(origin for one in sources for origin in _origins(one)))


def _origins(part: Any) -> tuple[Origin, ...]:
    if isinstance(part, Producer):
        return (bind_origin(part._origin, (), {}),)
    if isinstance(part, Source):
        return part._origins
    if isinstance(part, (Consumer, Pipeline)):
        raise DefinitionError(
            f"{part!r} is not a source: only producers, sources and iterables can be merged or come first"
        )
    return (iterable_origin(part),)


def _plan(parts: tuple[Any, ...], maxsize: int | None, drain_timeout: float | None, name: str | None) -> Plan:
    """The parts of a pipeline laid out in order; raises ``DefinitionError`` for an order that makes no sense."""
    origins: tuple[Origin, ...] = ()
    handlers: list[Handler] = []
    inherited: Plan | None = None
    for place, part in enumerate(parts):
        refuse_called(f"part {place + 1} of the pipeline", part)
        if isinstance(part, Consumer):
            handlers.append(part._handler)
        elif isinstance(part, Pipeline):
            if place and part._plan.origins:
                raise DefinitionError(f"{part!r} has a source of its own, so it can only come first")
            origins = origins or part._plan.origins
            handlers += part._plan.handlers
            inherited = inherited or part._plan
        elif place == 0:
            origins = _origins(part)
        elif isinstance(part, (Producer, Source)):
            raise DefinitionError(f"{part!r} is a source, so it can only come first; join several with merge(a, b)")
        else:
            raise DefinitionError(
                f"part {place + 1} of the pipeline, {part!r}, is not a stage: decorate it with @consumer"
            )
    if not handlers:
        raise DefinitionError("an empty pipeline: it needs at least one consumer")
    if maxsize is None:
        maxsize = inherited.maxsize if inherited else DEFAULT_MAXSIZE
    if drain_timeout is None:
        drain_timeout = inherited.drain_timeout if inherited else DRAIN_TIMEOUT
    label = name or " >> ".join(
        [*([" + ".join(o.name for o in origins)] if origins else []), *(h.name for h in handlers)]
    )
    check_name(label)
    check_maxsize(f"pipeline {label!r}", maxsize)
    if not isinstance(drain_timeout, (int, float)) or not drain_timeout >= 0:
        raise DefinitionError(f"pipeline {label!r}: drain_timeout={drain_timeout!r} must be 0 or more seconds")
    return Plan(label, unique(origins), unique(handlers), maxsize, drain_timeout)


def _join(first: Any, following: Any) -> Pipeline[Any, Any]:
    return Pipeline(first, following)
