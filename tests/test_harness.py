"""The harness itself: each of its checks must be able to fail a test, and must let a good test pass."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import LOOP_FACTORIES, hung_after

pytestmark = pytest.mark.timeout(180)  # a run of its own, on a machine that may be busy

ROOT = Path(__file__).parent.parent
PLANTED = ROOT / "tests" / "planted_faults.py"

FAULTS = {  # planted test: what must be said about it
    "test_task_left": "tasks were left pending",
    "test_exception_never_retrieved": "Task exception was never retrieved",
    "test_loop_exception_handler_called": "asyncio logged an error",
    "test_coroutine_never_awaited": "was never awaited",
    "test_coroutine_never_awaited_in_a_cycle": "was never awaited",
    "test_thread_left": "a thread was left behind",
    "test_socket_left_open": "a socket was left open",
    "test_socket_dropped": "unclosed <socket",
    "test_unraisable": "in __del__",
    "test_blocking_handler": "Blocking call to time.sleep",
    "test_hangs": "the test hung",
    "test_xpass_is_strict": "XPASS(strict)",
    "test_warning": "DeprecationWarning: old",
}


def planted() -> str:
    """What pytest says about the planted faults."""
    options = ["-p", "no:cacheprovider", "--numprocesses=0", "--tb=short", "-vv", "-rfEp"]
    command = [sys.executable, "-m", "pytest", *options, str(PLANTED)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150).stdout


def test_a_planted_fault_fails_on_every_loop() -> None:
    """Protects every check of the harness from being an empty one; and a good test passes, on every loop.

    It is one test, since several workers of pytest would plant the faults several times.
    """
    said = planted()
    for name, complaint in FAULTS.items():
        assert_fails(said, name, complaint)
    assert set(re.findall(r"^PASSED \S+::test_good\[(\w+)\]", said, re.MULTILINE)) == set(LOOP_FACTORIES)
    assert not re.search(r"^(FAILED|ERROR) \S+::test_(good|release)", said, re.MULTILINE)


def assert_fails(output: str, name: str, complaint: str) -> None:
    """That test has failed on each loop, and what is wrong has been said."""
    is_async = f"async def {name}(" in PLANTED.read_text()
    expected = {f"[{loop}]" for loop in LOOP_FACTORIES} if is_async else {""}
    found = set(re.findall(rf"^(?:FAILED|ERROR) \S+::{name}(\[\w+\])?(?: |$)", output, re.MULTILINE))
    assert found == expected, output
    sections = re.split(r"^(?:={3,}|_{3,}) (?:ERROR at \w+ of )?", output, flags=re.MULTILINE)
    said = [part for part in sections if re.match(rf"{name}(\[| )", part)]
    assert said
    assert all(complaint in part for part in said), said


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.5, 60.0])
def test_a_test_counts_as_hung_after_some_time_and_before_its_limit(limit: float) -> None:
    """Protects tests with a limit of a second or less, which would be cancelled before they have begun."""
    assert limit / 3 <= hung_after(limit) < limit


def test_every_planted_fault_is_expected() -> None:
    """Protects the list above from falling behind the planted file."""
    names = set(re.findall(r"def (test_\w+)\(", PLANTED.read_text()))
    assert names - {"test_good", "test_release"} == set(FAULTS)


async def test_the_loops_are_what_they_are_called(request: pytest.FixtureRequest) -> None:
    """Protects the three loops: debug mode is on, eager tasks are eager, uvloop is uvloop."""
    loop = asyncio.get_running_loop()
    name = request.node.callspec.id
    assert loop.get_debug() == (name == "debug")
    assert (loop.get_task_factory() is not None) == (name == "eager")
    assert type(loop).__module__.startswith("uvloop") == (name == "uvloop")
