"""``python -m benchmarks remote [engine …]``: remote queues on real servers.

Status 1: an implementation failed, or a goal was missed that --require asks for; 2: usage.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .. import report
from ..cases import Case
from ..kept import keep_remote
from ..measure import Bench, Line, Result, Results
from ..peers import ASYNCPC
from .cases import REFERENCES, goals, lines
from .fleet import fleet_at
from .servers import Missing, serving


def main(arguments: Sequence[str]) -> int:
    """Measure what the command line asks for, and tell it."""
    from ..run import run

    parser = argparse.ArgumentParser(prog="python -m benchmarks remote", description=__doc__)
    parser.add_argument("engines", nargs="*", metavar="engine", help=f"{', '.join(REFERENCES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (3; 2 with --quick)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--keep", action="store_true", help="keep all figures in the documentation, and write its tables and picture"
    )
    parser.add_argument(
        "--require",
        type=float,
        nargs="?",
        const=1.0,
        metavar="SHARE",
        help="status 1 if asyncpc misses a goal; with 0.9, if it misses one by more than a tenth",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.engines) - set(REFERENCES):
        parser.error(f"no engine {', '.join(sorted(unknown))}; there are: {', '.join(REFERENCES)}")
    if options.keep and options.engines:
        parser.error("--keep is for all engines, since the tables and the picture are made of all of them")
    with asyncio.Runner() as runner:
        bench = Bench(runner, options.quick, options.rounds or (2 if options.quick else 3), options.loop)
        cases = {engine: case_of(engine) for engine in options.engines or REFERENCES}
        figures = run(list(cases.values()), bench)
    document = report.document(figures, bench)
    tried = {name: of for name, of in figures.items() if of or any(name == case for case, _ in bench.failed)}
    report.show(tried, bench, cases, wanted)
    if options.json:
        report.write(document, options.json)
    if options.keep:
        keep_remote(document)
    missed = options.require is not None and _missed(figures, options.require)
    return int(missed or bool(bench.failed))


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
        name, _, version = server.version.partition(" ")
        bench.versions[name] = version
        yield from lines(stack.enter_context(fleet_at(engine, server, bench.loop)), bench)


def wanted(engine: str, figure: str, result: Result, references: Sequence[str], loop: str) -> str:
    """The goals of a figure, each with whether it was reached."""
    return ", ".join([f"{goal.told} {goal.sign}" for goal in goals(engine, figure, result)])


def _missed(figures: dict[str, Results], share: float) -> bool:
    """Tell which goals are missed by more than ``share`` allows, or cannot be judged; whether any is missed."""
    missed = False
    for engine, results in figures.items():
        for figure, of in results.items():
            for goal in goals(engine, figure, of[ASYNCPC.name], share) if ASYNCPC.name in of else ():
                if not goal.figure:
                    print(f"not judged: {engine} {figure}: {goal.told}, which is not there")
                elif not goal.is_reached:
                    missed = True
                    print(f"missed: {engine} {figure}: {goal.figure}; wanted: {goal.told}")
    return missed
