"""The public types as a program that is checked and never run: the item type flows from stage to stage.

Each ``type: ignore`` marks a mistake that the checkers must refuse; both run with unused ignores as errors, so a
mistake that slips through fails the check.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, assert_type

from asyncpc import (
    Adaptive,
    Batch,
    BoundedQueue,
    Breaker,
    Consumer,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Report,
    Restart,
    Retry,
    Running,
    Source,
    Statistics,
    consumer,
    merge,
    producer,
    run,
    source,
)


class Page: ...


@producer
async def numbers() -> AsyncIterator[int]:
    yield 1


@producer(restart=Restart(times=2), name="pages")
async def sitemap(url: str, *, depth: int = 1) -> AsyncIterator[str]:
    yield url


@consumer
async def double(n: int) -> float:
    return n * 2.0


@consumer(concurrency=4, maxsize=100)
async def show(n: float) -> None:
    print(n)


@consumer
async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word


@asynccontextmanager
async def session() -> AsyncGenerator[bytes, None]:
    yield b""


@consumer(concurrency=10, context=session)
async def fetch(url: str, session: bytes) -> Page:
    return Page()


letters: BoundedQueue[Failure] = BoundedQueue()


async def told(failure: Failure) -> None: ...


@consumer(retry=3, timeout=10, on_error="skip", max_failures=0.01)
async def careful(n: int) -> str:
    return str(n)


@consumer(
    context=session,
    retry=Retry(attempts=4, on=(ValueError,), wait=lambda attempt: 1.0),
    on_error=letters,
    rate=Rate(100, per=1.0, burst=5, key=len),
    breaker=Breaker(failures=3, reset_after=10),
)
async def limited(url: str, session: bytes) -> AsyncIterator[Page]:
    yield Page()


@consumer(batch=Batch(500, within=1.0), concurrency=Adaptive(min=1, max=9, target=0.1))
async def rows(items: list[int]) -> list[str]:
    return [str(item) for item in items]


@consumer(batch=Batch(500, weigh=len, key=len, split_on_error=True), context=session)
async def insert(items: list[str], session: bytes) -> None: ...


@consumer(ordered=True, overflow="drop_oldest", on_drop=print)
async def in_order(n: int) -> int:
    return n


@consumer(key=lambda page: page, priority=id)
async def by_page(page: Page) -> None: ...


@consumer
async def anything(item: object) -> int:
    return 1


@producer
def lines(path: str = "") -> Iterator[str]:
    yield path


@consumer(concurrency=4, run_in="process")
def parse(line: str) -> int:
    return len(line)


@consumer
def halve(n: int) -> float:
    return n / 2


@consumer
def letters_of(text: str) -> Iterator[bytes]:
    yield text.encode()


@consumer(context=session)
def store(n: float, session: bytes) -> None: ...


async def flows() -> None:
    """What fits, and the type it has."""
    assert_type(numbers(), Source[int])
    assert_type(sitemap("https://example.org", depth=2), Source[str])
    assert_type(numbers >> double, Pipeline[int, float])
    assert_type(numbers >> double >> show, Pipeline[int, None])
    assert_type(double >> show, Pipeline[int, None])
    assert_type(source([1, 2]) >> (double >> show), Pipeline[int, None])
    assert_type(sitemap("x") >> words >> fetch, Pipeline[str, Page])
    assert_type(numbers >> rows >> insert, Pipeline[int, None])
    assert_type(numbers >> in_order, Pipeline[int, int])
    assert_type(fetch >> by_page, Pipeline[str, None])
    assert_type(numbers >> careful >> limited, Pipeline[int, Page])
    consumer(on_error=told)
    assert_type(merge(numbers, source([3])), Source[int])
    assert_type(lines("x") >> parse >> halve >> store, Pipeline[str, None])
    assert_type(lines >> letters_of, Pipeline[str, bytes])
    assert_type(halve(1), float)
    assert_type(list(letters_of("a")), list[bytes])
    assert_type(Pipeline(range(10), double), Pipeline[int, float])
    assert_type(Pipeline(range(10), double, show, maxsize=5), Pipeline[int, None])
    assert_type(Pipeline(double, maxsize=1000, drain_timeout=5.0), Pipeline[int, float])
    assert_type(numbers >> anything, Pipeline[int, int])  # a stage that takes any object takes an int
    assert_type(await (numbers >> double), Report)
    assert_type(run(numbers >> show), Report)
    async with Pipeline(double) as running:
        assert_type(running, Running[int, float])
        await running.put(1, timeout=0.5)
        assert_type(await running.call(1), float)
        running.scale("double", 4)
        running.set_rate("double", Rate(10))
        assert_type(running.statistics(), Statistics)
        assert_type(await running.drain(), Report)
    async with (numbers >> double).stream() as values:
        async for value in values:
            assert_type(value, float)
    async for n in numbers():
        assert_type(n, int)
    assert_type(await double(1), float)
    assert_type(await fetch("url", b"session"), Page)
    async for word in words("a b"):
        assert_type(word, str)
    stage: Consumer[int, float, Any] = double
    assert_type(stage >> show, Pipeline[int, None])
    queue: BoundedQueue[int] = BoundedQueue(5)
    assert_type(await queue.get(), int)
    assert_type(await queue.get_many(3), list[int])
    try:
        await (numbers >> double)
    except PipelineError as error:
        assert_type(error.report, Report)


async def mistakes() -> None:
    """What must be refused."""
    numbers >> words  # type: ignore[operator]
    numbers >> double >> words  # type: ignore[operator]
    numbers >> parse  # type: ignore[operator]
    lines >> halve  # type: ignore[operator]
    halve("1")  # type: ignore[arg-type]
    consumer(run_in="moon")  # type: ignore[call-overload]
    double >> numbers  # type: ignore[operator]
    sitemap(1)  # type: ignore[arg-type]
    sitemap("x", width=1)  # type: ignore[call-arg]
    Pipeline(range(10), words)  # type: ignore[misc]
    await double("1")  # type: ignore[arg-type]
    async with Pipeline(double) as running:
        await running.put("1")  # type: ignore[arg-type]
        running.put_nowait("1")  # type: ignore[arg-type]
        running.put_from_thread("1")  # type: ignore[arg-type]
        await running.call("1")  # type: ignore[arg-type]
        running.scale("double", "4")  # type: ignore[arg-type]
    async with (numbers >> double).stream() as values:
        async for value in values:
            value.upper()  # type: ignore[attr-defined]
    consumer(concurrency="4")  # type: ignore[call-overload]
    consumer(retry="3")  # type: ignore[call-overload]
    consumer(retries=3)  # type: ignore[call-overload]
    consumer(on_error="ignore")  # type: ignore[call-overload]
    consumer(on_error=show)  # type: ignore[arg-type]
    consumer(rate=100)  # type: ignore[call-overload]
    Retry(on="ValueError")  # type: ignore[arg-type]
    consumer(overflow="drop")  # type: ignore[call-overload]
    consumer(batch=500)  # type: ignore[call-overload]
    numbers >> insert  # type: ignore[operator]
    run(double)  # type: ignore[arg-type]
    run(numbers >> show, loop="trio")  # type: ignore[arg-type]


@consumer(batch=Batch(3))  # type: ignore[arg-type]
async def not_a_list(item: int) -> None: ...


@consumer  # type: ignore[arg-type]
async def without_item() -> None: ...


@consumer(context=session)  # type: ignore[arg-type]
async def without_resource(url: str) -> None: ...


@producer  # type: ignore[arg-type]
async def not_a_generator() -> int:
    return 1
