"""The Redis engine keeps the contract of all engines, on a real server; and what is particular to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from remote.servers import Server, free_port, must_have, reachable

from asyncpc.remote.contract import BrokerContract
from asyncpc.remote.engines.redis import RedisBroker

pytestmark = pytest.mark.thorough

_names = count()


def server_on(port: int, data: Path, *options: str) -> Server:
    """A Redis server that keeps what it has confirmed."""
    must_have(shutil.which("redis-server"), "redis-server", "apt-get install redis-server")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""]
    return Server([*command, "--appendonly", "yes", *options], lambda: reachable(port), data / "log")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the server of the module listens."""
    port = free_port()
    server = server_on(port, tmp_path_factory.mktemp("redis"))
    server.start()
    yield port
    server.stop()


class TestRedis(BrokerContract):
    """The contract."""

    engine = RedisBroker
    lease = 0.5

    @pytest.fixture
    def url(self, port: int) -> str:
        """A queue of its own for each test."""
        return f"redis://127.0.0.1:{port}/contract-{next(_names)}"
