"""The engine in a SQLite file keeps the contract of all engines, and the promises of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncpc.remote.contract import BrokerContract
from asyncpc.remote.engines.sqlite import SqliteBroker


class TestSqlite(BrokerContract):
    """The contract."""

    engine = SqliteBroker
    lease = 0.5
    client = {"synchronous": "NORMAL"}  # noqa: RUF012  # a class variable of the contract

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A file of its own for each test."""
        return f"sqlite:///{tmp_path}/queues.db?queue=jobs"
