"""``python -m benchmarks``: asyncpc beside its peers, ratios first. Status 1: too slow, or wrong; 2: usage."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import judge, kept, report
from .before import before
from .cases import REQUIRED
from .instructions import NotMeasured, exported
from .measure import AGAIN, BEFORE, Bench
from .pictures import draw
from .run import Beside, again, run
from .side_paths import CASES
from .work import WrongResult

ROUNDS, ROUNDS_QUICK = 11, 5

REMOTE = "Remote queues on real servers have a command of their own: python -m benchmarks remote --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and tell it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["remote"]:
        from .remote.command import main as remote

        return remote(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for case in CASES.values():
            print(f"{case.name:12} {case.what}")
        return 0
    _check(options, parser)
    old = _old(options.against)
    try:
        document = _measure(options)
    except WrongResult as error:
        print(f"wrong result: {error}", file=sys.stderr)
        return 1
    except (NotMeasured, ImportError) as error:
        parser.error(f"not measured: {error}")
    if options.json:
        report.write(document, options.json)
    if options.plot:
        draw(document, options.plot)
    if options.keep:
        kept.keep(document)
    is_met = options.require is None or _is_met(document, options.require)
    is_slower = _is_slower(document, old, options.against)
    return int(not is_met or is_slower)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=REMOTE)
    parser.add_argument("cases", nargs="*", metavar="case", help="what to measure; all by default (see --list)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds: under a minute")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({ROUNDS}; {ROUNDS_QUICK} with --quick)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw them: a few small pictures, SVG")
    parser.add_argument(
        "--keep", action="store_true", help="keep all figures in the documentation, and write its tables and pictures"
    )
    parser.add_argument(
        "--against",
        metavar="FILE|DIR|COMMIT",
        help="an older --json; or another asyncpc (a checkout or a commit) to measure in the same rounds; "
        "status 1 if something got slower",
    )
    parser.add_argument(
        "--require",
        type=float,
        metavar="RATIO",
        help="status 1 if throughput is below RATIO × the hand-written pipeline, or threads put slower than janus, "
        "or neither was steady enough to be judged",
    )
    return parser


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a word on what cannot be measured or judged."""
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    judged = {"throughput", *REQUIRED}
    if options.require is not None and options.cases and not judged.intersection(options.cases):
        parser.error(f"--require judges the cases {', '.join(sorted(judged))}; none of them is named")
    if options.keep and options.cases:
        parser.error("--keep is for all cases, since tables and pictures are made of all of them")
    try:
        loop_factory(options.loop)
    except ImportError:
        parser.error("--loop uvloop needs uvloop: pip install uvloop")


def _old(against: str | None) -> dict[str, Any] | None:
    """The figures of an older file."""
    if against is None or not Path(against).is_file():
        return None
    return dict(json.loads(Path(against).read_text(encoding="utf-8")))


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Show the tables, and give all figures."""
    cases = [CASES[name] for name in options.cases or CASES]
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=loop_factory(options.loop)))
        rounds = options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)
        bench = Bench(runner, options.quick, rounds, options.loop)
        beside: list[Beside] = []
        references: tuple[str, ...] = ()
        if options.against and not Path(options.against).is_file():
            checkout = stack.enter_context(_checkout(options.against))
            beside.append(stack.enter_context(before(checkout, bench)))
            references = (BEFORE,)
        if options.against or options.require is not None:
            beside.append(again)
            references = (*references, AGAIN)
        cases = [replace(case, references=(*case.references, *references)) for case in cases]
        figures = run(cases, bench, beside)
    report.show(figures, bench, {case.name: case for case in cases})
    return report.document(figures, bench)


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Of the loop of that name; raises ``ImportError`` if it is not there."""
    if loop == "asyncio":
        return asyncio.SelectorEventLoop
    import uvloop

    return uvloop.new_event_loop


@contextmanager
def _checkout(of: str) -> Iterator[Path]:
    """A directory with an asyncpc, or the one of a commit."""
    if Path(of).is_dir():
        yield Path(of)
        return
    with exported(of) as directory:
        yield directory


def _is_met(document: dict[str, Any], required: float) -> bool:
    told, is_met = judge.required(document, required)
    print("\n".join(told))
    return is_met


def _is_slower(document: dict[str, Any], old: dict[str, Any] | None, against: str | None) -> bool:
    """Tell what got slower than in an older file, or than another asyncpc."""
    if against is None:
        return False
    found = judge.compare(old, document) if old else judge.compare_with(BEFORE, document)
    for what, lines in ("not quite comparable", found.doubts), ("unclear", found.unclear), ("slower", found.slower):
        for line in lines:
            print(f"{what} – {line}")
    count = f"{found.figures} figures got slower beyond the noise"
    print(f"{len(found.slower) or 'none'} of {count}" + (f"; {len(found.unclear)} are unclear" * bool(found.unclear)))
    return bool(found.slower) or len(found.unclear) == found.figures


if __name__ == "__main__":
    sys.exit(main())
