"""The twenty tests of ``examples/testing``: fast, steady, and each of them sees that its pipeline is broken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
from children import Ended, run_pytest

pytestmark = pytest.mark.processes

PROJECT: Final = Path(__file__).parents[2] / "examples" / "testing"

BROKEN: Final = {  # each test, and a change of the pipeline that only this one notices
    "when_the_bank_is_down_it_is_asked_again_ten_minutes_later": ("attempt: 600", "attempt: 60"),
    "after_four_calls_it_is_given_up": ("Retry(4,", "Retry(3,"),
    "a_declined_card_is_asked_once": ("on=(BankDown,)", "on=(Exception,)"),
    "what_could_not_be_charged_is_kept": ("on_error=refuse)", 'on_error="skip")'),
    "a_failing_bank_gets_a_rest": ("reset_after=30", "reset_after=3"),
    "a_slow_answer_is_not_waited_for": ("timeout=10", "timeout=100"),
    "a_full_batch_is_written_at_once": ("Batch(100,", "Batch(1000,"),
    "a_batch_is_written_after_five_seconds": ("within=5", "within=500"),
    "ten_mails_a_minute": ("Rate(10, per=60)", "Rate(10, per=30)"),
    "pages_leave_in_order": ("ordered=True", "ordered=False"),
    "a_customer_has_one_booking_at_a_time": ("lambda order: order.customer", "lambda order: order.number"),
    "two_labels_are_printed_at_once": ("concurrency=2", "concurrency=3"),
    "rows_are_read_from_a_file": ("if line.strip():", "if line:"),
    "a_bug_stops_the_run_and_names_the_order": (
        "@consumer\nasync def ship(",
        '@consumer(on_error="skip")\nasync def ship(',
    ),
    "a_stuck_order_is_given_up_after_twenty_seconds": ("drain_timeout=20", "drain_timeout=200"),
    "what_a_cancelled_worker_had_is_kept": (", on_unfinished=lost.extend", ""),
    "a_cancelled_run_closes_its_connection": ("    finally:\n        connections -= 1", "    finally:\n        pass"),
    "who_stops_reading_lets_nobody_scan_for_nothing": ("maxsize=4", "maxsize=400"),
    "a_remote_order_that_comes_again_is_entered_once": ("if order.number in entered:", "if False:"),
    "a_remote_order_that_costs_nothing_is_put_aside": ('raise ValueError("nothing to pay")', "return"),
}


def user_tests(folder: Path, *options: str) -> Ended:
    """Run the tests of a copy of the project."""
    return run_pytest(folder, *options)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))


CPU: Final = """
import time
def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"used {time.process_time() - began:.2f}s")
began = time.process_time()
"""


@pytest.mark.realtime
def test_twenty_tests_take_less_than_a_second(project: Path) -> None:
    """Protects the reason for virtual time: nobody waits for an hour's waits.

    By the clock, or by CPU time on a machine that has other things to do; the best of three.
    """
    with (project / "conftest.py").open("a") as conftest:
        conftest.write(CPU)
    seconds: list[float] = []
    for _ in range(3):
        ended = user_tests(project, "-q")
        found = re.search(r"^used ([\d.]+)s\n20 passed in ([\d.]+)s", ended.out, re.MULTILINE)
        assert found, ended.out + ended.err
        seconds += map(float, found.groups())
        if min(seconds) < 1:
            break
    assert min(seconds) < 1, seconds


def test_each_of_the_twenty_has_a_fault_of_its_own() -> None:
    """Protects the table above from falling behind."""
    tests = re.findall(r"^async def test_(\w+)", (PROJECT / "test_pipeline.py").read_text(), re.MULTILINE)
    assert tests == list(BROKEN)
    assert len(tests) == 20


@pytest.mark.thorough
@pytest.mark.parametrize("test", BROKEN)
def test_a_broken_pipeline_fails_its_test_and_no_other(project: Path, test: str) -> None:
    """Protects from tests that pass whatever the pipeline does."""
    old, new = BROKEN[test]
    text = (project / "pipeline.py").read_text()
    assert text.count(old) == 1
    (project / "pipeline.py").write_text(text.replace(old, new))
    ended = user_tests(project, "-q", "--tb=no")
    assert re.findall(r"^FAILED test_pipeline\.py::test_(\w+)", ended.out, re.MULTILINE) == [test], ended.out
    assert "19 passed" in ended.out


AGAIN: Final = """
def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("time")
    metafunc.parametrize("time", range(100))
"""


@pytest.mark.thorough
def test_threads_in_virtual_time_give_the_same_each_time(project: Path) -> None:
    """Protects from a clock that jumps while a thread is about to call the loop: a hundred times, exact to the tick."""
    with (project / "conftest.py").open("a") as conftest:
        conftest.write(AGAIN)
    ended = user_tests(project, "-q", "-k", "labels or rows")
    assert "200 passed" in ended.out, ended.out + ended.err


@pytest.mark.thorough
def test_the_same_tests_pass_on_a_real_engine(project: Path) -> None:
    """Protects the option: what passes in memory passes in real time, on a queue that is a file."""
    ended = user_tests(project, "-q", "-k", "remote", "--asyncpc-engine", "sqlite")
    assert "2 passed" in ended.out, ended.out + ended.err
