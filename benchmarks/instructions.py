"""``python -m benchmarks.instructions``: judge what an item costs by its instructions; a run and a definition as well.

Instruction counts repeat where times do not: the same code gives the same count on a busy machine. valgrind counts two
sizes of each case, and the difference is what the additional items cost. That cost is compared with the cost of the
hand-written pipeline on the same interpreter, and the ratio with the one kept in ``instructions.json``. A kept ratio
holds for one build of one Python. On another build the state it was measured on is measured again, from its commit.

Status 0: every case is within its limit; 1: one is over it; 2: usage, or something needed to measure is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from .counted import CASES

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).with_suffix(".json")
VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
MISSING = "valgrind is missing; it counts the instructions. Install it, on Debian: apt-get install valgrind"
BETTER = 0.97
"""Below this share of the kept ratio, the new one should be kept: later losses would hide in what was gained."""

Ratios = dict[str, float]
"""By case: the instructions of an item in asyncpc, as a ratio to those in the hand-written pipeline."""


class NotMeasured(Exception):
    """Something needed to measure or to judge is missing."""


@dataclass(frozen=True)
class Cost:
    """Instructions per item, medians of all runs."""

    asyncpc: float
    by_hand: float
    spread: float
    """By how much the runs differ, as a share."""

    @property
    def ratio(self) -> float:
        """Below 1, asyncpc needs fewer."""
        return self.asyncpc / self.by_hand


Costs = dict[str, Cost]
"""By case."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then judge or keep the ratios."""
    options = _options(arguments)
    try:
        return _keep(options) if options.keep else _judge(options)
    except NotMeasured as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"all by default: {', '.join(CASES)}")
    parser.add_argument("--runs", type=int, default=5, help="the median counts (5; one is enough for a quick look)")
    parser.add_argument("--package", type=Path, default=ROOT, metavar="DIR", help="measure this checkout's asyncpc")
    parser.add_argument("--against", type=Path, metavar="DIR", help="judge by this checkout, not by the kept ratios")
    parser.add_argument(
        "--keep", action="store_true", help="write the ratios to the file, to judge by them from now on"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why these ratios are kept")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are: {', '.join(CASES)}")
    for checkout in filter(None, (options.package, options.against)):
        if not (checkout / "asyncpc" / "__init__.py").is_file():
            parser.error(f"no asyncpc in {checkout}")
    if options.keep != bool(options.reason):
        parser.error("--keep and --reason go together: a ratio is kept with the reason for it")
    if options.keep and options.against:
        parser.error("--against judges by another checkout, so there is nothing to keep")
    if options.runs < 1:
        parser.error("--runs is at least 1")
    options.cases = options.cases or list(CASES)
    return options


# -- measuring -------------------------------------------------------------------------------------


def measure(checkouts: Sequence[Path], cases: Sequence[str], runs: int) -> list[Costs]:
    """What an item costs, for each checkout; runs go side by side, since counts do not depend on load."""
    if shutil.which(VALGRIND[0]) is None:
        raise NotMeasured(MISSING)
    for checkout in checkouts:
        _child(
            checkout, []
        )  # says what does not import, and leaves it compiled, as all runs but the first would find it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = [[pool.submit(_run, checkout, cases) for _ in range(runs)] for checkout in checkouts]
        return [_costs([run.result() for run in of], cases) for of in done]


def _run(checkout: Path, cases: Sequence[str]) -> Mapping[tuple[str, str], float]:
    """One run: instructions per item, by case and implementation."""
    done = _child(checkout, cases, VALGRIND)
    return per_item(done.stdout, done.stderr)


def _child(checkout: Path, cases: Sequence[str], under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # -S, since importing `site` would double the time of the start; PYTHONPATH has what it would find
    command = [*under, sys.executable, "-S", "-s", "-m", "benchmarks.counted", str(checkout.resolve()), *cases]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not re.match(r"[=-]{2}\d+[=-]{2}", line)]
        raise NotMeasured("\n".join([f"the asyncpc of {checkout}", *said]))
    return done


def per_item(done: str, counted: str) -> Mapping[tuple[str, str], float]:
    """Instructions per item, from the lines that the children print and the totals that valgrind prints."""
    totals = {pid: int(total.replace(",", "")) for pid, total in re.findall(r"==(\d+)== I\s+refs:\s+([\d,]+)", counted)}
    sizes: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for line in done.splitlines():
        case, who, items, pid = line.split("|")
        if pid not in totals:
            raise NotMeasured(f"valgrind printed no total for process {pid}:\n{counted}")
        sizes.setdefault((case, who), []).append((int(items), totals[pid]))
    return {key: (most - least) / (many - few) for key, ((few, least), (many, most)) in sizes.items()}


def _costs(runs: Sequence[Mapping[tuple[str, str], float]], cases: Sequence[str]) -> Costs:
    costs = {}
    for case in cases:
        ours, by_hand = ([run[case, who] for run in runs] for who in ("asyncpc", "hand-written"))
        spread = max(max(counts) / min(counts) - 1 for counts in (ours, by_hand))
        costs[case] = Cost(median(ours), median(by_hand), spread)
    return costs


# -- judging ---------------------------------------------------------------------------------------


def _judge(options: argparse.Namespace) -> int:
    with _standard(options) as (checkouts, kept):
        costs, *others = measure([options.package, *checkouts], options.cases, options.runs)
    for other in others:
        kept = {case: ratio * other[case].ratio for case, ratio in kept.items()}
    over = [case for case in costs if costs[case].ratio > kept[case] * CASES[case].allowed]
    _show(costs, kept, options.runs)
    print(f"over the limit: {', '.join(over)}" if over else "within the limits")
    return int(bool(over))


@contextmanager
def _standard(options: argparse.Namespace) -> Iterator[tuple[list[Path], Ratios]]:
    """What to judge by: ratios, as multiples of those of a checkout if one is given too."""
    if options.against:
        yield [options.against], dict.fromkeys(options.cases, 1.0)
        return
    kept = _read().get(minor(), {"ratios": {}})
    if unknown := [case for case in options.cases if case not in kept["ratios"]]:
        raise NotMeasured(f"{KEPT.name} keeps no ratio for Python {minor()}, {', '.join(unknown)}; --keep writes it")
    entries = {case: kept["ratios"][case] for case in options.cases}
    if kept["build"] == build():
        yield [], {case: of[-1]["ratio"] for case, of in entries.items()}
        return
    print(f"The ratios were kept for another build ({kept['build']}), so {kept['commit'][:7]} is measured too.")
    with exported(kept["commit"]) as checkout:
        yield [checkout], {case: of[-1]["ratio"] / of[0]["ratio"] for case, of in entries.items()}


@contextmanager
def exported(commit: str) -> Iterator[Path]:
    """The asyncpc of a commit, in a directory of its own."""
    archive = _git(ROOT, "archive", "--format=zip", commit, "asyncpc")
    with TemporaryDirectory() as directory:
        ZipFile(BytesIO(archive)).extractall(directory)
        yield Path(directory)


def _git(checkout: Path, *arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NotMeasured("git is missing, and another commit must be measured") from None
    except subprocess.CalledProcessError as error:
        raise NotMeasured(f"git {' '.join(arguments)}: {error.stderr.decode().strip()}") from None


def _show(costs: Costs, kept: Ratios, runs: int) -> None:
    spread = max(cost.spread for cost in costs.values())
    print(f"{build()}: " + (f"median of {runs} runs, which differ by {spread:.2%} at most" if runs > 1 else "one run"))
    rows = [["case", "instructions", "by hand", "ratio", "kept", "allowed", "change", "verdict"]]
    for case, cost in costs.items():
        change, allowed = cost.ratio / kept[case], CASES[case].allowed
        verdict = "OVER" if change > allowed else "better: keep it" if change < BETTER else "ok"
        ratios = [f"{ratio:.4f}" for ratio in (cost.ratio, kept[case], kept[case] * allowed)]
        rows.append([case, f"{cost.asyncpc:,.0f}", f"{cost.by_hand:,.0f}", *ratios, f"{change - 1:+.1%}", verdict])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for case, *figures, verdict in rows:
        columns = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=False)]
        print("  ".join([case.ljust(widths[0]), *columns, verdict]))


# -- keeping ---------------------------------------------------------------------------------------


def _keep(options: argparse.Namespace) -> int:
    """Add the ratios to those of this build, or begin anew for another build."""
    kept = _read()
    if kept.get(minor(), {}).get("build") != build():
        if set(options.cases) != set(CASES):
            raise NotMeasured("nothing is kept for this build yet: keep all cases at once")
        kept[minor()] = {"build": build(), "commit": _commit(options.package), "ratios": {}}
    costs = measure([options.package], options.cases, options.runs)[0]
    ratios = kept[minor()]["ratios"]
    before = {case: ratios[case][-1]["ratio"] if case in ratios else cost.ratio for case, cost in costs.items()}
    for case, cost in costs.items():
        ratios.setdefault(case, []).append({"ratio": round(cost.ratio, 4), "reason": options.reason})
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _show(costs, before, options.runs)
    print(f"kept in {KEPT}")
    return 0


def _commit(checkout: Path) -> str:
    """The commit that a checkout's asyncpc is the same as, so that it can be measured again on another build."""
    if changed := _git(checkout, "status", "--porcelain", "--", "asyncpc").decode().strip():
        raise NotMeasured(f"the first ratios of a build belong to a commit, and this is not committed:\n{changed}")
    return _git(checkout, "rev-parse", "HEAD").decode().strip()


def _read() -> dict[str, Any]:
    return dict(json.loads(KEPT.read_text(encoding="utf-8"))) if KEPT.exists() else {}


def minor() -> str:
    """The Python that a ratio is kept for: 3.13."""
    return ".".join(platform.python_version_tuple()[:2])


def build() -> str:
    """The interpreter's build; counts of another one differ, even of the same version."""
    libc = " ".join(platform.libc_ver())
    return f"{platform.python_implementation()} {' '.join(sys.version.split())} {libc} {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
