"""What a user writes sources and stages with: ``@producer``, ``@consumer`` and ``source``.

The types here let an item's type flow from stage to stage; ``definitions`` checks at run time what they promise.
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
from inspect import Parameter, signature
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from ..backoff import Restart
from ..checks import Resource, RunIn
from ..errors import DefinitionError
from ..failure import Failure
from ..mistakes import explained
from ..options.adaptive import Adaptive
from ..options.batch import Batch
from ..options.breaker import Breaker
from ..options.failures import OnError
from ..options.overflow import Overflow
from ..options.rate import Rate
from ..options.retry import Retry
from ..wording import shown
from .definitions import OPTIONS, define_handler, define_origin, iterable_origin
from .layout import Layout
from .pipeline import Consumer, Pipeline, Producer, Source, StageLike, handler_of

__all__ = ["Items", "Listener", "as_listener", "consumer", "producer", "source"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
T_co = TypeVar("T_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")
P = ParamSpec("P")
Extra = ParamSpec("Extra")

Items = Iterable[T_co] | AsyncIterable[T_co]
Listener = Consumer[Failure, Any, ..., Any] | Source[Failure]
"""What receives failures: a consumer, or a remote queue, which type checkers see as a ``Source``, as no pipeline is."""


class _ProducerDecorator(Protocol):
    def __call__(self, function: Callable[P, AsyncIterator[T] | Iterator[T]], /) -> Producer[P, T]: ...


class _ConsumerDecorator(Protocol[Extra]):
    """Takes a function of an item and of ``Extra``: nothing, or the resource of ``context=``.

    A call of a generator function returns a generator, even if its annotation says ``Iterator``.
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
    """The same for a function of a list of items: it returns a value for each, or None; a generator yields any."""

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


class Options(TypedDict, total=False):
    """What :func:`consumer` takes, apart from ``context``."""

    concurrency: int | Adaptive
    maxsize: int | None
    retry: int | Retry | None
    timeout: float | None
    on_error: OnError | Listener | None
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


def _tells_options(function: F) -> F:
    """Let ``help(function)`` show each option that it takes as ``**options``, with its type and its default."""
    types = {name: getattr(type_, "__forward_arg__", type_) for name, type_ in Options.__annotations__.items()}
    own = [one for one in signature(function).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
    told = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=OPTIONS[name], annotation=type_)
        for name, type_ in types.items()
        if name in OPTIONS
    ]
    telling: Any = function
    telling.__signature__ = signature(function).replace(parameters=[*own, *told])
    return function


@overload
def producer(function: Callable[P, AsyncIterator[T] | Iterator[T]], /) -> Producer[P, T]: ...
@overload
def producer(
    *, restart: Restart | None = None, name: str | None = None, total: int | Callable[..., int] | None = None
) -> _ProducerDecorator: ...
@explained
def producer(
    function: Callable[..., Any] | None = None,
    /,
    *,
    restart: Restart | None = None,
    name: str | None = None,
    total: int | Callable[..., int] | None = None,
) -> Any:
    """Make a generator function, async or not, a source of items.

    The source is asked for its next item only while there is room for it. When the run stops, an async generator is
    cancelled where it waits, and closed, so its ``finally`` runs. A plain generator may block: each run reads it in a
    thread of its own. A stop does not wait for a generator that is blocked. It is closed when it comes back, and the
    item that it yields then is not taken.

    ``restart``
        A :class:`Restart`: a generator that raises is started again. By default an error ends the intake, the items it
        yielded before are handled, and then the run raises the error.
    ``name``
        What the report and errors call it. By default the name of the function.
    ``total``
        How many items it will yield: a number, or a function of the producer's arguments, such as ``len``. Only
        progress shows it; the function is called when progress is shown.

    Raises ``DefinitionError`` for anything but a generator function.
    """
    if function is None:
        return lambda function: Producer(define_origin(function, restart, name, total))
    return Producer(define_origin(function, restart, name, total))


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
@explained
@_tells_options
def consumer(
    function: Callable[..., Any] | None = None,
    /,
    *,
    context: Resource[Any] | None = None,
    batch: Batch | None = None,
    **options: Unpack[Options],
) -> Any:
    """Make a function (one value per item) or a generator (any number of values) a stage; both may be async or not.

    The values go on to the next stage. All options are optional; the first line shows their defaults, and None turns
    an option off, unless its text says otherwise:

    ``concurrency``
        The most items that the stage handles at once; workers start when there is work for them. An :class:`Adaptive`
        follows the latency of the calls. A consumer that is used in several places of a pipeline has its own workers in
        each.
    ``maxsize``
        The most items that wait in the queue before the stage; 0 means unbounded, None what the pipeline says (128).
    ``context``
        An async context manager, or a function that returns one. Each worker enters it when the run starts, and passes
        what it yields to the handler as a second argument.
    ``retry``
        How many calls an item gets, or a :class:`Retry`. A generator starts over; the values that it yielded before an
        error stay emitted.
    ``timeout``
        Seconds that a call may take. Then it is cancelled and fails with ``TimeoutError``.
    ``on_error``
        What happens to an item that has failed for good. ``"stop"`` fails the run. So does None, unless the item came
        from a remote queue: then it goes to the dead letters of that queue, and the run goes on. ``"skip"`` counts the
        item, and the run goes on. With a function, a queue, a remote queue or a consumer the run goes on too, and these
        receive the :class:`Failure`; if that fails, the run fails. A consumer is then a stage of its own, with its own
        options (``on_error`` too) and its own line in the report; so is a remote queue.
    ``max_failures``
        How many items may fail this way, or which share of them (below 1, judged over at least 100 items); None: any.
    ``rate``
        A :class:`Rate` that limits how often calls begin. All places of one consumer in a run share it.
    ``breaker``
        A :class:`Breaker` that lets the stage rest after calls that failed in a row. All places of one consumer in a
        run share it.
    ``batch``
        A :class:`Batch`: the handler gets several items in a list of its own, which it may change. With ``key``, a
        batch may hold items of several keys, but the items of one key are never in two calls at once.
    ``ordered``
        Whether values leave in the order in which the items came in. A worker that is ahead need not wait for a slow
        one.
    ``key``
        A function of an item: items with the same key are handled in order and one at a time, whatever the concurrency.
    ``priority``
        A function of an item: the item with the lowest value comes first.
    ``overflow``, ``on_drop``
        What happens to an item that finds the queue full. ``"wait"`` is backpressure. ``"drop_oldest"`` and
        ``"drop_newest"`` drop an item, count it, and call ``on_drop`` with it. ``"raise"`` raises ``asyncio.QueueFull``
        in ``put``. If the stage before emits a value that is refused this way, the item from which it was made fails
        there, under that stage's ``on_error``.
    ``run_in``
        None is ``"loop"`` for async functions, ``"thread"`` for all others: one thread for each worker. ``"process"``
        makes the calls in as many processes as ``concurrency`` says, for work that keeps a processor busy. A process
        imports the function by its name; items, results and errors are pickled, and small items are sent several at a
        time. Results are unpickled in this process, so do not use it as a sandbox for code that you do not trust. A
        call whose process died is made once more. A thread cannot be interrupted: a call that exceeds its timeout keeps
        its worker, and the ``key`` of its item, until it ends. A process is ended and replaced. ``"interpreter"``
        (CPython 3.13 and later) makes the calls in interpreters inside this process, one for each worker, by the rules
        of a process. The function must not be in the program's main module. A call cannot be ended, so there is no
        ``timeout``, and neither ``asyncio.run`` nor the program ends before it. A drain still returns by its deadline.
    ``name``
        What the report and errors call the stage; None: what the function is called.

    Raises ``DefinitionError``, which names the stage and says what to write, for a function or option that does not
    fit.
    """
    if "on_error" in options:
        options["on_error"] = as_listener(options["on_error"])

    def define(function: Callable[..., Any]) -> Consumer[Any, Any, ..., Any]:
        return Consumer(define_handler(function, context=context, batch=batch, **options))

    return define if function is None else define(function)


@explained
def source(
    items: Items[T],
    name: str | None = None,
    *,
    run_in: Literal["loop", "thread"] = "loop",
    total: int | Callable[[Any], int] | None = None,
) -> Source[T]:
    """Any iterable or async iterable as a source, iterated afresh in each run; ``name`` is for the report.

    An iterable that may block, such as a file or a cursor, is read in a thread of its own with ``run_in="thread"``, as
    a plain generator with ``@producer`` is. Otherwise its ``next()`` holds up the event loop.

    ``total`` says how many items there are: a number, or a function of ``items``, such as ``len``. For lists and
    Python's other containers it is known. Only progress shows it.
    """
    if isinstance(items, (Producer, Source)):
        raise DefinitionError(f"source({shown(items)}): it is a source already; use it without source()")
    if isinstance(items, StageLike):
        raise DefinitionError(
            f"source() of a {type(items).__name__}: items go into it, as in source(items) >> it; for what comes out of "
            "a pipeline write merge(pipeline)"
        )
    return Source(Layout((iterable_origin(items, name, run_in, total),)))


def as_listener(on_error: Any) -> Any:
    """``on_error`` as options take it: a consumer, or a remote queue, becomes the handler of its stage."""
    is_one_stage = isinstance(on_error, StageLike) and not isinstance(on_error, Pipeline)
    return handler_of(on_error) if is_one_stage else on_error
