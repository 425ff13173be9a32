"""``python -m benchmarks``: asyncpc beside its peers, ratios first. Status 1: too slow, or wrong; 2: usage."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import report
from .cases import CASES, REQUIRED
from .measure import Bench
from .peers import ASYNCPC, HAND_WRITTEN
from .run import run
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
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    judged = {"throughput", *REQUIRED}
    if options.require is not None and options.cases and not judged.intersection(options.cases):
        parser.error(f"--require judges the cases {', '.join(sorted(judged))}; none of them is named")
    old = json.loads(options.against.read_text(encoding="utf-8")) if options.against else None
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error(f"--plot needs matplotlib; {report.INSTALL}")
    try:
        with asyncio.Runner(loop_factory=_loop_factory(options.loop, parser)) as runner:
            bench = Bench(runner, options.quick, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS), options.loop)
            figures = run([CASES[name] for name in options.cases or CASES], bench)
    except WrongResult as error:
        print(f"wrong result: {error}", file=sys.stderr)
        return 1
    document = report.document(figures, bench)
    report.show(figures, bench)
    if options.json:
        report.write(document, options.json)
    if options.plot:
        report.plot(document, options.plot)
    return int(_too_slow(document, options.require) | _slower(document, old))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=REMOTE)
    parser.add_argument("cases", nargs="*", metavar="case", help="what to measure; all by default (see --list)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds: under a minute")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({ROUNDS}; {ROUNDS_QUICK} with --quick)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw them")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="an older --json; status 1 if something got slower"
    )
    parser.add_argument(
        "--require",
        type=float,
        metavar="RATIO",
        help="status 1 if throughput is below RATIO × the hand-written pipeline, or threads put more slowly than janus",
    )
    return parser


def _loop_factory(loop: str, parser: argparse.ArgumentParser) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "asyncio":
        return asyncio.SelectorEventLoop
    try:
        import uvloop
    except ImportError:
        parser.error("--loop uvloop needs uvloop: pip install uvloop")
    return uvloop.new_event_loop


def _too_slow(document: dict[str, Any], required: float | None) -> bool:
    if required is None:
        return False
    slow = False
    if lines := document["cases"].get("throughput"):
        ratio = lines[""][ASYNCPC.name]["ratios"][HAND_WRITTEN.name]["median"]
        slow = ratio < required
        print(f"{_verdict(slow)}: {ratio:.2f} × the hand-written pipeline; required: {required:g}")
    for case, (peer, least) in REQUIRED.items():
        for line, results in document["cases"].get(case, {}).items():
            if (ratios := results[ASYNCPC.name]["ratios"].get(peer)) is None:
                print(f"{case} is not judged: {peer} is not there")
                break
            if ratios["quartiles"][1] < least:  # beyond the noise: such lines switch threads for every item
                slow = True
                print(f"{_verdict(slow)}: {case} {line}: {ratios['median']:.2f} × {peer}; required: {least:g}")
    return slow


def _verdict(slow: bool) -> str:
    return "too slow" if slow else "fast enough"


def _slower(document: dict[str, Any], old: dict[str, Any] | None) -> bool:
    if old is None:
        return False
    slower, doubts = report.compare(old, document)
    for doubt in doubts:
        print(f"not quite comparable – {doubt}")
    for line in slower or ["nothing got slower beyond the noise"]:
        print(f"slower – {line}" if slower else line)
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main())
