"""CPython's own tests of ``asyncio.Queue``, run against ``BoundedQueue``: the proof that it is a drop-in.

Nothing of them is copied: the interpreter's ``test.test_asyncio.test_queues`` is loaded a second time, under another
name, and ``asyncio.Queue`` in it is replaced before its classes are made (``q_class = asyncio.Queue`` is evaluated
at import). Its TestCases that concern Queue, not the Lifo and Priority queues, become TestCases of this module.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import unittest
from types import ModuleType
from typing import Any

import pytest

import asyncpc

MODULE = "test.test_asyncio.test_queues"

CLASSES = ["QueueBasicTests", "QueueGetTests", "QueuePutTests", "QueueJoinTests"]
if sys.version_info >= (3, 13):
    CLASSES.append("QueueShutdownTests")

AT_LEAST = 39 if sys.version_info >= (3, 13) else 34
"""Tests there are in those classes, so that an empty or renamed module cannot pass."""


class Queue(asyncpc.BoundedQueue[Any]):
    """``BoundedQueue`` under the name and with the default of ``asyncio.Queue``."""

    def __init__(self, maxsize: float = 0) -> None:
        super().__init__(maxsize)


class _Asyncio(ModuleType):
    """``asyncio``, but with our Queue, and leaving the process's event loop policy alone."""

    Queue = Queue

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def set_event_loop_policy(self, policy: None) -> None:
        """The module's ``tearDownModule`` calls it; it is deprecated, and pytest-asyncio's business here."""


def _load() -> ModuleType | None:
    """A fresh copy of the interpreter's module; None where it ships no tests."""
    try:
        spec = importlib.util.find_spec(MODULE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    replaced = sys.modules["asyncio"]
    sys.modules["asyncio"] = _Asyncio("asyncio")  # what the module's own "import asyncio" finds, and only it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["asyncio"] = replaced
    return module


_module = _load()


if _module is not None:
    for _name in CLASSES:  # a subclass each, so that they are this module's own
        globals()[_name] = type(_name, (getattr(_module, _name),), {"__module__": __name__})


def _tests(case: type[unittest.TestCase]) -> list[str]:
    return list(unittest.defaultTestLoader.getTestCaseNames(case))


def test_cpythons_tests_are_here() -> None:
    """Protects against silently running nothing: on CI the tests must exist, and be as many as we know of."""
    if _module is None:
        reason = f"this interpreter ships no {MODULE} (on Debian: install libpython3-testsuite)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)  # not ours to install on a user's machine; on CI the line above fails instead
    counts = {name: len(_tests(globals()[name])) for name in CLASSES}
    assert sum(counts.values()) >= AT_LEAST, counts
    assert all(counts.values()), counts


# Never silent: without the package the test above says so, and fails on CI.
@pytest.mark.skipif(_module is None, reason="this interpreter ships no test package")
def test_they_test_our_queue() -> None:
    """Protects against testing asyncio's queue by mistake."""
    assert _module is not None
    assert _module.asyncio.Queue is Queue
    assert _module.QueueJoinTests.q_class is Queue
    assert issubclass(Queue, asyncpc.BoundedQueue)
    assert asyncio.Queue is not Queue
