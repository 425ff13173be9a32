"""Random programs that use asyncpc, run in virtual time, and judged by a ledger of their own.

A :class:`Scenario` (``spec``) is drawn from a seed: sources, stages, queues, and one or two things that go wrong. Its
sources and handlers (``program``) write a ``ledger`` as they run: each item they accepted, started, finished or failed,
by identity. The ``player`` runs it; afterwards the ``judge`` compares what asyncpc reports with that ledger, and checks
the invariants.

::

    python -m tests.scenarios --count 5000 --seed 0     # that many scenarios; prints the seeds that fail
    python -m tests.scenarios --only 4711               # one of them, with what was drawn and what is wrong
    python -m tests.scenarios --ahead                   # also what asyncpc does not pass yet (WAITING)
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "tests.scenarios":  # python -m tests.scenarios, which does not put this folder on the path
    sys.path.insert(0, str(Path(__file__).parent.parent))

from .judge import failing, play, problems
from .player import perform
from .spec import AMPLE, FURTHER, OPTIONS, WAITING, Scenario, draw

__all__ = [
    "AMPLE",
    "FURTHER",
    "OPTIONS",
    "WAITING",
    "Scenario",
    "draw",
    "failing",
    "perform",
    "play",
    "problems",
]
