"""``asyncpc.testing.plugin``: virtual time for async tests, and what a test can ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from children import Ended, run_pytest

pytestmark = pytest.mark.processes

TESTS = """
import asyncio, time
import pytest
from asyncpc.testing import VirtualLoop, now

left = []

async def test_virtual(leak_check):
    await asyncio.sleep(3600)
    assert now() == 3600

@pytest.mark.realtime
async def test_real():
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)

def test_plain(leak_check):
    pass

async def test_url(remote_url):
    print(remote_url, type(asyncio.get_running_loop()).__name__)

async def test_leaves(leak_check):
    left.append(asyncio.create_task(asyncio.sleep(9)))

async def test_deadlock():
    await asyncio.get_running_loop().create_future()
"""
BY_PLUGIN = 'pytest_plugins = ["asyncpc.testing.plugin"]\n'
BY_HOOK = """
from asyncpc.testing import VirtualLoop
def pytest_asyncio_loop_factories(config, item): return {"virtual": VirtualLoop}
"""


def pytest_on(folder: Path, conftest: str, *options: str) -> Ended:
    (folder / "test_it.py").write_text(TESTS)
    (folder / "conftest.py").write_text(conftest)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode=auto\nasyncio_default_fixture_loop_scope=function\n")
    return run_pytest(folder, "-q", "-rA", *options)


def test_the_plugin(tmp_path: Path) -> None:
    """Protects what its page says: time, the marker, the fixtures, and what a deadlock and a leak look like."""
    ended = pytest_on(tmp_path, BY_PLUGIN, "--strict-markers")
    assert "1 failed, 5 passed, 1 error in" in ended.out, ended.out
    for passed in ("virtual", "real", "plain", "url"):
        assert f"PASSED test_it.py::test_{passed}\n" in ended.out, ended.out
    assert "FAILED test_it.py::test_deadlock - asyncpc.testing.clock.Deadlock: nothing ca" in ended.out
    assert re.search(r"pending: task 'Task-\d+' at \S+/test_it.py:\d+ in test_deadlock", ended.out)
    assert "ERROR test_it.py::test_leaves" in ended.out
    assert "a task was left pending: 'Task-" in ended.out
    assert "memory://test-" in ended.out
    assert " VirtualLoop\n" in ended.out


def test_an_engine_is_asked_for_by_an_option(tmp_path: Path) -> None:
    """Protects the same test on a real engine: a queue of its own, and real time for that test alone."""
    ended = pytest_on(tmp_path, BY_PLUGIN, "-k", "url or virtual", "--asyncpc-engine", "sqlite")
    assert "2 passed" in ended.out, ended.out
    assert "sqlite:///" in ended.out
    assert " VirtualLoop\n" not in ended.out


def test_an_engine_keeps_the_options_of_its_url(tmp_path: Path) -> None:
    """Protects a database with a schema of its own for tests; there is no server at this address."""
    tests = "import os\ndef test_url(remote_url): os.write(2, remote_url.encode()); os._exit(0)"
    (tmp_path / "test_options.py").write_text(tests)
    url = "postgresql://127.0.0.1:1/shop?schema=tests"
    ended = pytest_on(tmp_path, BY_PLUGIN, "test_options.py", "-s", "--asyncpc-engine", url)
    assert ended.err.startswith(f"{url}&queue=test-"), ended.err


def test_the_hook_alone_is_enough(tmp_path: Path) -> None:
    """Protects the two lines for a project that wants no plugin."""
    ended = pytest_on(tmp_path, BY_HOOK, "-k", "deadlock")
    assert "Deadlock: nothing can go on" in ended.out, ended.out
