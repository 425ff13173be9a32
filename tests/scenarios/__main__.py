"""``python -m tests.scenarios``: run random scenarios from the command line; the package says how."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from . import WAITING, draw, failing


def main() -> int:
    logging.getLogger("asyncpc").addHandler(logging.NullHandler())  # what the runs log is no news here
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description="Run random scenarios.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, help="one seed, with all that was drawn")
    parser.add_argument("--loop", choices=["plain", "debug", "eager", "uvloop"], help="instead of the one drawn")
    parser.add_argument("--ahead", action="store_true", help="also what asyncpc does not pass yet")
    options = parser.parse_args()
    waiting = frozenset[str]() if options.ahead else WAITING
    if options.only is not None:
        print(draw(options.only, waiting))
        seeds = range(options.only, options.only + 1)
    else:
        seeds = range(options.seed, options.seed + options.count)
    began = time.perf_counter()
    failures = failing(seeds, loop=options.loop, waiting=waiting)
    for seed, found in failures.items():
        print(f"seed {seed}: " + "\n    ".join(found) + f"\n    python -m tests.scenarios --only {seed}")
    print(f"{len(seeds)} scenarios, {len(failures)} failed, {time.perf_counter() - began:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
