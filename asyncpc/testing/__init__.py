"""What tests of pipelines need: a clock that jumps, sources and stages that a test drives, and a look at what is left.

It needs nothing but asyncpc; ``asyncpc.testing.plugin`` needs pytest and pytest-asyncio. Nothing else imports it.
"""

from .clock import Deadlock, LeftBehind, VirtualLoop, idle, now, run
from .faults import CancelWorker, Crash, Delay, Fault, Redeliver
from .leaks import leak_check
from .sources import Feed, collect
from .spied import spied
from .stages import Spy

__all__ = [
    "CancelWorker",
    "Crash",
    "Deadlock",
    "Delay",
    "Fault",
    "Feed",
    "LeftBehind",
    "Redeliver",
    "Spy",
    "VirtualLoop",
    "collect",
    "idle",
    "leak_check",
    "now",
    "run",
    "spied",
]
