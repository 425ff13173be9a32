"""``python -m tools.mutate core/channel --sample 40`` tells which faults in a module no test would notice.

Takes a sample of the module's mutants, and runs for each the tests that reach its line, as a first run of the suite
under coverage tells. A mutant that passes them all survives: a test is missing, or the code does nothing. Survivors
are to be read one by one, so the status is 0 whatever it finds.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from coverage import CoverageData

from .mutants import Mutant, mutants

ROOT = Path(__file__).parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".coverage*", ".*_cache", ".hypothesis", "__pycache__", "dist")
PATIENCE = 5
"""A mutant that takes so many times as long as the whole suite under coverage hangs, and so is noticed."""
NOT_COLLECTED = 4, 5
"""pytest's status when it does not know a test, or runs none."""


class Candidate(NamedTuple):
    """A mutant and the module it is in, as a path from the root."""

    module: str
    mutant: Mutant


class Copy:
    """A copy of the project, in which one mutant at a time lives."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(root, folder, ignore=NOT_COPIED)

    def pytest(self, *arguments: str, seconds: float | None = None) -> int | None:
        """Run tests here, and return pytest's status; ``None`` if they did not end in time."""
        ours = {
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # of two mutants of the same size and second, the second would be the first
            "COVERAGE_PROCESS_CONFIG": "",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses=0", *arguments],
            cwd=self.folder,
            env=os.environ | ours,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what its tests started
            process.wait()

    def survives(self, candidate: Candidate, tests: Sequence[str], seconds: float) -> bool:
        """Whether all these tests pass with the mutant in place."""
        path = self.folder / candidate.module
        source = path.read_text(encoding="utf-8")
        chosen = self.folder / "chosen-tests.txt"
        chosen.write_text("\n".join(tests), encoding="utf-8")
        try:
            path.write_text(candidate.mutant.apply(source), encoding="utf-8")
            status = self.pytest("-x", f"@{chosen}", seconds=seconds)
        finally:
            path.write_text(source, encoding="utf-8")
        if status in NOT_COLLECTED and tests:
            raise RuntimeError(f"pytest does not find the tests that reach {candidate.module}:{candidate.mutant.line}")
        return status == 0


class Reach:
    """Which tests run which lines."""

    def __init__(self, copy: Copy, package: str, tests: Sequence[str]) -> None:
        began = time.monotonic()
        measured = f"--cov={package}", "--cov-context=test", "--cov-report=", "--cov-fail-under=0"
        status = copy.pytest(*measured, *tests)
        self.seconds = time.monotonic() - began
        if status != 0:
            raise RuntimeError(f"the tests fail without any mutant: pytest ended with status {status}")
        data = CoverageData(str(copy.folder / ".coverage"))
        data.read()
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._lines: Counter[str] = Counter()
        for path in data.measured_files():
            module = Path(path).relative_to(copy.folder).as_posix()
            for line, contexts in data.contexts_by_lineno(path).items():
                here = {test for context in contexts if (test := context.rpartition("|")[0])}
                self._tests[module, line] |= here
                self._lines.update(here)

    def tests(self, candidate: Candidate) -> list[str]:
        """Return the tests of a mutant's line, those that run little else first; all if only other processes run it."""
        found = self._tests[candidate.module, candidate.mutant.line] or set(self._lines)
        return sorted(found, key=lambda test: (self._lines[test], test))


def candidates(root: Path, package: str, modules: Sequence[str]) -> list[Candidate]:
    """Return all mutants of the modules; each is named by its path in the package, a folder for all in it."""
    found: list[Candidate] = []
    for name in modules or ["."]:
        place = root / package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            module = path.relative_to(root).as_posix()
            found += [Candidate(module, mutant) for mutant in mutants(path.read_text(encoding="utf-8"))]
    return found


def judged(
    root: Path, package: str, chosen: Sequence[Candidate], tests: Sequence[str] = (), jobs: int = 1
) -> Iterator[tuple[Candidate, bool]]:
    """Try each mutant on these tests (all by default), and tell in this order whether it survived."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as threads:
        copies = [Copy(root, Path(folder).resolve() / str(n)) for n in range(jobs)]
        reach = Reach(copies[0], package, tests)
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in copies:
            free.put(copy)

        def survives(candidate: Candidate) -> bool:
            copy = free.get()
            try:
                return copy.survives(candidate, reach.tests(candidate), PATIENCE * reach.seconds)
            finally:
                free.put(copy)

        yield from zip(chosen, threads.map(survives, chosen), strict=True)


def changed(root: Path, candidate: Candidate) -> str:
    """Return the lines that a mutant changes, before and after."""
    source = (root / candidate.module).read_text(encoding="utf-8")
    before, after = source.splitlines(), candidate.mutant.apply(source).splitlines()
    return "\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw mutants, try them, and tell which survived."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", help="core/channel, or options for all in it; by default everything")
    parser.add_argument("--sample", type=int, default=40, help="how many to try (40)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, to repeat it (0)")
    parser.add_argument("--tests", nargs="+", default=(), help="only these, as for pytest; by default the quick suite")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    options = parser.parse_args(arguments)
    everything = candidates(ROOT, "asyncpc", options.modules)
    chosen = random.Random(options.seed).sample(everything, min(options.sample, len(everything)))
    killed = 0
    for candidate, survived in judged(ROOT, "asyncpc", chosen, options.tests, options.jobs):
        killed += not survived
        print(f"{'survived' if survived else 'killed'}: {candidate.module}:{candidate.mutant.line}", flush=True)
        if survived:
            print(changed(ROOT, candidate), flush=True)
    print(f"{killed} of {len(chosen)} killed; drawn from {len(everything)} with seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
