"""The smallest program: one producer, four consumers, nothing else.

Run it::

    python examples/basic.py                       or        asyncpc run examples.basic:pipeline

Expect ten lines, then what happened::

    0 squared is 0
    1 squared is 1
    ...
    9 squared is 81
    10 produced, 10 done, 0 failed
"""

from collections.abc import AsyncIterator

from asyncpc import consumer, producer, run


@producer
async def numbers() -> AsyncIterator[int]:
    for n in range(10):
        yield n


@consumer(concurrency=4)
async def show(n: int) -> None:
    print(f"{n} squared is {n * n}")


pipeline = numbers >> show

if __name__ == "__main__":
    report = run(pipeline)
    print(f"{report.produced} produced, {report.done} done, {report.failed} failed")
