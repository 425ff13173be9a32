"""Measures cases, and says which one it is at."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from .cases import Case
from .measure import AGAIN, Bench, Line, Results, measure
from .peers import ASYNCPC

Say = Callable[[str], None]
Beside = Callable[[str, Line], Line]
"""Another implementation in a line of a case."""


def run(cases: Sequence[Case], bench: Bench, beside: Sequence[Beside] = ()) -> dict[str, Results]:
    """All results, by case."""
    figures: dict[str, Results] = {}
    with _progress(len(cases)) as say:
        for case in cases:
            results: Results = figures.setdefault(case.name, {})
            say(case.name)
            for line in case.lines(bench):
                for add in beside:
                    line = add(case.name, line)
                settle()
                for figure, of in measure(line, bench.rounds, case.references).items():
                    results[f"{line.name} {figure}".strip()] = of
                if line.failed:
                    bench.failed[case.name, line.name] = line.failed
    return figures


def again(case: str, line: Line) -> Line:
    """The line with asyncpc once more at its end."""
    if ASYNCPC.name not in line.samples:
        return line
    return replace(line, samples={**line.samples, AGAIN: line.samples[ASYNCPC.name]})


def settle() -> None:
    """Let the garbage collector skip what is there when a line begins: all that the peers have imported.

    It would look at that before each sample, which takes longer than many samples do. What it skips stays so: to let go
    of it would also undo what the program had frozen before.
    """
    gc.collect()
    gc.freeze()


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
