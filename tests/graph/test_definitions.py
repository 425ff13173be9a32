"""What the user wrote: what can be a source or a stage, and the mistakes that are refused."""

from __future__ import annotations

import functools
import gc
import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import wraps
from typing import Any, cast

import pytest
from spy import Sink
from support import endless, ignore

from asyncpc import (
    Batch,
    BoundedQueue,
    DefinitionError,
    Pipeline,
    PipelineError,
    Rate,
    Restart,
    Retry,
    checks,
    consumer,
    merge,
    producer,
    route,
    source,
    testing,
)

# -- mistakes in the program ----------------------------------------------------------------------


async def coroutine(item: int) -> None: ...


async def two(item: int, other: int) -> None: ...


async def none() -> None: ...


async def generator() -> AsyncIterator[int]:
    yield 1


async def generator_of(thing: object) -> AsyncIterator[object]:
    yield thing


def plain(item: int) -> None: ...


def plain_generator() -> Iterator[int]:
    yield 1


class Methods:
    """What a class has that was not made an object yet."""

    async def handle(self, item: int) -> None: ...

    async def items(self) -> AsyncIterator[int]:
        yield 1


@wraps(generator)
def hidden() -> AsyncIterator[int]:
    return generator()


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    yield


@consumer
async def staged(item: int) -> int:
    return item


@consumer
def staged_plain(item: int) -> int:
    return item


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as many write it."""

    @wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Awaited:
    """A callable object whose value has to be awaited."""

    async def __call__(self, item: int) -> int:
        return item


NO_FUNCTIONS: dict[str, Any] = {
    "a consumer": staged,
    "a plain consumer": staged_plain,
    "a producer": producer(generator),
    "a source": source([1]),
    "a pipeline": source([1]) >> staged,
    "a consumer in a partial": functools.partial(staged),
    "a coroutine": None,  # made in the test, since each is refused and closed
    "a number": 3,
    "no argument": lambda: 1,
}
"""What can be no callback at all."""

ASYNC: dict[str, Any] = {
    "an async function": coroutine,
    "a static method": staticmethod(coroutine),
    "a partial": functools.partial(two, 1),
    "a callable object": Awaited(),
    "a bound method": Methods().handle,
    "behind a decorator": logged(coroutine),
    "behind two": logged(functools.partial(logged(coroutine))),
    "a generator": lambda item: (yield item),
}
"""What gives no value at once."""

ITEM_FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "key": lambda function: consumer(key=function),
    "priority": lambda function: consumer(priority=function),
    "on_drop": lambda function: consumer(overflow="drop_newest", on_drop=function),
    "batch weigh": lambda function: consumer(batch=Batch(2, weigh=function)),
    "batch key": lambda function: consumer(batch=Batch(2, key=function)),
    "rate key": lambda function: consumer(rate=Rate(1, key=function)),
    "Retry wait": lambda function: consumer(retry=Retry(wait=function)),
    "Restart backoff": lambda function: producer(restart=Restart(1, backoff=function)),
    "by": lambda function: lambda item: route(function, {1: ignore}),
}
"""Options, and how they are given a function."""


def made_with(option: str, function: Any) -> object:
    """A part with ``function`` as that option."""
    decorate: Any = ITEM_FUNCTIONS[option](function)
    return decorate(generator if option == "Restart backoff" else coroutine)


# What a type checker is told to ignore in these is the mistake itself, which must be refused at run time too.
MISTAKES: dict[str, tuple[Callable[[], object], str, str]] = {
    "producer without yield": (lambda: producer(coroutine), "'coroutine'", "with 'yield'"),  # type: ignore[arg-type]
    "plain function in the loop": (lambda: consumer(run_in="loop")(plain), "'plain'", "write 'async def'"),
    "too many parameters": (lambda: consumer(two), "'two'", "must take item"),  # type: ignore[arg-type]
    "forgotten context": (lambda: consumer(two), "'two'", "context= adds the resource"),  # type: ignore[arg-type]
    "too few parameters": (lambda: consumer(none), "'none'", "must take item"),  # type: ignore[arg-type]
    "no room for the resource": (lambda: consumer(context=resource)(coroutine), "'coroutine'", "item and resource"),  # type: ignore[arg-type]
    "no concurrency": (lambda: consumer(concurrency=0)(coroutine), "'coroutine'", "at least 1"),
    "odd concurrency": (lambda: consumer(concurrency=1.5)(coroutine), "'coroutine'", "whole number"),  # type: ignore[call-overload]
    "stage's maxsize": (lambda: consumer(maxsize=-1)(coroutine), "'coroutine'", "0 means unbounded"),
    "pipeline's maxsize": (lambda: Pipeline(ignore, maxsize=-1), "'ignore'", "0 means unbounded"),
    "drain_timeout": (lambda: Pipeline(ignore, drain_timeout=-1), "'ignore'", "0 or more seconds"),
    "nan": (lambda: Pipeline(ignore, drain_timeout=float("nan")), "'ignore'", "0 or more seconds"),
    "producer in the middle": (lambda: Pipeline(range(3), endless, ignore), "<Producer endless>", "merge(a, b)"),  # type: ignore[call-overload]
    "function in the middle": (lambda: Pipeline(range(3), coroutine), "part 2", "decorate it with @consumer"),  # type: ignore[call-overload]
    "empty": (lambda: Pipeline(), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "no consumer": (lambda: Pipeline(endless), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "coroutine object": (lambda: consumer(coroutine(1)), "coroutine", "without calling it"),  # type: ignore[call-overload]
    "no source at all": (lambda: source(3), "source(int)", ""),  # type: ignore[arg-type]
    "arguments that do not fit": (lambda: endless(1), "'endless'", "compose endless("),  # type: ignore[call-arg]
    "empty merge": (lambda: merge(), "merge()", "at least one source"),  # type: ignore[call-overload]
    "called context": (lambda: consumer(context=resource())(two), "'two'", "pass the function"),  # type: ignore[arg-type]
    "Restart": (lambda: producer(restart=Restart(times=0))(endless.__wrapped__), "producer 'endless'", "at least 1"),
    "method": (lambda: consumer(Methods.handle), "'handle'", "self.handle = consumer(self.handle)"),  # type: ignore[arg-type]
    "method with a resource": (lambda: consumer(context=resource)(Methods.handle), "'handle'", "is a method"),  # type: ignore[arg-type]
    "method as a source": (lambda: producer(Methods.items), "producer 'items'", "is a method"),
    "option without a name": (lambda: consumer(4), "'int'", "consumer(concurrency=4)"),  # type: ignore[call-overload]
    "list before a stage": (lambda: [1] >> ignore, "<Consumer ignore>", "source(…) >> …"),  # type: ignore[operator]
    "function before a stage": (lambda: generator >> ignore, "<Consumer ignore>", "@producer"),  # type: ignore[operator]
    "source of a source": (lambda: source(endless), "<Producer endless>", "without source()"),  # type: ignore[arg-type]
    "sources in a list": (lambda: merge([endless, endless]), "merge()", "pass each as an argument of its own"),
    "decorated twice": (
        lambda: consumer(concurrency=4)(staged),
        "consumer 'staged'",
        "a consumer already: write its options in one place",
    ),
    "decorated twice in a partial": (lambda: consumer(functools.partial(staged)), "'staged'", "staged.__wrapped__"),
    "source as a stage": (lambda: consumer(cast(Any, endless)), "consumer 'endless'", "is a producer already"),
    "source decorated twice": (lambda: producer(cast(Any, endless)), "producer 'endless'", "endless.__wrapped__"),
    "stage as a source": (lambda: producer(cast(Any, staged)), "producer 'staged'", "is a consumer already"),
    "pipeline as a stage": (
        lambda: consumer(cast(Any, source([1]) >> ignore)),
        "consumer 'Pipeline'",
        "join it with others by >>",
    ),
    "generator as on_error": (lambda: consumer(on_error=generator_of)(coroutine), "on_error=", "not be a generator"),
    "source as on_error": (lambda: consumer(on_error=cast(Any, endless))(coroutine), "on_error=", "is a producer"),
    "consumer as context": (lambda: consumer(context=cast(Any, staged))(two), "'two'", "context= must be"),
    "async context": (lambda: consumer(context=cast(Any, Awaited()))(two), "'two'", "@asynccontextmanager"),
    "plain generator as context": (
        lambda: consumer(context=cast(Any, plain_generator))(two),
        "'two'",
        "@asynccontextm",
    ),
    "async total": (lambda: source([1], total=cast(Any, coroutine)), "source(list)", "total= must be a plain function"),
    "async total of a producer": (
        lambda: producer(total=cast(Any, none))(generator),
        "'generator'",
        "a plain function",
    ),
    "consumer as total": (lambda: source([1], total=cast(Any, staged)), "total=<Consumer staged>", "a number of items"),
    "on_unfinished without its items": (
        lambda: Pipeline(ignore, on_unfinished=cast(Any, lambda: None)),
        "'ignore'",
        "a function of the items left",
    ),
    "generator as on_unfinished": (
        lambda: Pipeline(ignore, on_unfinished=generator_of),
        "'ignore'",
        "not be a generator",
    ),
    "consumer as on_unfinished": (
        lambda: Pipeline(ignore, on_unfinished=cast(Any, staged)),
        "'ignore'",
        "is a consumer: it must",
    ),
    "decorated source": (lambda: producer(hidden), "'generator'", "or see whether a decorator hides it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_where_it_is_written(mistake: str) -> None:
    """Each message names the stage and the cure; nothing is left un-awaited (warnings are errors)."""
    make, who, cure = MISTAKES[mistake]
    with pytest.raises(DefinitionError) as caught:
        make()
    assert who in str(caught.value)
    assert cure in str(caught.value)
    gc.collect()


@pytest.mark.parametrize("option", ITEM_FUNCTIONS)
def test_an_option_takes_a_plain_function_only(option: str) -> None:
    """A coroutine as a key, a priority or a time fails late or orders nothing: it is refused where it is written."""
    for what, function in NO_FUNCTIONS.items():
        with pytest.raises(DefinitionError, match=f"{option}=.*(must be a|is a [a-z]+: it must be|coroutine object)"):
            made_with(option, coroutine(1) if what == "a coroutine" else function)
    for function in ASYNC.values():
        with pytest.raises(DefinitionError, match=f"{option}= must (be a plain function|not be a generator)"):
            made_with(option, function)
    gc.collect()


def test_a_function_that_wraps_itself_is_a_function() -> None:
    """An odd object must not keep a program from starting."""

    def real(item: int) -> int:
        return item

    vars(real)["__wrapped__"] = real
    assert made_with("key", real)


async def test_mistakes_of_composition_name_the_cure() -> None:
    """A called handler, an undecorated source, a bare generator as a resource: each says what to write."""

    @consumer
    async def handle(n: int) -> None: ...

    async def bare() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="coroutine object: pass the function itself"):
        source([1]) >> handle(1)  # type: ignore[operator]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate 'bare' with @producer"):
        Pipeline(bare, handle)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate it with @asynccontextmanager"):
        consumer(context=bare)(handle.__wrapped__)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(DefinitionError, match="drain_timeout='5'"):
        Pipeline(handle, drain_timeout="5")  # type: ignore[call-overload]  # the mistake under test
    assert (source(range(10**30)) >> handle)._plan.origins[0].total is None


def test_mistakes_that_only_a_run_can_see() -> None:
    """No source to await; the same iterator, resource or pipeline used twice: refused, never a silent nothing."""

    async def main() -> None:
        with pytest.raises(DefinitionError, match="has no source, so awaiting it would never end"):
            await Pipeline(ignore)
        with pytest.raises(DefinitionError, match="has no source"):
            async with Pipeline(ignore).stream():
                pass
        once = Pipeline(iter([1, 2]), ignore)
        assert (await once).done == 2
        with pytest.raises(PipelineError) as caught:
            await once
        assert "an earlier run used up this iterator" in str(caught.value.exceptions[0])

    testing.run(main())


def test_a_resource_that_is_none_is_named() -> None:
    """Protects who writes ``@contextmanager`` for ``@asynccontextmanager``: the message says which option it is."""

    @contextmanager
    def session() -> Iterator[int]:
        yield 1

    @consumer(context=session)  # type: ignore[arg-type]  # the mistake under test
    async def handle(item: int, session: int) -> None: ...

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> handle)
    assert "stage 'handle': context= gave a _GeneratorContextManager, which is not an async" in str(
        failed.value.exceptions
    )


def test_a_forgotten_await_fails_the_run() -> None:
    """Protects from work that is never done and counted as done; what goes on to another stage may be any object."""

    @consumer
    async def forgets(item: int) -> Coroutine[Any, Any, None]:
        return coroutine(item)

    @consumer
    async def awaits(made: Coroutine[Any, Any, None]) -> None:
        await made

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1, 2, 3]) >> forgets)
    (error,) = failed.value.exceptions
    assert "stage 'forgets' gave a coroutine that nobody awaits" in str(error)
    assert testing.run(source([1, 2, 3]) >> forgets >> awaits).done == 3
    gc.collect()


# -- what can be a source or a stage --------------------------------------------------------------


def test_a_queue_is_a_source_as_often_as_it_is_run() -> None:
    """Unlike an iterator it is not used up: what came since is there for the next run."""
    seen: list[int] = []

    @consumer
    async def handle(n: int) -> None:
        if n == 2:
            raise ValueError
        seen.append(n)

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue()
        await queue.put_many([1, 2])
        pipeline = Pipeline(queue, handle)
        with pytest.raises(PipelineError):
            await pipeline
        await queue.put_many([3, 4])
        queue.close()
        await pipeline
        assert seen == [1, 3, 4]

    testing.run(main())


def test_a_method_of_an_object_is_a_stage() -> None:
    """Protects who keeps state in a class: the cure that the refusal names works."""

    class Sums:
        def __init__(self) -> None:
            self.total = 0
            self.add = consumer(concurrency=2)(self.add)  # type: ignore[has-type]  # the cure that is told

        async def add(self, item: int) -> None:  # type: ignore[no-redef]
            self.total += item

    sums = Sums()
    assert testing.run(source(range(5)) >> sums.add).done == 5
    assert sums.total == 10


def test_a_static_method_is_a_stage() -> None:
    """Protects who keeps handlers in a class without an object: an async one runs in the loop."""

    class Handlers:
        @consumer
        @staticmethod
        async def double(item: int) -> int:
            return 2 * item

    assert Handlers.double._layout.nodes[0].handler.run_in == "loop"
    assert testing.run(source([1]) >> Handlers.double >> ignore).done == 1


def test_any_callable_can_be_a_handler() -> None:
    """Partials and callable objects are looked through; a decorated function is still the function."""
    sink = Sink()

    async def add(n: int, m: int) -> int:
        return n + m

    async def main() -> None:
        assert await consumer(functools.partial(add, 1))(2) == 3
        await Pipeline([1], consumer(functools.partial(add, 1)) >> consumer(sink))
        assert sink.items == [2]

    testing.run(main())


# -- what is asked of every definition ------------------------------------------------------------


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions of all kinds and shapes, plain, decorated and marked."""
    code = """
def {0}({1}): pass
async def a{0}({1}): pass
def g{0}({1}): yield
async def ag{0}({1}): yield
"""
    shapes = (
        "", "a", "a, b", "a, b=0", "a=0, b=0", "a, /", "a, /, b", "*a", "a, *b", "**a", "a, **b", "*, a", "*, a=0",
        "a, *, b", "a, *, b=0", "self", "self, a", "cls, a", "a, self", "*self", "*, self",
    )  # fmt: skip
    made: dict[str, Any] = {}
    for number, shape in enumerate(shapes):
        exec(code.format(f"f{number}", shape), made)  # all shapes of four kinds
    for name, function in made.items():
        if name == "__builtins__":
            continue
        yield name, function

        @wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("nobody calls it")

        yield f"decorated {name}", decorated
    if mark := getattr(inspect, "markcoroutinefunction", None):
        yield "marked", mark(made["f1"])


@pytest.mark.parametrize("function", [pytest.param(function, id=name) for name, function in functions()])
def test_what_the_code_of_a_function_says_is_what_inspect_says(function: Callable[..., Any]) -> None:
    """A definition asks the code of a plain function, since inspect takes long; the answers must be the same."""
    asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    assert checks.is_async(function) == asynchronous
    assert checks.kind_of(function) == ("generator" if generates else "function")
    signature = inspect.signature(function)
    for count in range(4):
        try:
            signature.bind(*range(count))
        except TypeError as why:
            assert not checks.takes(function, count)
            with pytest.raises(TypeError, match=re.escape(str(why))):
                checks.bind(function, tuple(range(count)), {})
        else:
            assert checks.takes(function, count)
            checks.bind(function, tuple(range(count)), {})
    is_method = next(iter(signature.parameters), "") in ("self", "cls")
    with pytest.raises(DefinitionError, match="without its object") if is_method else nullcontext():
        checks.refuse_method("stage", function)
