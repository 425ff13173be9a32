"""Cases beside the way of a plain item: calls, threads, small items in processes, batches, order, rates, memory.

Each has a twin that a user would write by hand, or what the standard library has for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import asyncpc

from .cases import CASES, OURS_AND_HAND, SERVICES, WANTED, case, through
from .measure import Bench, Line
from .peers import ASYNCPC, END, HAND_WRITTEN, Peer, Service, run_hand_written
from .work import Job, Shape, WrongResult, compute

__all__ = ["BATCH", "CASES"]  # all cases there are: those of ``cases``, and these

Call = Callable[[Any], Awaitable[Any]]
Write = Callable[[list[int]], object]

BATCH = 100
STREAMABLE = "streamable"
IMAP = "Pool.imap"

WANTED.update(
    {
        ("call", "1 callers"): lambda python, loop: 0.85,
        ("call", "100 callers"): lambda python, loop: 0.85,
        ("twins", "thread"): lambda python, loop: 1.0,
        ("small", ""): lambda python, loop: 1 / 1.4,
        ("batches", "in the loop"): lambda python, loop: 1.0,
        ("batches", "in a thread"): lambda python, loop: 1.0,
    }
)


# -- calls -----------------------------------------------------------------------------------------


@case("call", "callers outside the pipeline that wait for the result of each item, no work")
def _call(bench: Bench) -> Iterator[Line]:
    peers = [Peer(ASYNCPC.name, partial(_call_all, _calling)), Peer(HAND_WRITTEN.name, partial(_call_all, _futures))]
    for callers in 1, 100:
        yield bench.line(f"{callers} callers", Shape(50_000, producers=callers), peers)


async def _call_all(serve: Callable[[Job], AbstractAsyncContextManager[Call]], job: Job) -> None:
    async def one(call: Call, first: int) -> None:
        for n in range(first, job.shape.items, job.shape.producers):
            if await call(n) != n:
                raise WrongResult(f"the call of {n} had another result")

    async with serve(job) as call, asyncio.TaskGroup() as tasks:
        for first in range(job.shape.producers):
            tasks.create_task(one(call, first))


def _answering(job: Job) -> Call:
    async def handle(item: int) -> int:
        job.seen.append(item)
        return item

    return handle


@asynccontextmanager
async def _calling(job: Job) -> AsyncIterator[Call]:
    stage: Any = asyncpc.consumer(concurrency=job.shape.concurrency)
    async with asyncpc.Pipeline(stage(_answering(job))) as running:
        yield running.call


@asynccontextmanager
async def _futures(job: Job) -> AsyncIterator[Call]:
    """A queue of items, each with the future that its caller awaits."""
    queue: asyncio.Queue[Any] = asyncio.Queue(job.shape.bound)
    loop, handle = asyncio.get_running_loop(), _answering(job)

    async def consume() -> None:
        while (got := await queue.get()) is not END:
            item, future = got
            try:
                result = await handle(item)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)
            finally:
                queue.task_done()

    async def call(item: int) -> Any:
        future: asyncio.Future[Any] = loop.create_future()
        await queue.put((item, future))
        return await future

    async with asyncio.TaskGroup() as tasks:
        for _ in range(job.shape.concurrency):
            tasks.create_task(consume())
        yield call
        for _ in range(job.shape.concurrency):
            await queue.put(END)


# -- options beside their twins --------------------------------------------------------------------


@case("twins", "an ordered stage, a rate and a thread per call, each beside what people write; no work")
def _twins(bench: Bench) -> Iterator[Line]:
    ordered = Peer(ASYNCPC.name, partial(through, _ordered)), Peer(HAND_WRITTEN.name, _ordered_by_hand)
    yield bench.line("ordered", Shape(20_000), ordered)
    rate = Peer(ASYNCPC.name, partial(through, _limited)), Peer(HAND_WRITTEN.name, _limited_by_hand)
    yield bench.line("rate", Shape(50_000), rate)
    threads = (
        Peer(ASYNCPC.name, partial(through, _in_threads)),
        Peer(HAND_WRITTEN.name, _to_thread),
        Peer("executor.map", _executor_map),
    )
    yield bench.line("thread", Shape(5_000), threads)


async def _same(item: int) -> int:
    return item


def _ordered(job: Job) -> list[Any]:
    four: Any = asyncpc.consumer(concurrency=job.shape.concurrency, ordered=True)
    return [four(_same), asyncpc.consumer(job.handlers[0])]


async def _ordered_by_hand(job: Job) -> None:
    """A task per item, and a queue of tasks: its bound is how many work at once, and its reader keeps their order."""
    queue: asyncio.Queue[Any] = asyncio.Queue(job.shape.concurrency)

    async def produce() -> None:
        async for item in job.sources[0]():
            await queue.put(asyncio.create_task(_same(item)))
        await queue.put(END)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while (task := await queue.get()) is not END:
            await job.handlers[0](await task)


def _limited(job: Job) -> list[Any]:
    four: Any = asyncpc.consumer(concurrency=job.shape.concurrency, rate=asyncpc.Rate(1e9))
    return [four(job.handlers[0])]


async def _limited_by_hand(job: Job) -> None:
    """A bucket of tokens before the handler."""
    clock, rate, handle = asyncio.get_running_loop().time, 1e9, job.handlers[0]
    tokens, filled = rate, clock()

    async def limited(item: Any) -> None:
        nonlocal tokens, filled
        while True:
            now = clock()
            tokens, filled = min(rate, tokens + (now - filled) * rate), now
            if tokens >= 1:
                break
            await asyncio.sleep((1 - tokens) / rate)
        tokens -= 1
        await handle(item)

    job.handlers = [limited]
    await run_hand_written(job)


def _in_threads(job: Job) -> list[Any]:
    four: Any = asyncpc.consumer(concurrency=job.shape.concurrency, run_in="thread")
    return [four(job.seen.append)]


async def _to_thread(job: Job) -> None:
    async def handle(item: Any) -> None:
        await asyncio.to_thread(job.seen.append, item)

    job.handlers = [handle]
    await run_hand_written(job)


async def _executor_map(job: Job) -> None:
    """Only the threads: all items are there, and nobody reads the results one by one."""
    with ThreadPoolExecutor(job.shape.concurrency) as pool:
        for _ in pool.map(job.seen.append, range(job.shape.items)):
            pass


# -- small items in processes ----------------------------------------------------------------------

SMALL = 200
"""What :func:`compute` gets for about 5 µs of work."""


@case("small", "5 µs of arithmetic an item, in two processes that run already; Pool.imap with chunks of 64", (IMAP,))
def _small(bench: Bench) -> Iterator[Line]:
    items = 5_000 if bench.quick else 20_000
    yield Line("", {ASYNCPC.name: partial(_small_items, bench, items), IMAP: partial(_imap, items)}, rounds=9)


def _small_items(bench: Bench, items: int) -> float:
    """Seconds per item, once both processes have answered."""
    stage: Any = asyncpc.consumer(concurrency=2, run_in="process")(compute)
    moments: list[float] = []
    sizes: list[int] = []

    async def job() -> None:
        ready = asyncio.Event()

        async def work() -> AsyncIterator[int]:
            for _ in range(2):
                yield 3_000_000  # keeps each process busy until both have started
            await ready.wait()
            moments.append(perf_counter())
            for _ in range(items):
                yield SMALL

        @asyncpc.consumer
        async def note(size: int) -> None:
            sizes.append(size)
            if len(sizes) == 2:
                ready.set()
            elif len(sizes) == items + 2:
                moments.append(perf_counter())

        await asyncpc.Pipeline(asyncpc.producer(work), stage >> note)

    bench.runner.run(job())
    _check_sizes(ASYNCPC.name, sizes[2:], items)
    began, ended = moments
    return (ended - began) / items


def _imap(items: int) -> float:
    with get_context("spawn").Pool(2) as pool:
        pool.map(compute, [3_000_000] * 2, 1)
        began = perf_counter()
        sizes = list(pool.imap(compute, repeat(SMALL, items), 64))
        ended = perf_counter()
    _check_sizes(IMAP, sizes, items)
    return (ended - began) / items


def _check_sizes(who: str, sizes: list[int], items: int) -> None:
    if sizes != [SMALL] * items:
        raise WrongResult(f"{who}: {len(sizes)} results of {items}")


# -- batches ---------------------------------------------------------------------------------------


@case("batches", "batches of 100 into SQLite, written in the loop or in a thread", (STREAMABLE, HAND_WRITTEN.name))
def _batches(bench: Bench) -> Iterator[Line]:
    for label, in_thread in ("in the loop", False), ("in a thread", True):
        peers = (
            Peer(ASYNCPC.name, partial(_batches_of, _gather, in_thread)),
            Peer(HAND_WRITTEN.name, partial(_batches_of, _gather_by_hand, in_thread)),
            Peer(STREAMABLE, partial(_batches_of, _group, in_thread), STREAMABLE),
        )
        yield bench.line(label, Shape(100_000), peers)


async def _batches_of(gather: Callable[[Job, Write, bool], Awaitable[None]], in_thread: bool, job: Job) -> None:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
        database.execute("create table numbers (n integer)")

        def write(rows: list[int]) -> None:
            with database:
                database.executemany("insert into numbers values (?)", [(n,) for n in rows])

        await gather(job, write, in_thread)
        job.seen.extend(n for (n,) in database.execute("select n from numbers"))


def _awaited(write: Write, in_thread: bool) -> Callable[[list[int]], Awaitable[object]]:
    async def write_here(rows: list[int]) -> None:
        write(rows)

    async def write_there(rows: list[int]) -> None:
        await asyncio.to_thread(write, rows)

    return write_there if in_thread else write_here


async def _gather(job: Job, write: Write, in_thread: bool) -> None:
    stage: Any = asyncpc.consumer(batch=asyncpc.Batch(BATCH), run_in="thread" if in_thread else None)
    handle = write if in_thread else _awaited(write, False)
    report = await asyncpc.Pipeline(asyncpc.producer(job.sources[0]), stage(handle))
    assert report.done == job.shape.items


async def _gather_by_hand(job: Job, write: Write, in_thread: bool) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue(2 * BATCH)
    awaited = _awaited(write, in_thread)

    async def produce() -> None:
        async for item in job.sources[0]():
            await queue.put(item)
        await queue.put(END)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        rows: list[int] = []
        while (item := await queue.get()) is not END:
            rows.append(item)
            if len(rows) == BATCH:
                await awaited(rows)
                rows = []
        if rows:
            await awaited(rows)


async def _group(job: Job, write: Write, in_thread: bool) -> None:
    from streamable import stream

    awaited: Any = _awaited(write, in_thread)
    source: Any = job.sources[0]()
    async for _ in stream(source).group(BATCH).map(awaited):
        pass


# -- memory ----------------------------------------------------------------------------------------


@case("workers", "bytes per consumer that waits in its handler")
def _workers(bench: Bench) -> Iterator[Line]:
    yield Line("", {peer.name: partial(_bytes_at_work, bench, SERVICES[peer.name]) for peer in OURS_AND_HAND}, "B", 3)


def _bytes_at_work(bench: Bench, serve: Service) -> float:
    few, many = 10, 1_010
    return float(bench.runner.run(_at_work(serve, many)) - bench.runner.run(_at_work(serve, few))) / (many - few)


async def _at_work(serve: Service, consumers: int) -> int:
    over = asyncio.Event()

    async def wait(item: object) -> None:
        await over.wait()

    tracemalloc.start()
    async with serve(wait, consumers) as put:
        for _ in range(consumers):
            await put(None)
        for _ in range(30):
            await asyncio.sleep(0)
        bytes_now, _ = tracemalloc.get_traced_memory()
        over.set()
    tracemalloc.stop()
    return bytes_now
