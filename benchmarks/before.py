"""The asyncpc of another checkout, in a process of its own that takes its turn in every round: ``--against DIR``.

It does what this process does, line by line, with the same benchmarks and Python. So both meet the same machine, and
the ratio of a round tells what the change between them has gained or lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measure import Bench, Line, Sample
    from .run import Beside

ROOT = Path(__file__).parents[1]


@contextmanager
def before(checkout: Path, bench: Bench) -> Iterator[Beside]:
    """What puts the asyncpc of ``checkout`` into the lines of a case, next to the one that is measured."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout.resolve()), *filter(None, sys.path[1:])])}
    command = [sys.executable, "-m", "benchmarks.before", str(checkout.resolve()), bench.loop, str(int(bench.quick))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, env=environment, text=True, bufsize=1) as process:
        assert process.stdin is not None
        try:
            yield partial(_beside, partial(_ask, process), bench)
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()  # it ends then


def _ask(process: subprocess.Popen[str], **question: Any) -> Any:
    from .measure import Fails

    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(json.dumps(question), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        raise Fails(f"its process ended with status {process.wait()}") from None
    if "why" in answer:
        raise Fails(answer["why"])
    return answer["given"]


def _beside(ask: Callable[..., Any], bench: Bench, case: str, line: Line) -> Line:
    from .measure import BEFORE, Fails
    from .peers import ASYNCPC

    if ASYNCPC.name not in line.samples:
        return line
    samples: dict[str, Sample] = {}
    try:
        ask(case=case, line=line.name, known=bench.known)
    except Fails as why:
        return replace(line, failed={**line.failed, BEFORE: str(why)})
    for name, sample in line.samples.items():
        samples[name] = sample
        if name == ASYNCPC.name:
            samples[BEFORE] = partial(ask, sample=name)
    return replace(line, samples=samples)


# -- in the other process --------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Answer what is asked, a line of JSON each; the end of the questions is the end."""
    checkout, loop, quick = arguments
    sys.path.insert(0, checkout)
    import asyncpc

    imported = Path(asyncpc.__file__).parents[1]
    if imported != Path(checkout):
        sys.exit(f"asyncpc was imported from {imported}, not from {checkout}")
    from .__main__ import loop_factory
    from .measure import Bench

    answers, sys.stdout = sys.stdout, sys.stderr
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        lines = _Lines(Bench(runner, quick == "1", loop=loop, alone=True))
        for question in sys.stdin:
            try:
                given = {"given": lines.answer(**json.loads(question))}
            except Exception as error:
                given = {"why": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(json.dumps(given), file=answers, flush=True)


class _Lines:
    """The lines of the case that is measured."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.case = ""
        self.lines: Iterator[Line] = iter(())
        self.current: Line | None = None

    def answer(
        self, case: str = "", line: str = "", sample: str = "", known: Mapping[str, float] = MappingProxyType({})
    ) -> Any:
        """Go on to a line, or take a sample of the line at hand."""
        from .run import settle
        from .side_paths import CASES

        if sample:
            assert self.current is not None
            return self.current.samples[sample]()
        self.bench.known.update(known)
        if case != self.case:
            self.case, self.lines = case, CASES[case].lines(self.bench)
        self.current = next(found for found in self.lines if found.name == line)
        settle()
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
