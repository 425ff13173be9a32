"""``python -m benchmarks.counted CHECKOUT CASE…``: the work whose instructions :mod:`benchmarks.instructions` counts.

It runs under valgrind. All imports happen once; then a forked child does each piece of work, so every child starts with
the same memory. valgrind prints the total of each child when that ends, and the child prints which work it was.

Counts repeat only if nothing depends on time. Under valgrind everything is about fifty times slower, so a time slice
of 0.5 ms would end after a few items, sooner on a busy machine. Therefore the clocks count their readings instead: each
reading is 1 µs after the last. So no time slice ends early; nor does it on a fast machine, where 128 items take less.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from .work import Job, Shape, ShortJob

if TYPE_CHECKING:
    from .peers import Peer

LIMIT = 180
"""Seconds until a child is killed. A timer would hang it: the clocks stand still while the loop waits."""


@dataclass(frozen=True)
class Case:
    """What is done, and how many times in two pieces of work; once costs the difference."""

    shape: Shape
    sizes: tuple[int, int]
    allowed: float
    """The ratio to the hand-written pipeline may be so many times the kept one."""
    what: str = "item"
    """What is counted: an ``item`` of one run; a whole ``run`` of a pipeline defined before; or a ``definition``, for
    which the hand-written pipeline, which needs none, does a run."""


CASES = {
    "no-work": Case(Shape(0), (1_000, 11_000), 1.03),
    "four-stages": Case(Shape(0, stages=4), (1_000, 5_000), 1.03),
    "maxsize-1": Case(Shape(0, bound=1), (500, 2_500), 1.05),
    "sleep-0": Case(Shape(0, wait=0), (1_000, 5_000), 1.08),
    "run-of-1": Case(Shape(1), (50, 350), 1.03, "run"),
    "run-of-100": Case(Shape(100), (5, 35), 1.03, "run"),
    "define": Case(Shape(1), (50, 350), 1.03, "definition"),
}


def main(checkout: str, cases: Iterable[str]) -> None:
    """Do the work of each case in both sizes, with the asyncpc of ``checkout`` and by hand."""
    clock = count(0.0, 1e-6).__next__
    for name in "perf_counter", "monotonic":
        setattr(time, name, clock)  # before asyncpc imports them
    sys.path.insert(0, checkout)
    from .peers import ASYNCPC, HAND_WRITTEN

    imported = Path(str(sys.modules["asyncpc"].__file__)).parents[1]
    if imported != Path(checkout):
        sys.exit(f"asyncpc was imported from {imported}, not from {checkout}")
    gc.collect()
    gc.freeze()  # what the imports left is no work for the children's collector
    for name in cases:
        for peer in ASYNCPC, HAND_WRITTEN:
            for size in CASES[name].sizes:
                _fork(name, peer, size)


def _fork(name: str, peer: Peer, size: int) -> None:
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if status:
            took_too_long = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            sys.exit(f"{name}, {peer.name}: {f'did not end within {LIMIT} s' if took_too_long else 'failed'}")
        return
    signal.alarm(LIMIT)
    try:
        _work(CASES[name], peer, size)
        print(name, peer.name, size, os.getpid(), sep="|", flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # without the parent's clean-up


def _work(case: Case, peer: Peer, size: int) -> None:
    from .peers import ASYNCPC, defined, run_defined

    job = Job(replace(case.shape, items=size)) if case.what == "item" else ShortJob(case.shape)
    if case.what == "definition" and peer is ASYNCPC:
        for _ in range(size):
            defined(job)
        return

    async def work() -> None:
        if case.what == "item":
            await peer.run(job)
            return
        run = partial(run_defined, defined(job)) if peer is ASYNCPC else peer.run
        for _ in range(size):
            job.seen.clear()
            await run(job)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(work())
    job.check(peer.name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
