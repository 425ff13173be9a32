"""A pytest plugin: every async test in virtual time, and fixtures. It needs pytest-asyncio 1.4 or newer.

In the ``conftest.py`` of a project::

    pytest_plugins = ["asyncpc.testing.plugin"]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import pytest_asyncio

from ..remote.queue import remote_queue
from . import leaks
from .clock import VirtualLoop

__all__ = ["leak_check", "remote_url"]

OPTION: Final = "--asyncpc-engine"
IN_MEMORY: Final = "memory://"
IN_A_FILE: Final = ("sqlite", "postgresql", "postgres")
"""Engines whose URLs name the queue after a question mark."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        OPTION,
        default=IN_MEMORY,
        metavar="URL",
        help="the engine of remote_url: memory://, sqlite, or the URL of a server such as redis://localhost",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest the marker."""
    config.addinivalue_line("markers", "realtime: runs on a real loop, as it waits for something outside")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time, but for a test that is marked ``realtime``, and one that uses a queue on a real engine."""
    uses_engine = "remote_url" in getattr(item, "fixturenames", ()) and config.getoption(OPTION) != IN_MEMORY
    if uses_engine or item.get_closest_marker("realtime") is not None:
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}


@pytest_asyncio.fixture
async def leak_check() -> AsyncIterator[None]:
    """Fail a test that leaves a task, a thread, a socket or an async generator behind: see ``testing.leak_check``."""
    with leaks.leak_check():
        yield


@pytest_asyncio.fixture
async def remote_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty queue: in memory, or on the engine of ``--asyncpc-engine``; it is emptied after the test."""
    url = _queue_at(str(request.config.getoption(OPTION)), f"test-{uuid4().hex[:12]}", tmp_path)
    yield url
    async with remote_queue(url, dict).open() as queue:
        await queue.purge()
        await queue.purge(dead=True)


def _queue_at(engine: str, name: str, folder: Path) -> str:
    if engine.partition(":")[0] == "sqlite":
        engine = f"sqlite:///{folder}/queues.db"
    if urlsplit(engine).scheme in IN_A_FILE:
        return f"{engine}{'&' if urlsplit(engine).query else '?'}queue={name}"
    return f"{engine}{name}" if engine.endswith("/") else f"{engine}/{name}"
