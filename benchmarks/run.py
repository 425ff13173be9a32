"""Measures cases, and says which one it is at."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .cases import Case
from .measure import Bench, Results, measure

Say = Callable[[str], None]


def run(cases: Sequence[Case], bench: Bench) -> dict[str, Results]:
    """All results, by case."""
    figures: dict[str, Results] = {}
    with _progress(len(cases)) as say, _few_to_collect() as settle:
        for case in cases:
            results: Results = figures.setdefault(case.name, {})
            say(case.name)
            for line in case.lines(bench):
                settle()
                for figure, of in measure(line, bench.rounds, case.references).items():
                    results[f"{line.name} {figure}".strip()] = of
                if line.failed:
                    bench.failed[case.name, line.name] = line.failed
    return figures


@contextmanager
def _few_to_collect() -> Iterator[Callable[[], None]]:
    """Let the garbage collector skip what is there when a line begins: all that the peers have imported.

    It would look at that before each sample, which takes longer than many samples do.
    """

    def settle() -> None:
        gc.collect()
        gc.freeze()

    try:
        settle()
        yield settle
    finally:
        gc.unfreeze()


@contextmanager
def _progress(cases: int) -> Iterator[Say]:
    """A bar on a terminal that has rich; otherwise a line per case."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield lambda case: print(f"measuring {case}", file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=cases)
        done = -1

        def say(case: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=case, completed=done)

        yield say
