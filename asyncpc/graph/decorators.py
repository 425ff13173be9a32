"""How sources and stages are written: ``@producer``, ``@consumer`` and ``source``.

The types here let an item's type flow from stage to stage; what they promise is kept by ``definitions`` and
``pipeline``.
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
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from ..backoff import Restart
from ..checks import Resource, RunIn
from ..errors import DefinitionError
from ..options.adaptive import Adaptive
from ..options.batch import Batch
from ..options.breaker import Breaker
from ..options.failures import Failure, OnError
from ..options.overflow import Overflow
from ..options.rate import Rate
from ..options.retry import Retry
from .definitions import OPTIONS, define_handler, define_origin, iterable_origin
from .layout import Layout
from .pipeline import Consumer, Producer, Source, handler_of

__all__ = ["Items", "Listener", "as_listener", "consumer", "producer", "source"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
P = ParamSpec("P")
Extra = ParamSpec("Extra")

Items = Iterable[T_co] | AsyncIterable[T_co]
Listener = Consumer[Failure, Any, ..., Any]
"""A consumer that is told of failures."""


class _ProducerDecorator(Protocol):
    def __call__(self, function: Callable[P, AsyncIterator[T] | Iterator[T]], /) -> Producer[P, T]: ...


class _ConsumerDecorator(Protocol[Extra]):
    """Takes a function of an item and ``Extra``: nothing, or the resource of ``context=``.

    What a generator function gives when it is called is a generator, whatever its annotation says.
    """

    @overload
    def __call__(
        self, function: Callable[Concatenate[A, Extra], AsyncIterator[B]], /
    ) -> Consumer[A, B, Concatenate[A, Extra], AsyncGenerator[B, None]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[A, Extra], Coroutine[Any, Any, B]], /
    ) -> Consumer[A, B, Concatenate[A, Extra], Coroutine[Any, Any, B]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[A, Extra], Iterator[B]], /
    ) -> Consumer[A, B, Concatenate[A, Extra], Generator[B, None, None]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[A, Extra], B], /) -> Consumer[A, B, Concatenate[A, Extra], B]: ...


class _BatchDecorator(Protocol[Extra]):
    """The same for a function of a list of items, which gives a value for each, or nothing; a generator gives any."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], AsyncIterator[B]], /
    ) -> Consumer[A, B, Concatenate[list[A], Extra], AsyncGenerator[B, None]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], Coroutine[Any, Any, list[B]]], /
    ) -> Consumer[A, B, Concatenate[list[A], Extra], Coroutine[Any, Any, list[B]]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], Coroutine[Any, Any, None]], /
    ) -> Consumer[A, None, Concatenate[list[A], Extra], Coroutine[Any, Any, None]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], Iterator[B]], /
    ) -> Consumer[A, B, Concatenate[list[A], Extra], Generator[B, None, None]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], list[B]], /
    ) -> Consumer[A, B, Concatenate[list[A], Extra], list[B]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[list[A], Extra], None], /
    ) -> Consumer[A, None, Concatenate[list[A], Extra], None]: ...


if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class Options(TypedDict, total=False):
        """What :func:`consumer` takes, apart from ``context``."""

        concurrency: int | Adaptive
        maxsize: int | None
        retry: int | Retry | None
        timeout: float | None
        on_error: OnError | Listener
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
def consumer(function: Callable[[A], AsyncIterator[B]], /) -> Consumer[A, B, [A], AsyncGenerator[B, None]]: ...
@overload
def consumer(function: Callable[[A], Coroutine[Any, Any, B]], /) -> Consumer[A, B, [A], Coroutine[Any, Any, B]]: ...
@overload
def consumer(function: Callable[[A], Iterator[B]], /) -> Consumer[A, B, [A], Generator[B, None, None]]: ...
@overload
def consumer(function: Callable[[A], B], /) -> Consumer[A, B, [A], B]: ...
@overload
def consumer(**options: Unpack[Options]) -> _ConsumerDecorator[[]]: ...
@overload
def consumer(*, context: Resource[R], **options: Unpack[Options]) -> _ConsumerDecorator[[R]]: ...
@overload
def consumer(*, batch: Batch, **options: Unpack[Options]) -> _BatchDecorator[[]]: ...
@overload
def consumer(*, batch: Batch, context: Resource[R], **options: Unpack[Options]) -> _BatchDecorator[[R]]: ...
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
        run goes on. A function, queue or consumer: likewise, and it is told the :class:`Failure`; if that fails, the
        run does. A consumer is a stage of its own, with its options (``on_error`` too) and its line in the report.
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
    if "on_error" in options:
        options["on_error"] = as_listener(options["on_error"])

    def define(function: Callable[..., Any]) -> Consumer[Any, Any, ..., Any]:
        return Consumer(define_handler(function, **options))

    return define if function is None else define(function)


def source(items: Items[T], name: str | None = None) -> Source[T]:
    """Any iterable or async iterable as a source; ``name`` is for the report. It is iterated afresh in each run."""
    if isinstance(items, (Producer, Source)):
        raise DefinitionError(f"source({items!r}): that is a source already; write it without source()")
    return Source(Layout((iterable_origin(items, name),)))


def as_listener(on_error: Any) -> Any:
    """What ``on_error`` names; of a consumer, which is a stage, what defines that."""
    return handler_of(on_error) if isinstance(on_error, Consumer) else on_error
