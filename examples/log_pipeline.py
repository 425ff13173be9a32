"""Log lines are read by a blocking generator, parsed by a plain function in two processes, and summed up in the loop.

Run it, on made-up lines or on a file in the common log format::

    python examples/log_pipeline.py [access.log]   or        asyncpc run examples.log_pipeline:pipeline

Expect, after a second::

    20,000 lines, 20 of them unreadable
    most asked for:
         5,000  /basket
         5,000  /orders
         5,000  /search
    errors: 19,980 requests, 2,000 of them 5xx

``run_in="process"`` is for work that keeps a processor busy. The function stands at the top of its module, since the
processes import it by its name. What starts the program stands under ``if __name__ == "__main__"``. Small items travel
many at a time.
"""

import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from asyncpc import Pipeline, consumer, producer, run

LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d{3}) (\d+|-)')


class Request(NamedTuple):
    path: str
    status: int


@producer
def lines(file: str | None = None) -> Iterator[str]:
    if file is None:
        yield from made_up()
    else:
        with open(file, encoding="utf-8", errors="replace") as log:
            yield from log


def made_up() -> Iterator[str]:
    paths = ("/", "/basket", "/orders", "/search")
    for n in range(20_000):
        status = 500 if n % 10 == 3 else 200
        good = f'10.0.0.{n % 256} - - [21/Nov/2026:10:00:00 +0000] "GET {paths[n % 4]} HTTP/1.1" {status} {n}\n'
        yield "not a log line\n" if n % 1000 == 0 else good


@consumer(concurrency=2, run_in="process")
def parse(line: str) -> Request | None:
    found = LINE.match(line)
    return Request(found[4].partition("?")[0], int(found[5])) if found else None


class Summary:
    def __init__(self) -> None:
        self.lines = 0
        self.paths: Counter[str] = Counter()
        self.errors = 0


@asynccontextmanager
async def summary() -> AsyncIterator[Summary]:
    totals = Summary()
    yield totals
    requests = totals.paths.total()
    print(f"{totals.lines:,} lines, {totals.lines - requests:,} of them unreadable")
    print("most asked for:")
    for path, count in sorted(totals.paths.items(), key=lambda entry: (-entry[1], entry[0]))[:3]:
        print(f"{count:10,}  {path}")
    print(f"errors: {requests:,} requests, {totals.errors:,} of them 5xx")


@consumer(context=summary)
async def add(request: Request | None, totals: Summary) -> None:
    totals.lines += 1
    if request is not None:
        totals.paths[request.path] += 1
        totals.errors += request.status >= 500


def of(file: str | None) -> Pipeline[str, None]:
    return lines(file) >> parse >> add


pipeline = of(None)

if __name__ == "__main__":
    report = run(of(sys.argv[1]) if len(sys.argv) > 1 else pipeline)
    sys.exit(report.exit_status)
