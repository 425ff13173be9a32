"""The memory engine keeps the contract of all engines."""

from __future__ import annotations

from itertools import count

import pytest

from asyncpc.remote.contract import BrokerContract
from asyncpc.remote.engines.memory import MemoryBroker

_names = count()


@pytest.mark.processes  # it waits for leases
class TestMemory(BrokerContract):
    """The contract."""

    engine = MemoryBroker
    lease = 0.3

    @pytest.fixture
    def url(self) -> str:
        """A queue of its own for each test."""
        return f"memory://contract-{next(_names)}"
