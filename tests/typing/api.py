"""The public types as a program that is checked and never run: the item type flows from stage to stage.

Each ``type: ignore`` marks a mistake that the checkers must refuse; both run with unused ignores as errors, so a
mistake that slips through fails the check.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, assert_type

import asyncpc
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
    RemoteCounts,
    RemoteQueue,
    Report,
    Restart,
    Retry,
    Running,
    Source,
    Statistics,
    Unfinished,
    broadcast,
    consumer,
    exponential,
    merge,
    producer,
    remote_queue,
    route,
    run,
    source,
)
from asyncpc.remote import Depth, Letter, OpenQueue


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


def keep(items: tuple[Unfinished, ...]) -> None: ...


async def keep_later(items: tuple[Unfinished, ...]) -> None: ...


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


class Order(NamedTuple):
    country: str
    price: float


@producer
async def orders() -> AsyncIterator[Order]:
    yield Order("CH", 1.0)


@consumer
async def dead_letters(failure: Failure) -> None: ...


@consumer(batch=Batch(10, within=1.0), context=session, retry=3, on_error=dead_letters)
async def kept(failures: list[Failure], session: bytes) -> None: ...


@consumer(retry=2, on_error=dead_letters)
async def swiss(order: Order) -> int:
    return 1


@consumer(on_error=kept, max_failures=3)
def german(order: Order) -> int:
    return 1


@consumer(on_error=anything)  # which takes a failure, too
async def ship(order: Order) -> AsyncIterator[int]:
    yield 1


@consumer
async def index(order: Order) -> None: ...


@consumer(run_in="thread", overflow="drop_newest", on_drop=print)
def notify(order: Order) -> None: ...


@consumer
async def save(n: int) -> None: ...


def country(order: Order) -> str:
    return order.country


@consumer(run_in="loop", concurrency=1, maxsize=None, retry=None, timeout=None, max_failures=None, name=None)
async def plain(n: int) -> int:
    return n


@consumer(
    run_in="process",
    retry=Retry(attempts=4, on=(ValueError, OSError), wait=partial(exponential, cap=5.0)),
    timeout=0.5,
    breaker=None,
    rate=None,
    overflow="raise",
    name="lengths",
)
def lengths(text: str) -> Iterator[int]:
    yield len(text)


@consumer(run_in="thread", context=session, concurrency=Adaptive(1, 9, target=0.1), overflow="wait")
def copies(text: str, session: bytes) -> Iterator[bytes]:
    yield session


@consumer(context=session, ordered=True)
def signed(text: str, session: bytes) -> bytes:
    return session


@consumer(batch=Batch(10, weigh=len))
async def spread(texts: list[str]) -> AsyncIterator[int]:
    yield 1


@consumer(batch=Batch(10), run_in="thread")
def measured(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@consumer(batch=Batch(10), context=session)
def written(numbers: list[int], session: bytes) -> None: ...


@consumer
async def either(n: int | None) -> None: ...


@producer(total=len)
async def counted(numbers: list[int]) -> AsyncIterator[int]:
    yield 1


scoring = Pipeline(rows)


@consumer(context=scoring)  # a pipeline is a resource like any other
async def ask(n: int, model: Running[int, str]) -> str:
    return await model.call(n)


async def options() -> None:
    """What each option takes, and the types that come of it."""
    assert_type(numbers >> plain, Pipeline[int, int])
    assert_type(sitemap("x") >> lengths >> plain, Pipeline[str, int])
    assert_type(sitemap("x") >> copies, Pipeline[str, bytes])
    assert_type(sitemap("x") >> signed, Pipeline[str, bytes])
    assert_type(sitemap("x") >> spread >> plain, Pipeline[str, int])
    assert_type(numbers >> ask, Pipeline[int, str])
    assert_type(sitemap("x") >> measured >> written, Pipeline[str, None])
    assert_type(list(copies("a", b"")), list[bytes])
    assert_type(signed("a", b""), bytes)
    consumer(on_error="stop")
    consumer(on_error=print, max_failures=5)
    consumer(on_error=letters, retry=3, timeout=1)
    consumer(on_error=dead_letters)
    consumer(on_error=kept)
    consumer(key=country, priority=lambda order: order.price, concurrency=3)
    consumer(rate=Rate(0.5, per=60, burst=2), breaker=Breaker(3, reset_after=1.5))
    producer(restart=None, name=None)
    assert_type(counted([1]), Source[int])
    assert_type(source([1], total=len), Source[int])
    assert_type(source(iter([1]), total=1_000_000) >> plain, Pipeline[int, int])
    producer(restart=Restart(times=1, within=2.5, backoff=lambda attempt: 0.1))


async def branches() -> None:
    """The type of the items goes into each branch, and on from where they meet."""
    assert_type(route(country, {"CH": swiss, "DE": german}), Pipeline[Order, int])
    assert_type(route(lambda order: order.country, {"CH": swiss, "DE": german}, default=ship), Pipeline[Order, int])
    assert_type(orders >> route(country, {"CH": swiss}, swiss) >> save, Pipeline[Order, None])
    assert_type(
        orders >> route(lambda o: o.price > 9, {True: swiss >> save, False: german >> save}), Pipeline[Order, None]
    )
    assert_type(
        route(country, {"CH": swiss, "DE": swiss}, maxsize=5, on_error="skip", name="way"), Pipeline[Order, int]
    )
    assert_type(route(country, {"CH": swiss}, on_error=dead_letters), Pipeline[Order, int])
    assert_type(orders >> broadcast(index, notify, maxsize=3, name="all"), Pipeline[Order, None])
    assert_type(orders >> broadcast(index, swiss >> save), Pipeline[Order, None])
    assert_type(broadcast(index, swiss, on_error="skip", max_failures=3), Pipeline[Order, int | None])
    assert_type(broadcast(swiss, index, german, on_error=dead_letters), Pipeline[Order, int | None])
    assert_type(broadcast(swiss, german, ship, swiss, on_error=dead_letters), Pipeline[Order, int])
    assert_type(orders >> broadcast(swiss, german, ship) >> save, Pipeline[Order, None])
    assert_type(orders >> broadcast(swiss, index), Pipeline[Order, int | None])
    assert_type(broadcast(swiss), Pipeline[Order, int])
    assert_type(broadcast(swiss, german, ship, swiss >> plain, name="four"), Pipeline[Order, int])
    assert_type(merge(numbers), Source[int])
    assert_type(merge(numbers, [3], numbers(), source([4]), orders >> swiss), Source[int])
    assert_type(route(country, {"CH": index, "DE": swiss >> save}), Pipeline[Order, None])  # a consumer, a pipeline
    assert_type(route(country, {"CH": swiss}, default=index), Pipeline[Order, int | None])
    assert_type(broadcast(swiss, index, german) >> either, Pipeline[Order, None])
    assert_type(merge(numbers, sitemap("x")), Source[int | str])
    assert_type(broadcast(index, route(country, {"CH": index}, default=notify)), Pipeline[Order, None])
    assert_type(swiss >> route(lambda n: n % 2, {0: plain, 1: plain}), Pipeline[Order, int])
    assert_type(merge(orders >> swiss, numbers, [3]), Source[int])
    assert_type(merge(orders >> swiss, orders() >> german >> plain) >> save, Pipeline[int, None])
    assert_type(await (orders >> broadcast(index, notify)), Report)
    async with route(country, {"CH": swiss, "DE": german}) as running:
        assert_type(running, Running[Order, int])
        assert_type(await running.call(Order("CH", 1.0)), int)
    async with (orders >> broadcast(swiss, german)).stream() as values:
        async for value in values:
            assert_type(value, int)


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
    assert_type(Pipeline(range(10), double >> show, maxsize=5), Pipeline[int, None])
    assert_type(Pipeline(double, maxsize=1000, drain_timeout=5.0), Pipeline[int, float])
    assert_type(Pipeline(double, show, name="shown"), Pipeline[int, None])
    assert_type(Pipeline(double, on_unfinished=keep), Pipeline[int, float])
    assert_type(Pipeline(numbers, double, on_unfinished=keep_later), Pipeline[int, float])
    assert_type(Pipeline(sitemap("x") >> words, fetch, maxsize=5), Pipeline[str, Page])
    assert_type(numbers >> anything, Pipeline[int, int])  # a stage that takes any object takes an int
    assert_type(await (numbers >> double), Report)
    assert_type(run(numbers >> show), Report)
    assert_type(run(numbers >> show, progress=True), Report)
    shown = numbers >> show
    async with shown.progress():
        assert_type(await shown, Report)
    async with shown as running_shown, running_shown.on_signals(), running_shown.on_signals(5.0):
        assert_type(await running_shown.wait(), Report)
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
    assert_type(await (numbers >> double).collect(), list[float])
    assert_type(await (numbers >> double).collect(pairs=True), list[tuple[int, float | Exception]])
    async for n in numbers():
        assert_type(n, int)
    assert_type(await double(1), float)
    assert_type(await fetch("url", b"session"), Page)
    assert_type(await rows([1]), list[str])
    await kept([], b"session")
    async for word in words("a b"):
        assert_type(word, str)
    assert_type(words("a b"), AsyncGenerator[str, None])  # a generator function gives a generator, which can be closed
    assert_type(letters_of("a"), Generator[bytes, None, None])
    assert_type(copies("a", b""), Generator[bytes, None, None])
    assert_type(spread(["a"]), AsyncGenerator[int, None])
    stage: Consumer[int, float, ..., Any] = double
    assert_type(stage >> show, Pipeline[int, None])
    queue: BoundedQueue[int] = BoundedQueue(5)
    assert_type(await queue.get(), int)
    assert_type(await queue.get_many(3), list[int])
    try:
        await (numbers >> double)
    except PipelineError as error:
        assert_type(error.report, Report)


class Job(NamedTuple):
    number: int


jobs = remote_queue("memory://typed", Job, prefetch=10, lease=30.0, attempts=3, codec="msgpack", name="work")
texts = remote_queue("redis://localhost/texts", str, socket_timeout=5)  # the client's own option
many = remote_queue("memory://many", list[Job])


@consumer
async def scan(n: int) -> Job:
    return Job(n)


@consumer(concurrency=4)
async def resize(job: Job) -> bytes:
    return b""


@consumer
async def by_length(body: bytes) -> str:
    return str(len(body))


@consumer(batch=Batch(10, within=0.1))
async def keep_jobs(jobs: list[Job]) -> None: ...


@consumer
async def any_job(job: Job | int) -> None: ...


async def remote_queues() -> None:
    """A queue with a URL takes its type on the right of ``>>``, and gives it on the left."""
    assert_type(jobs, RemoteQueue[Job])
    assert_type(many, RemoteQueue[list[Job]])
    assert_type(jobs >> resize, Pipeline[Job, bytes])
    assert_type(jobs >> keep_jobs, Pipeline[Job, None])
    assert_type(jobs >> any_job, Pipeline[Job, None])
    assert_type(texts >> words >> fetch, Pipeline[str, Page])
    assert_type(numbers >> scan >> jobs, Pipeline[int, None])
    assert_type(scan >> jobs, Pipeline[int, None])
    assert_type(source([Job(1)]) >> jobs, Pipeline[Job, None])
    assert_type(jobs >> resize >> by_length >> texts, Pipeline[Job, None])
    assert_type(Pipeline(jobs, resize), Pipeline[Job, bytes])
    assert_type(Pipeline(source([Job(1)]), jobs, maxsize=5), Pipeline[Job, None])
    assert_type(run(jobs >> keep_jobs), Report)
    assert_type(merge(jobs, source([Job(1)])), Source[Job])
    assert_type(await (jobs >> resize).collect(), list[bytes])
    assert_type(await jobs.depth(), Depth)
    async with jobs.open() as opened:
        assert_type(opened, OpenQueue[Job])
        await opened.put(Job(1), id="1", delay=2.5, headers={"x-user": "7"}, timeout=1.0)
        await opened.put_many(Job(n) for n in range(3))
        opened.put_from_thread(Job(1))
        assert_type(await opened.depth(), Depth)
        letters = await opened.dead(limit=10, after="")
        assert_type(letters, list[Letter[Job]])
        assert_type(letters[0].item, Job | None)
        assert_type(await opened.requeue(letters), int)
        assert_type(await opened.requeue([letters[0].place]), int)
        assert_type(await opened.purge(dead=True), int)
    async with jobs >> resize as running:
        assert_type(running, Running[Job, bytes])
        assert_type(running.statistics().sources[0].remote, RemoteCounts | None)


async def mistakes_with_remote_queues() -> None:
    """What must be refused on either side of a remote queue."""
    _ = numbers >> jobs  # type: ignore[operator]
    _ = scan >> texts  # type: ignore[operator]
    _ = jobs >> words  # type: ignore[operator]
    _ = jobs >> scan  # type: ignore[operator]
    _ = jobs >> texts  # type: ignore[operator]
    _ = scan >> jobs >> resize  # type: ignore[operator]
    _ = source([1]) >> jobs  # type: ignore[operator]
    _ = many >> resize  # type: ignore[operator]
    Pipeline(range(3), jobs)  # type: ignore[misc]
    Pipeline(jobs, words)  # type: ignore[misc]
    remote_queue("memory://typed")  # type: ignore[call-arg]
    remote_queue("memory://typed", Job, codec="pickle")  # type: ignore[arg-type]
    remote_queue("memory://typed", Job, lease="60")  # type: ignore[arg-type]
    await jobs.put(Job(1))  # type: ignore[attr-defined]  # open() it
    async with jobs.open() as opened:
        await opened.put(1)  # type: ignore[arg-type]
        await opened.put_many([1])  # type: ignore[list-item]
        await opened.put_many(Job(1))  # type: ignore[arg-type]
        opened.put_from_thread("1")  # type: ignore[arg-type]
        await opened.put(Job(1), ids="1")  # type: ignore[call-arg]


async def mistakes() -> None:
    """What must be refused."""
    _ = numbers >> words  # type: ignore[operator]
    _ = numbers >> double >> words  # type: ignore[operator]
    _ = numbers >> parse  # type: ignore[operator]
    _ = lines >> halve  # type: ignore[operator]
    halve("1")  # type: ignore[arg-type]
    consumer(run_in="moon")  # type: ignore[call-overload]
    _ = double >> numbers  # type: ignore[operator]
    sitemap(1)  # type: ignore[arg-type]
    sitemap("x", width=1)  # type: ignore[call-arg]
    Pipeline(range(10), words)  # type: ignore[misc]
    Pipeline(range(10), double >> words)  # type: ignore[operator]
    Pipeline(range(10), double, show)  # type: ignore[call-overload]  # longer ones are written with >>
    Pipeline(double, show, show)  # type: ignore[call-overload]
    await double("1")  # type: ignore[arg-type]
    await double(1, 2)  # type: ignore[call-arg]
    await double()  # type: ignore[call-arg]
    await fetch("url")  # type: ignore[call-arg]
    await fetch("url", "session")  # type: ignore[arg-type]
    await rows(1)  # type: ignore[arg-type]
    await rows(["1"])  # type: ignore[list-item]
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
    _ = numbers >> insert  # type: ignore[operator]
    run(double)  # type: ignore[arg-type]
    run(numbers >> show, loop="trio")  # type: ignore[arg-type]
    source([1], total="many")  # type: ignore[arg-type]
    producer(total="many")  # type: ignore[call-overload]
    with (numbers >> show).progress():  # type: ignore[attr-defined]
        pass
    consumer(maxsize="100")  # type: ignore[call-overload]
    consumer(timeout="1 s")  # type: ignore[call-overload]
    consumer(max_failures="1 %")  # type: ignore[call-overload]
    consumer(breaker=3)  # type: ignore[call-overload]
    consumer(key=3)  # type: ignore[call-overload]
    consumer(priority="low")  # type: ignore[call-overload]
    consumer(on_drop=3)  # type: ignore[call-overload]
    Pipeline(double, on_unfinished=told)  # type: ignore[arg-type]
    consumer(name=3)  # type: ignore[call-overload]
    consumer(context=3)  # type: ignore[call-overload]
    Rate("100")  # type: ignore[arg-type]
    Batch("500")  # type: ignore[arg-type]
    Breaker(3, "half a minute")  # type: ignore[arg-type]
    Adaptive("1", 9, 0.1)  # type: ignore[arg-type]
    producer(restart=3)  # type: ignore[call-overload]


async def mistakes_that_say_the_cure_when_they_run() -> None:
    """What asyncpc has only to tell the cure is not there for checkers."""
    shown = numbers >> show
    _ = numbers | show  # type: ignore[operator]
    _ = shown | show  # type: ignore[operator]
    with shown:  # type: ignore[attr-defined]
        pass
    async for _ in shown:  # type: ignore[attr-defined]
        pass
    for _ in shown:  # type: ignore[attr-defined]
        pass
    await shown.put(1)  # type: ignore[attr-defined]
    show.start()  # type: ignore[attr-defined]
    asyncpc.Queue()  # type: ignore[attr-defined]
    Retry(max_attempts=3)  # type: ignore[call-arg]
    Pipeline(double, timeout=3)  # type: ignore[call-overload]
    run(shown, workers=4)  # type: ignore[call-arg]
    producer(retry=3)  # type: ignore[call-overload]
    async with shown as running:
        running.close()  # type: ignore[attr-defined]


async def mistakes_in_branches() -> None:
    """What must be refused where pipelines branch and merge."""
    _ = orders >> route(len, {"CH": plain})  # type: ignore[arg-type, dict-item]
    _ = orders >> route(country, {"CH": words})  # type: ignore[arg-type, dict-item]
    _ = orders >> route(lambda order: order.nothing, {"CH": swiss})  # type: ignore[attr-defined]
    _ = numbers >> route(country, {"CH": swiss})  # type: ignore[arg-type, dict-item]
    _ = orders >> route(country, {"CH": swiss}, default=words)  # type: ignore[arg-type]
    _ = orders >> route(country, {"CH": swiss}) >> words  # type: ignore[operator]
    route(country, [swiss])  # type: ignore[call-overload]
    route(country, {"CH": orders})  # type: ignore[arg-type]
    route("country", {"CH": swiss})  # type: ignore[call-overload]
    route(country, {"CH": swiss}, retry=3)  # type: ignore[call-overload]
    route(country, {"CH": swiss}, on_error=save)  # type: ignore[arg-type]
    _ = orders >> broadcast(index, words)  # type: ignore[arg-type]
    _ = numbers >> broadcast(swiss, german)  # type: ignore[arg-type]
    _ = orders >> broadcast(swiss, german) >> words  # type: ignore[operator]
    broadcast(index, orders)  # type: ignore[call-overload]
    broadcast()  # type: ignore[call-overload]
    merge()  # type: ignore[call-overload]
    _ = merge(numbers, numbers, numbers, numbers) >> words  # type: ignore[operator]
    _ = orders >> broadcast(index, index, index, words)  # type: ignore[arg-type]
    broadcast(index, on_error=save)  # type: ignore[arg-type]
    broadcast(index, on_error="ignore")  # type: ignore[call-overload]
    _ = merge(orders >> swiss, numbers) >> words  # type: ignore[operator]
    merge(swiss, numbers)  # type: ignore[call-overload]
    merge(orders >> swiss, 3)  # type: ignore[call-overload]
    consumer(on_error=save)  # type: ignore[arg-type]
    consumer(on_error=rows)  # type: ignore[arg-type]
    consumer(on_error=swiss >> save)  # type: ignore[call-overload]
    async with route(country, {"CH": swiss}) as running:
        await running.call("CH")  # type: ignore[arg-type]
        await running.put(1)  # type: ignore[arg-type]


@consumer(batch=Batch(3))  # type: ignore[arg-type]
async def not_a_list(item: int) -> None: ...


@consumer  # type: ignore[arg-type]
async def without_item() -> None: ...


@consumer(context=session)  # type: ignore[arg-type]
async def without_resource(url: str) -> None: ...


@consumer(batch=Batch(3), context=session)  # type: ignore[arg-type]
async def lists_without_resource(urls: list[str]) -> None: ...


@consumer(batch=Batch(3), context=session)  # type: ignore[arg-type]
async def not_a_list_with_resource(url: str, session: bytes) -> None: ...


@consumer(context=session)  # type: ignore[arg-type]
async def with_another_resource(url: str, session: str) -> None: ...


@producer  # type: ignore[arg-type]
async def not_a_generator() -> int:
    return 1
