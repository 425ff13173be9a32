"""``python -m benchmarks remote [engine …]``: remote queues on real servers. Status 1: a wrong result; 2: usage."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .. import report
from ..cases import Case
from ..measure import Bench, Line, Result
from .cases import LIMITS, REFERENCES, WANTED, lines
from .fleet import fleet_at
from .servers import Missing, serving
from .work import WrongResult


def main(arguments: Sequence[str]) -> int:
    """Measure what the command line asks for, and tell it."""
    from ..__main__ import run

    parser = argparse.ArgumentParser(prog="python -m benchmarks remote", description=__doc__)
    parser.add_argument("engines", nargs="*", metavar="engine", help=f"{', '.join(REFERENCES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5; 3 with --quick)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    options = parser.parse_args(arguments)
    if unknown := set(options.engines) - set(REFERENCES):
        parser.error(f"no engine {', '.join(sorted(unknown))}; there are: {', '.join(REFERENCES)}")
    with asyncio.Runner() as runner:
        bench = Bench(runner, options.quick, options.rounds or (3 if options.quick else 5), options.loop)
        cases = {engine: case_of(engine) for engine in options.engines or REFERENCES}
        try:
            figures = run(list(cases.values()), bench)
        except WrongResult as error:
            print(f"wrong result: {error}", file=sys.stderr)
            return 1
    report.show({name: results for name, results in figures.items() if results}, bench, cases, wanted)
    if options.json:
        report.write(report.document(figures, bench), options.json)
    return 0


def case_of(engine: str) -> Case:
    """All lines of an engine, on a server that runs as long as they do."""
    return Case(engine, f"a message on {engine}", REFERENCES[engine], partial(_served, engine))


def _served(engine: str, bench: Bench) -> Iterator[Line]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serving(engine))
        except Missing as why:
            bench.missing[engine] = str(why)
            return
        yield from lines(stack.enter_context(fleet_at(engine, server, bench.loop)), bench)


def wanted(engine: str, figure: str, result: Result, references: Sequence[str], loop: str) -> str:
    """The goals of a figure, each with whether it was reached."""
    told = []
    if limit := LIMITS.get((engine, figure)):
        told.append(f"≤ {report.readable(limit, result.unit)} {_verdict(result.value.median <= limit)}")
    for reference, least in WANTED.get((engine, figure), {}).items():
        if ratio := result.ratios.get(reference):
            told.append(f"≥ {least:g} × {reference} {_verdict(ratio.median >= least)}")
    return ", ".join(told)


def _verdict(reached: bool) -> str:
    return "✓" if reached else "missed"
