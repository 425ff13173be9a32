"""Every example, run as a reader would run it: as a script and through the command line, in a process of its own.

Outputs are checked for their meaning, with numbers computed here in another way, and against what the example's own
header promises. Nothing is waited for by the clock: the tests read what the processes write.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import heapq
import json
import math
import os
import random
import re
import signal
import sqlite3
import sys
import sysconfig
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from children import PATIENCE, UNMEASURED, Child, Ended, run_child
from support import BUSY

from asyncpc import Pipeline, consumer, remote_queue, testing

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

FINITE = (
    *("basic", "multiple_consumers", "multiple_producers", "checkout_line", "crawler", "stdlib_report"),
    *("micro_batching", "api_client", "ordered_download", "per_customer", "priority_triage", "sensor_overflow"),
    *("thread_sensor", "log_pipeline", "fan_out", "etl"),
)
"""The examples that end by themselves."""


SHARED = {"order_queue"}
"""What several examples import; no program of its own."""

NO_PIPELINE = {"order_queue_web"}
"""Examples that only put items into a remote queue."""


# -- how they are run ---------------------------------------------------------------------------------


def as_script(name: str, *arguments: str) -> list[str]:
    return [str(EXAMPLES / f"{name}.py"), *arguments]


def as_module(name: str, *arguments: str) -> list[str]:
    return ["-m", f"examples.{name}", *arguments]


def as_pipeline(name: str) -> list[str]:
    return ["-m", "asyncpc", "run", f"examples.{name}:pipeline"]


both_ways = pytest.mark.parametrize("way", [as_script, pytest.param(as_pipeline, marks=pytest.mark.thorough)])
"""As a script, as its header says first; ``basic`` and a signal are tried through the command line as well."""


def started(command: list[str], patience: float = PATIENCE, **environment: str) -> Child:
    """The example, with warnings as errors, in a process group of its own, which Ctrl-C goes to."""
    here = {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    return Child(ROOT, "-W", "error", *command, own_group=True, patience=patience, **here, **environment)


def output(command: list[str], status: int = 0) -> str:
    """What ``command`` writes to stdout; see :func:`run_to_its_end`."""
    return run_to_its_end(command, status).out


def run_to_its_end(command: list[str], status: int = 0) -> Ended:
    """Run ``command``, which must end with ``status`` and have nothing to complain about."""
    ended = started(command).end()
    assert ended.status == status, ended.out + ended.err
    for complaint in ("Traceback", "Warning", "Exception ignored", "never retrieved", "was destroyed"):
        assert complaint not in ended.err, ended.err
    return ended


def promised(name: str) -> list[str]:
    """The lines of output that the example's header shows, without those that stand for others."""
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    block = re.search(r"^Expect.*::\n\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    assert block, f"the header of {name} does not say what to expect"
    lines = [line.strip() for line in block[1].splitlines()]
    return [line for line in lines if line and line != "..." and not line.startswith("(")]


def loosened(line: str) -> str:
    """A pattern for lines like this one: the same words, other numbers, other pages and places in files."""
    line = re.sub(r"\S+\.(py|html)\S*( \w+)?$|\S+\?key=\S+", "PLACE", line)
    pattern = re.sub(r"\d[\d,]*(\\\.\d+)?", lambda _: r"\d[\d,]*(\.\d+)?", re.escape(re.sub(r"\s+", " ", line)))
    return pattern.replace("PLACE", r"\S+( \w+)?").replace(r"\ ", r"\s+")


def assert_keeps(name: str, written: str, *, exactly: bool = False) -> None:
    """Each promised line came, in the promised order; ``exactly`` as promised, or else with other numbers."""
    rest = iter(written.splitlines())
    for line in promised(name):
        pattern = re.escape(line) if exactly else loosened(line)
        assert any(re.fullmatch(pattern, came.strip()) for came in rest), f"{line!r} is not in\n{written}"


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, f"{pattern!r} is not in\n{text}"
    return float(match[1].replace(",", ""))


def processes_marked(mark: str) -> list[int]:
    """The living processes whose environment has ``mark``: an example and all that it started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                found.append(int(folder.name))
    return found


def listens(pid: int) -> bool:
    """Whether the process has a socket of its own on which it waits for clients."""
    with contextlib.suppress(OSError):
        sockets = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return any(row[3] == "0A" and f"socket:[{row[9]}]" in sockets for row in rows)
    return False


def command_of(pid: int) -> bytes:
    """What the process runs; of a child that was only forked it is its parent's, and it still shares our signals."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


# /proc is Linux's; elsewhere these tests have nothing to read, and CI runs on Linux, so there they are never skipped.
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc")


def until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    """For what writes nothing that could be read: look until it is so."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.01)  # between two looks, in the test's own process; nothing depends on how long


# -- all of them --------------------------------------------------------------------------------------


def modules() -> set[str]:
    return {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"} - SHARED


def test_every_example_has_a_test() -> None:
    """Protects against an example that is added and never run: each needs a script test and a place in the index."""
    tests = [name for name in globals() if name.startswith("test_")]
    index = (EXAMPLES / "__init__.py").read_text(encoding="utf-8")
    for name in modules():
        assert any(test.startswith(f"test_{name}_") for test in tests), f"examples/{name}.py has no test"
        assert f"``{name}``" in index, f"examples/__init__.py does not list {name}"
    endless = {"order_service", "resume_orders", "threaded_server", "graceful_shutdown", "random_numbers"}
    shared = {"order_queue_web", "order_queue_worker", "shared_crawl"}  # with other processes
    assert set(FINITE) == modules() - endless - shared


def test_the_page_of_the_site_lists_every_example() -> None:
    """Protects the reader of the site, who does not see the folder: each is there once, and its command is real."""
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(modules())
    for name, _, commands in rows:
        header = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
        for command in re.findall(r"`([^`]+)`", commands):
            assert f"    {command}" in header, f"examples/{name}.py is not run so"


def test_how_to_pages_lead_to_the_examples_they_name() -> None:
    """Protects the reader of a page: what it names is a click away, at the heading of the program."""
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:]
    there = {
        name: re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading, text in zip(sections[::2], sections[1::2], strict=True)
        for name in re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    }
    named = 0
    for path in (ROOT / "docs/how-to").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        links = dict(re.findall(r"\[`examples/(\w+)\.py`\]\(\.\./examples\.md#([\w-]+)\)", text))
        assert set(re.findall(r"`examples/(\w+)\.py`", text)) == set(links), path.name
        assert all(there[name] == anchor for name, anchor in links.items()), path.name
        named += len(links)
    assert named > 10


@pytest.mark.parametrize("name", sorted(modules()))
def test_headers_say_how_to_run(name: str) -> None:
    """Protects the reader: each header gives a command that names this very file, the other way, and real output."""
    text = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    assert f"python examples/{name}.py" in text or f"python -m examples.{name}" in text
    assert f"asyncpc run examples.{name}:pipeline" in text or name in NO_PIPELINE
    assert promised(name)


@pytest.mark.parametrize(
    "name",
    ["basic", *(pytest.param(f"multiple_{one}", marks=pytest.mark.thorough) for one in ("consumers", "producers"))],
)
def test_the_same_as_a_module(name: str) -> None:
    """Protects ``python -m examples.…``: the small ones keep their header's promise so too."""
    assert_keeps(name, output(as_module(name)))


# -- one by one ---------------------------------------------------------------------------------------


def test_basic_script() -> None:
    """Protects the first program that anyone copies: its output is the header's, to the letter."""
    written = output(as_script("basic"))
    assert_keeps("basic", written, exactly=True)
    assert written.splitlines()[:-1] == [f"{n} squared is {n * n}" for n in range(10)]


def test_basic_pipeline() -> None:
    """Protects the same program under the command line: every item, and the books."""
    written = output(as_pipeline("basic"))
    assert written.splitlines()[:10] == [f"{n} squared is {n * n}" for n in range(10)]
    assert number(r"(\d+) done", written) == 10


@both_ways
def test_multiple_consumers_share_the_work(way: Any) -> None:
    """Protects that five consumers share twenty jobs evenly and at the same time."""
    written = output(way("multiple_consumers"))
    assert written.splitlines()[0] == " ".join(str(n * n) for n in range(20))
    shares = [int(share) for share in re.findall(r"squares-\d did (\d+)", written)]
    assert len(shares) == 5
    assert sum(shares) == 20
    if way is as_script:
        assert_keeps("multiple_consumers", written)
        assert number(r"in ([\d.]+) s", written) >= 0.4


def test_multiple_consumers_in_virtual_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects that they work at the same time: one consumer would need 2.0 s."""
    monkeypatch.syspath_prepend(str(ROOT))
    assert testing.run(import_module("examples.multiple_consumers").pipeline).elapsed == pytest.approx(0.4, abs=0.001)
    assert capsys.readouterr().out.splitlines() == promised("multiple_consumers")[:6]


@both_ways
def test_multiple_producers_all_give(way: Any) -> None:
    """Protects merge: nothing of any source is missing, each keeps its order, and the fast one is not held up."""
    written = output(way("multiple_producers"))
    for room, first, count in (("kitchen", 20, 5), ("attic", 30, 5), ("cellar", 11, 2)):
        readings = [int(degrees) for degrees in re.findall(rf"{room}: +(\d+) °C", written)]
        assert readings == list(range(first, first + count))
    assert written.index("attic:   30") < written.index("kitchen: 24")
    if way is as_script:
        assert_keeps("multiple_producers", written, exactly=True)


def line_at(cashiers: int, customers: list[Any]) -> list[float]:
    """How long each customer waits, by the textbook: the next one in line goes to the cashier who is free first."""
    free = [0.0] * cashiers
    waits = []
    for customer in customers:
        begins = max(customer.comes, heapq.heappop(free))
        waits.append(begins - customer.comes)
        heapq.heappush(free, begins + customer.needs)
    return waits


@pytest.mark.parametrize("cashiers", [1, 2, 3, 5])
def test_checkout_line_agrees_with_the_textbook(
    cashiers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects the line's fairness: in virtual time, waits and line are exactly the calculated ones."""
    monkeypatch.syspath_prepend(str(ROOT))
    shop = import_module("examples.checkout_line")
    customers = shop.crowd()
    waits = line_at(cashiers, customers)
    begins = [customer.comes + wait for customer, wait in zip(customers, waits, strict=True)]
    # whoever comes is in the line for a moment, before all who came earlier and were not yet served
    longest = max(1 + sum(begin > one.comes for begin in begins[:place]) for place, one in enumerate(customers))

    async def day() -> Any:
        return await shop.shop(cashiers)

    report = testing.run(day())
    mean = sum(waits) / len(waits)
    assert capsys.readouterr().out == f"waiting: {mean:.1f} minutes on average, {max(waits):.1f} at most\n"
    assert report.stages[0].peak_queued == longest


@pytest.mark.thorough
@both_ways
def test_checkout_line_in_real_time(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the same in real time: timers fire late and never early, so waits are the textbook's or longer."""
    monkeypatch.syspath_prepend(str(ROOT))
    waits = line_at(3, import_module("examples.checkout_line").crowd())
    written = output(way("checkout_line"))
    mean, longest = sum(waits) / len(waits), max(waits)
    assert number(r"waiting: ([\d.]+) minutes", written) >= mean - 0.3
    assert number(r", ([\d.]+) at most", written) >= longest - 0.3
    if way is as_script:
        assert_keeps("checkout_line", written)


@pytest.mark.thorough
def test_checkout_line_takes_the_number_of_cashiers() -> None:
    """Protects the argument."""
    assert "60 customers, 30 cashiers" in output(as_script("checkout_line", "30"))


@pytest.mark.thorough
@needs_proc
@both_ways
def test_crawler_ends_by_itself(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects feed: a crawl of pages that link in circles ends, visits each page once, and leaves no server."""
    monkeypatch.setenv("ASYNCPC_TEST_MARK", mark := uuid.uuid4().hex)
    written = output(way("crawler"))
    pages, links = number(r"(\d+) pages", written), number(r"(\d+) links", written)
    assert pages > 100  # the topics and keywords of every Python since 3.11 alone
    assert links > 5 * pages
    slowest = [int(took) for took in re.findall(r"(\d+) ms", written)]
    assert len(slowest) == 5
    assert slowest == sorted(slowest, reverse=True)
    assert len(re.findall(r"^  dead ", written, re.MULTILINE)) == number(r"(\d+) dead", written) < 20
    if way is as_script:
        assert_keeps("crawler", written)
    else:
        assert number(r"(\d+) fed", written) == links
        assert number(r"(\d+) done in", written) == pages
    assert [pid for pid in processes_marked(mark) if pid != os.getpid()] == []


@pytest.mark.thorough
def test_crawler_names_dead_links() -> None:
    """Protects the report of dead links, and the command line's modules: only those named are asked for."""
    written = output(as_script("crawler", "no_such_module", "string"))
    assert "dead    no_such_module.html" in written
    assert "json" not in written


@pytest.mark.thorough
@needs_proc
@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_crawler_leaves_no_server_behind(sent: signal.Signals, status: int) -> None:
    """Protects the machine: a crawl ended by Ctrl-C, SIGTERM or SIGKILL takes its server with it."""
    mark = uuid.uuid4().hex
    child = started(as_script("crawler"), ASYNCPC_TEST_MARK=mark)
    until(lambda: any(b"pydoc" in command_of(pid) for pid in processes_marked(mark)), "the server runs")
    if sent is signal.SIGINT:
        child.send_to_group(sent)
    else:
        child.send(sent)
    ended = child.end()
    assert ended.status == status
    if sent is not signal.SIGKILL:
        assert "pages" in ended.out  # drained: the summary came
        assert processes_marked(mark) == []
    until(lambda: processes_marked(mark) == [], "the server ends")


def python_files(folder: Path) -> list[Path]:
    ignored = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return [path for path in folder.rglob("*.py") if not ignored & set(path.relative_to(folder).parts)]


@pytest.mark.thorough
@both_ways
def test_stdlib_report_counts_what_is_there(way: Any) -> None:
    """Protects the README's main example: its counts are those of the standard library, in reasonable time."""
    ended = run_to_its_end(way("stdlib_report"))
    assert ended.cpu < 20  # about 5
    written = ended.out
    texts = [path.read_bytes() for path in python_files(Path(sysconfig.get_path("stdlib")))]
    assert number(r"([\d,]+) modules", written) == len(texts)
    assert number(r"([\d,]+) lines", written) == sum(len(text.splitlines()) for text in texts)
    definitions = sum(len(re.findall(rb"^\s*(?:async\s+)?def\s", text, re.MULTILINE)) for text in texts)
    assert number(r"([\d,]+) functions", written) == pytest.approx(definitions, rel=0.02)  # some are in strings
    assert re.search(r"most imported, by modules:\n +\d+  sys\n", written)
    if way is as_script:
        assert_keeps("stdlib_report", written)


def test_stdlib_report_names_what_cannot_be_read(tmp_path: Path) -> None:
    """Protects the whole from its parts: files that cannot be decoded, parsed or read are counted and named."""
    (tmp_path / "good.py").write_text("import os.path\n\n\ndef one():\n    return 1\n", encoding="utf-8")
    (tmp_path / "syntax.py").write_text("def (:\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    (tmp_path / "nulls.py").write_bytes(b"a = 1\0\n")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    written = output(as_script("stdlib_report", str(tmp_path)))
    assert "5 modules, 5 lines, 1 functions, 4 unreadable" in written
    assert set(re.findall(r"^  (\w+\.py): \w*Error: ", written, re.MULTILINE)) == {
        "syntax.py",
        "latin.py",
        "nulls.py",
        "gone.py",
    }
    assert "2  good.py:4 one" in written
    assert re.search(r"1  os$", written, re.MULTILINE)


@pytest.mark.thorough
@both_ways
def test_micro_batching_shares_calls(way: Any) -> None:
    """Protects call through a batch: each caller gets his own score (the example asserts it); they share batches."""
    written = output(way("micro_batching"))
    became = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) calls became +(\d+) batches", written)]
    assert [calls for calls, _ in became] == [40, 200, 1000]
    for calls, batches in became:
        assert math.ceil(calls / 32) <= batches < calls
    if way is as_script:
        assert_keeps("micro_batching", written)


def test_micro_batching_in_virtual_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the promise itself: where time is exact, no batch is smaller than it must be, and none is late."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.micro_batching")

    async def main() -> Any:
        began = asyncio.get_running_loop().time()
        await example.pipeline
        return asyncio.get_running_loop().time() - began

    # 10 ms for each batch; the last one of each rush is not full, and waits 5 ms for more unless the model is busy
    assert testing.run(main()) == pytest.approx(0.010 * (2 + 7 + 32), abs=0.001)
    assert re.findall(r"became +(\d+)", capsys.readouterr().out) == ["2", "7", "32"]


@pytest.mark.thorough
@both_ways
def test_api_client_loses_no_prompt(way: Any) -> None:
    """Protects failure handling against real HTTP: each prompt is answered or a dead letter with its reason."""
    written = output(way("api_client"), status=0 if way is as_script else 1)
    assert re.findall(r"prompt (\d+) given up at call (\d): (\w+)", written) == [
        ("13", "1", "Refused"),
        ("26", "1", "Refused"),
        ("31", "3", "Unavailable"),
    ]
    if way is as_script:
        assert_keeps("api_client", written)
        # four 500s, two 429s, one that never answers, two more calls for what is given up; slow machines: more
        assert number(r"(\d+) calls repeated", written) >= 9
    else:
        assert re.search(r"^ask +40 +37 +3 ", written, re.MULTILINE)
        assert re.search(r"^dead_letters +3 +3 ", written, re.MULTILINE)


@pytest.mark.thorough
@needs_proc
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_api_client_stops_when_told(sent: signal.Signals, status: int) -> None:
    """Protects the books under a signal: what was begun is answered, waits for a 429 included, and it all ends."""
    child = started(as_pipeline("api_client"), ASYNCPC_TEST_MARK=(mark := uuid.uuid4().hex))
    until(lambda: any(listens(pid) for pid in processes_marked(mark)), "the API is there")
    child.send(sent)
    ended = child.end()
    assert ended.status in (status, 1)  # 1: all was accepted by then, so prompts failed
    accepted, done = number(r"(\d+) produced", ended.out), number(r"(\d+) done in", ended.out)
    assert accepted == done + len(re.findall("given up", ended.out))


def ends_of(workers: int, lengths: list[float]) -> list[float]:
    """When each download is there, by the textbook: the next one goes to the worker who is free first."""
    free = [0.0] * workers
    ends = []
    for seconds in lengths:
        ends.append(heapq.heappop(free) + seconds)
        heapq.heappush(free, ends[-1])
    return ends


@pytest.mark.thorough
@both_ways
def test_ordered_download_writes_in_order(way: Any) -> None:
    """Protects ordered=True: parts finish in another order and are written in theirs, while four are under way."""
    written = output(way("ordered_download"))
    finished = [int(part) for part in re.findall(r"\d+", written.splitlines()[0])]
    assert finished != sorted(finished) == list(range(12))
    assert written.splitlines()[1] == "written:  " + " ".join(map(str, range(12)))
    if way is as_script:
        assert_keeps("ordered_download", written)
        assert number(r"parts in ([\d.]+) s", written) < number(r"one by one ([\d.]+) s", written)


def test_ordered_download_agrees_with_the_textbook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects the workers' time: none of them idles behind a slow part, so the parts are there as calculated."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.ordered_download")
    ends = ends_of(4, [part.seconds for part in example.parts()])

    async def main() -> Any:
        return await example.pipeline

    report = testing.run(main())
    assert report.elapsed == pytest.approx(max(ends), abs=0.001)
    finished = " ".join(str(part) for part in sorted(range(12), key=ends.__getitem__))
    assert capsys.readouterr().out.splitlines()[0] == f"finished: {finished}"
    assert f"finished: {finished}" == promised("ordered_download")[0]


@pytest.mark.thorough
@both_ways
def test_per_customer_holds_up_only_the_slow_one(way: Any) -> None:
    """Protects key=: each customer's orders in order and one at a time; the others end long before the slow one."""
    written = output(way("per_customer"))
    served = re.findall(r"(\w+): +orders ([\d ]+), never two at once, after ([\d.]+) s", written)
    assert [customer for customer, _, _ in served] == ["Ada", "Ben", "Cleo", "Dora"]
    assert {numbers for _, numbers, _ in served} == {"1 2 3 4 5"}
    *others, dora = (float(seconds) for _, _, seconds in served)
    assert 0.05 <= max(others) < dora
    assert dora >= 1.0
    if way is as_script:
        assert_keeps("per_customer", written)


def test_per_customer_in_virtual_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the others' time from the slow one: it is what they would need alone, to the letter of the header."""
    monkeypatch.syspath_prepend(str(ROOT))
    testing.run(import_module("examples.per_customer").pipeline)
    assert [re.sub(r"\s+", " ", line) for line in capsys.readouterr().out.splitlines()] == [
        re.sub(r"\s+", " ", line) for line in promised("per_customer")
    ]


@both_ways
def test_priority_triage_sees_the_urgent_first(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects priority=: whoever comes while the doctor is busy is seen by urgency, equal ones as they came."""
    monkeypatch.syspath_prepend(str(ROOT))
    first, *others = import_module("examples.priority_triage").PATIENTS
    written = output(way("priority_triage"))
    seen = [(name, int(came)) for name, came in re.findall(r"urgency \d  (.*?) +came as number (\d)", written)]
    urgent_first = [first, *sorted(others, key=lambda patient: (patient.urgency, patient.number))]
    assert seen == [(patient.suffers, patient.number) for patient in urgent_first]
    assert_keeps("priority_triage", written, exactly=True)


@both_ways
def test_sensor_overflow_counts_what_was_not_shown(way: Any) -> None:
    """Protects drop_oldest: the sensor never waits, the last reading is shown, and each other was shown or told."""
    written = output(way("sensor_overflow"))
    shown = [tuple(map(int, pair)) for pair in re.findall(r"reading +(\d+): .*\((\d+) skipped", written)]
    numbers = [reading for reading, _ in shown]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 200
    assert [skipped for _, skipped in shown] == [b - a - 1 for a, b in zip([0, *numbers], numbers, strict=False)]
    if way is as_script:
        assert_keeps("sensor_overflow", written)
        assert f"200 readings, {len(shown)} shown, {200 - len(shown)} dropped" in written
    else:
        assert re.search(rf"^display +200 +{len(shown)} +{200 - len(shown)} ", written, re.MULTILINE)


@pytest.mark.parametrize(
    ("way", "sent", "status"),
    [
        (as_script, signal.SIGTERM, 143),
        (as_pipeline, signal.SIGINT, 130),
        pytest.param(as_script, signal.SIGINT, 130, marks=pytest.mark.thorough),
        pytest.param(as_pipeline, signal.SIGTERM, 143, marks=pytest.mark.thorough),
    ],
)
def test_graceful_shutdown_while_idle(way: Any, sent: signal.Signals, status: int) -> None:
    """Protects the promise others break: a signal is heard while the source waits for an item that never comes."""
    child = started(way("graceful_shutdown"))
    child.line_with("handled event 5")
    child.send(sent)
    ended = child.end()
    assert ended.status == status
    assert ended.seconds < BUSY
    ready, *handled, closed = ended.out.splitlines()[:7]
    assert ready == f"ready: kill -TERM {child.pid}"
    assert sorted(handled) == [f"handled event {n}" for n in range(1, 6)]
    assert closed == "source closed"
    if way is as_script:
        assert ended.out.splitlines()[7:] == [f"5 of 5 events handled, exit status {status}"]
        if sent is signal.SIGTERM:
            assert_keeps("graceful_shutdown", ended.out)
    else:
        assert re.search(r"^handle +5 +5 ", ended.out, re.MULTILINE)


@both_ways
def test_graceful_shutdown_under_load(way: Any) -> None:
    """Protects accepted items: a signal that comes while they wait in the queue loses none of them."""
    child = started(way("graceful_shutdown"))
    child.line_with("ready")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert ended.status == 143
    handled = len(re.findall("handled event", ended.out))
    accepted = number(r"of (\d+) events" if way is as_script else r"(\d+) produced", ended.out)
    assert handled == accepted
    assert "source closed" in ended.out


@pytest.mark.parametrize(
    ("way", "sent", "status"),
    [(as_script, signal.SIGINT, 130), pytest.param(as_pipeline, signal.SIGTERM, 143, marks=pytest.mark.thorough)],
)
def test_random_numbers_end_at_a_signal(way: Any, sent: signal.Signals, status: int) -> None:
    """Protects a drain of an endless source: it gives no more, and each number that it has given is handled."""
    child = started(way("random_numbers"))
    for _ in range(5):
        child.line_with("handled")
    child.send(sent)
    ended = child.end()
    assert ended.status == status, ended.err
    handled = [int(one) for one in re.findall(r"handled (\d+)$", ended.out, re.MULTILINE)]
    assert all(1 <= one <= 100 for one in handled)
    if way is as_script:
        assert_keeps("random_numbers", ended.out)
        assert ended.out.splitlines()[-1] == f"{len(handled)} numbers made, {len(handled)} handled, exit status 130"
    else:
        assert number(r"(\d+) produced", ended.out) == number(r"(\d+) done", ended.out) == len(handled)


def test_random_numbers_come_as_fast_as_they_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the memory: ten numbers wait, and the source gives thirty a second, as are handled, not a hundred."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.random_numbers")

    async def main() -> Any:
        async with example.pipeline as running:
            await asyncio.sleep(10)
            return await running.drain()

    report = testing.run(main())
    assert report.produced == report.done == pytest.approx(10 * 30 + 10, abs=4)
    assert report.stages[0].peak_queued == 10


@both_ways
def test_thread_sensor_loses_no_reading(way: Any) -> None:
    """Protects the two ways in from a thread: a callback that puts, and a generator that blocks."""
    written = output(way("thread_sensor"))
    assert re.findall(r"mean of (\d+) readings: ([\d.]+) °C", written) == [("100", f"20.{n}") for n in range(10)]
    if way is as_script:
        assert_keeps("thread_sensor", written, exactly=True)
    else:
        assert number(r"(\d+) done", written) == 1000


@pytest.mark.thorough
@both_ways
def test_fan_out_reaches_every_place(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects broadcast and route: each sink gets each order, each warehouse its own; none waits for another."""
    monkeypatch.syspath_prepend(str(ROOT))
    countries = import_module("examples.fan_out").COUNTRIES
    written = output(way("fan_out"), status=0 if way is as_script else 1)
    everything = [str(number) for number in range(1, len(countries) + 1)]
    assert re.findall(r"order +(\d+) is in the index", written) == everything
    assert re.findall(r"\d+", " ".join(re.findall(r"archived(.*)", written))) == everything
    assert written.index("order 10 is in the index") < written.index("archived")
    assert re.findall(r"order +(\d+) stays here", written) == [str(1 + countries.index("Atlantis"))]
    at_home = {"zurich": countries.count("CH"), "berlin": countries.count("DE")}
    sent = at_home | {"abroad": len(countries) - sum(at_home.values()) - 1}
    if way is as_script:
        assert_keeps("fan_out", written, exactly=True)
        assert written.splitlines()[-1] == ", ".join(f"{name} sent {count}" for name, count in sent.items())
    else:
        for name, count in sent.items():
            assert re.search(rf"^{name} +\d+ +{count} ", written, re.MULTILINE)
        assert re.search(r"^undeliverable +1 +1 ", written, re.MULTILINE)


def test_fan_out_in_virtual_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects the quick branches from the slow one: the run lasts as long as the archive alone would."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.fan_out")

    async def main() -> Any:
        return await example.pipeline

    report = testing.run(main())
    assert report.elapsed == pytest.approx(2 * 0.2, abs=0.001)
    assert (report.produced, report.done, report.failed) == (10, 10 + 10 + 9, 1)
    assert capsys.readouterr().out.splitlines()[:9] == promised("fan_out")[:1] + [
        f"order {number:2} is in the index" for number in range(2, 10)
    ]


@needs_proc
@both_ways
def test_log_pipeline_counts_every_line(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects processes in a program's main module and under the command line; none is left."""
    monkeypatch.setenv("ASYNCPC_TEST_MARK", mark := uuid.uuid4().hex)
    assert_keeps("log_pipeline", output(way("log_pipeline")), exactly=True)
    assert [pid for pid in processes_marked(mark) if pid != os.getpid()] == []


@pytest.mark.thorough
def test_log_pipeline_reads_a_file(tmp_path: Path) -> None:
    """Protects the argument: lines of a real file, good and bad."""
    log = tmp_path / "access.log"
    log.write_text('1.2.3.4 - - [x] "GET /a?b=c HTTP/1.1" 503 -\nnonsense\n')
    written = output(as_script("log_pipeline", str(log)))
    assert "2 lines, 1 of them unreadable" in written
    assert "1  /a" in written
    assert "1 requests, 1 of them 5xx" in written


# -- a million rows -----------------------------------------------------------------------------------


LONG = 240.0
"""Seconds for a million rows on a busy machine; half a minute on a quiet one."""

ROW = re.compile(rb'"(Shop \d+, Z\xc3\xbcrich)",(\d{4}-\d\d-\d\d),(tea \d+),(\d+),([\d.]+)\n')


def rows_of(file: Path) -> Iterator[tuple[Any, ...]]:
    """What must become of each line of a file that the example has made: an order, or None for a bad one."""
    with file.open("rb") as lines:
        next(lines)
        for line, text in enumerate(lines, start=2):
            row = ROW.fullmatch(text)
            fields = row and (
                row[1].decode(),
                row[2].decode(),
                row[3].decode(),
                int(row[4]),
                round(float(row[5]) * 100),
            )
            yield (line, *fields) if fields else (line, None)


def assert_loaded(file: Path) -> tuple[int, int]:
    """Each line of the file is in the database once, as what it is; how many orders and dead letters there are."""
    orders = dead = 0
    with contextlib.closing(sqlite3.connect(file.with_suffix(".db"))) as database:
        there = database.execute(
            "SELECT line, customer, day, product, quantity, cents FROM orders "
            "UNION ALL SELECT line, NULL, NULL, NULL, NULL, NULL FROM dead_letters ORDER BY line"
        )
        for row, expected in zip(there, rows_of(file), strict=True):
            is_dead = expected[1] is None
            assert row == ((expected[0], *[None] * 5) if is_dead else expected)
            dead += is_dead
            orders += not is_dead
    return orders, dead


def last_line(file: Path) -> int:
    """The last line of the file that is in the database."""
    with contextlib.suppress(sqlite3.OperationalError):  # there is no table yet
        address = f"{file.with_suffix('.db').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute("SELECT max(line) FROM orders").fetchone()[0] or 0
    return 0


def is_loaded(file: Path, line: int) -> bool:
    return last_line(file) >= line


def loading(file: Path) -> Child:
    return started(as_script("etl", "load", str(file)), patience=LONG, **UNMEASURED)


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a million rows, one of a thousand bad."""
    file = tmp_path_factory.mktemp("etl") / "rows.csv"
    assert "1,000,000 rows" in output(as_script("etl", "make", str(file), "1_000_000"))
    return file


def test_etl_loads_each_row_once(tmp_path: Path) -> None:
    """Protects the rows: good and bad ones are told apart, and another run reads only what is not there, holes too."""
    file = tmp_path / "rows.csv"
    assert output(as_script("etl", "make", str(file), "4_000")) == f"4,000 rows in {file}, 4 of them bad\n"
    database = file.with_suffix(".db")
    told = f"3,996 orders and 4 dead letters are in {database}\n"
    assert output(as_script("etl", "load", str(file))) == told
    assert assert_loaded(file) == (3996, 4)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM orders WHERE line % 7 = 3 OR line > 3000")
        connection.execute("DELETE FROM dead_letters WHERE line > 3000")
        (left,) = connection.execute("SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM dead_letters)")
    again = run_to_its_end(as_script("etl", "load", str(file)))
    assert again.out == f"{left[0]:,} lines of {file} are in {database} already\n{told}"
    assert f"100 % · {4000 - left[0]:,}/{4000 - left[0]:,}" in again.err
    assert assert_loaded(file) == (3996, 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "ValueError: not enough values"),
        (b"Ada,2026-01-01,tea,1\n", "ValueError: not enough values"),
        (b"Ada,2026-01-01,tea,1,2,3\n", "ValueError: too many values"),
        (b"Ada,2026-02-30,tea,1,2.50\n", "ValueError: day is out of range"),
        (b"Ada,2026-01-01,tea,one,2.50\n", "ValueError: invalid literal"),
        (b"Ada,2026-01-01,tea,0,2.50\n", "ValueError: 0 pieces at 2.50"),
        (b"Ada,2026-01-01,tea,99999999999999999999,1\n", "ValueError: 99999999999999999999 pieces"),
        (b"Ada,2026-01-01,tea,1,2.505\n", "ValueError: 1 pieces at 2.505"),
        (b"Ada,2026-01-01,tea,1,1e99\n", "ValueError: 1 pieces at 1e99"),
        (b"Ada,2026-01-01,tea,1,NaN\n", "InvalidOperation"),
        (b"Ada,2026-01-01,tea,1,cheap\n", "InvalidOperation"),
        (b'Ada,2026-01-01,"tea,1,2.50\n', "Error: unexpected end of data"),
        (b"\xff\xfe,2026-01-01,tea,1,2.50\n", "UnicodeDecodeError"),
    ],
)
def test_etl_makes_a_dead_letter_of_each_fault(text: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the run from a row: whatever is in it, it becomes a value that the database takes, with the reason."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.etl")
    dead = example.parsed(7, text)
    assert isinstance(dead, example.DeadLetter)
    assert dead.line == 7
    assert dead.text.encode() or not text  # there is no half of a character in it
    assert reason in dead.reason


@pytest.mark.thorough
def test_etl_through_the_command_line(tmp_path: Path) -> None:
    """Protects the other way to run it, in the folder of the file."""
    output(as_script("etl", "make", str(tmp_path / "rows.csv"), "4_000"))
    ended = run_child(tmp_path, *as_pipeline("etl"), PYTHONPATH=str(ROOT))
    assert ended.status == 0, ended.err
    assert number(r"(\d+) produced", ended.out) == 4000
    assert assert_loaded(tmp_path / "rows.csv") == (3996, 4)


@pytest.mark.thorough
@pytest.mark.timeout(4 * LONG)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_etl_goes_on_where_it_was(sent: signal.Signals, million: Path, tmp_path: Path) -> None:
    """Protects a million rows from two stops, each at a random moment: all are there in the end, and none twice."""
    file = tmp_path / "rows.csv"
    file.hardlink_to(million)
    for _ in range(2):
        moment = last_line(file) + random.randrange(1, 400_000)
        child = loading(file)
        until(partial(is_loaded, file, moment), f"line {moment:,}", LONG)
        if sent is signal.SIGINT:
            child.send_to_group(sent)
        else:
            child.send(sent)
        ended = child.end()
        assert ended.status == (130 if sent is signal.SIGINT else -signal.SIGKILL), ended.err
        assert ("stopped: " in ended.out) == (sent is signal.SIGINT)
        assert last_line(file) < 1_000_001
    ended = loading(file).end()
    assert ended.status == 0, ended.err
    assert assert_loaded(file) == (999_000, 1_000)


@pytest.mark.thorough
@pytest.mark.timeout(4 * LONG)
def test_etl_costs_at_most_twice_what_chunks_by_hand_cost(million: Path, tmp_path: Path) -> None:
    """Protects what ``batch=`` in processes is for: rows, one by one, at no more than twice the CPU time of chunks."""
    used = {}
    for name, command in ("by hand", ["tests/chunked_etl.py"]), ("asyncpc", as_script("etl", "load")):
        file = tmp_path / f"{name}.csv"
        file.hardlink_to(million)
        ended = started([*command, str(file)], patience=LONG, **UNMEASURED).end()
        assert ended.status == 0, ended.err
        assert assert_loaded(file) == (999_000, 1_000)
        used[name] = ended.cpu
    assert used["asyncpc"] <= 2 * used["by hand"], used  # 1.5 to 1.6 times


# -- the web service ----------------------------------------------------------------------------------


def orders(*arguments: str) -> dict[str, Any]:
    """What the load driver saw."""
    ended = run_child(ROOT, "tests/load_orders.py", *arguments)
    assert ended.status == 0, ended.err
    seen: dict[str, Any] = json.loads(ended.out)
    return seen


def assert_none_lost(seen: dict[str, Any], exit_status: int = -signal.SIGTERM) -> None:
    """Each accepted order was handled once; uvicorn raises the signal again after its shutdown."""
    assert seen["accepted"] == seen["handled"] == seen["answers"]["202"]
    assert (seen["lost"], seen["unasked"], seen["twice"]) == ([], [], [])
    assert seen["last_line"] == f"{seen['accepted']} orders accepted, {seen['handled']} handled, 0 unfinished"
    assert seen["without_retry_after"] == 0
    assert seen["exit_status"] == exit_status


@pytest.mark.thorough
def test_order_service_handles_every_order() -> None:
    """Protects the hand-over from web to background: 500 concurrent orders are accepted, handled once, and counted."""
    seen = orders("500")
    assert seen["answers"] == {"202": 500}
    assert_none_lost(seen)
    (stage,) = seen["stats"]["stages"]
    assert stage["received"] == 500 == stage["done"] + stage["in_flight"] + stage["queued"]


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.thorough)])
def test_order_service_drains_at_sigterm(count: int) -> None:
    """Protects accepted orders in a deployment: SIGTERM in the midst of the load, and each 202 is still kept."""
    seen = orders(str(count), "--terminate-after", str(count // 2))
    assert seen["accepted"] >= count // 2
    assert seen["waiting_at_signal"] > 0
    assert_none_lost(seen)


@pytest.mark.parametrize(
    "name",
    ["order_service", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("resume_orders", "threaded_server"))],
)
def test_order_service_through_the_command_line(name: str) -> None:
    """Protects the reader who tries it: a pipeline without a source is refused, with the cure, and does not hang."""
    ended = started(as_pipeline(name)).end()
    assert ended.status == 2
    assert "has no source" in ended.err
    assert "Traceback" not in ended.err


def test_order_service_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects clients: full and draining are 503 with Retry-After at once, nonsense is 400, and nothing is lost."""
    monkeypatch.syspath_prepend(str(ROOT))
    service = import_module("examples.order_service")

    async def scenario() -> None:
        async with service.lifespan(service.app) as state:
            running = state["orders"]

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await service.app({**scope, "state": dict(state)}, receive, send)

            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
                for nonsense in (b"tea", b"[1]", b"\xff", b""):
                    assert (await http.post("/orders", content=nonsense)).status_code == 400
                accepted = (await http.post("/orders", json={"id": 0, "item": "tea"})).status_code
                assert accepted == 202
                filled = 0
                with contextlib.suppress(asyncio.QueueFull):
                    while True:
                        running.put_nowait({"id": filled})
                        filled += 1
                full = await http.post("/orders", json={"id": 1, "item": "tea"})
                running.stop()
                draining = await http.post("/orders", json={"id": 2, "item": "tea"})
                for answer in (full, draining):
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert (await http.get("/stats")).json()["state"] == "draining"
        assert running.report.complete
        assert running.report.done == filled + 1

    testing.run(scenario())


# -- the web server without a loop --------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.thorough)])
def test_threaded_server_drains_at_sigterm(count: int) -> None:
    """Protects the hand-over from threads: SIGTERM in the midst of the load, and each 202 is kept."""
    service = "--service=-m examples.threaded_server --port 0 --verbose"
    seen = orders(str(count), "--terminate-after", str(count // 2), service)
    assert seen["accepted"] >= count // 2
    assert seen["waiting_at_signal"] > 0
    assert_none_lost(seen, exit_status=143)


async def test_threaded_server_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects clients: full and draining are 503 with Retry-After, nonsense is 400 or 404, and nothing is lost."""
    monkeypatch.syspath_prepend(str(ROOT))
    example = import_module("examples.threaded_server")
    may_go_on = asyncio.Event()

    @consumer
    async def wait(order: dict[str, Any]) -> None:
        await may_go_on.wait()

    async with Pipeline(wait, maxsize=1) as running:
        with example.served(0, running) as server:
            address = f"http://127.0.0.1:{server.server_port}"
            async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as http:
                for nonsense in (b"tea", b"[1]", b"\xff", b""):
                    assert (await http.post("/orders", content=nonsense)).status_code == 400
                assert (await http.post("/elsewhere", json={})).status_code == 404
                first, second, full = [await http.post("/orders", json={"id": n}) for n in range(3)]
                assert (first.status_code, second.status_code, second.json()) == (202, 202, {"accepted": 1})
                running.stop()
                draining = await http.post("/orders", json={"id": 3})
                for answer in full, draining:
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            may_go_on.set()
            report = await running.wait()
    assert (report.produced, report.done) == (2, 2)


# -- the web service that resumes ---------------------------------------------------------------------


ON_STDOUT = """
import runpy, sys
sys.stderr = sys.stdout
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
"""The log of an example comes where it can be read line by line."""


def send_orders(address: str, numbers: range) -> None:
    """Send orders, each of which must be accepted."""
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        for number in numbers:
            assert http.post("/orders", json={"id": number}).status_code == 202


def served(database: Path, orders: range, handle: int) -> tuple[list[int], str]:
    """Start the service, send it orders, and stop it after it has handled some: those, and what it says at the end."""
    child = started(
        ["-c", ON_STDOUT, "examples.resume_orders", "--port", "0", "--database", str(database), "--verbose"]
    )
    address = re.search(r"http://[\w.:]+", child.line_with("running on"))
    assert address
    send_orders(address[0], orders)
    for _ in range(handle):
        child.line_with("handled order")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert ended.status == -signal.SIGTERM  # uvicorn raises the signal again after its shutdown
    return [int(number) for number in re.findall(r"handled order (\d+)", ended.out)], ended.out


@pytest.mark.thorough
def test_resume_orders_loses_nothing_across_restarts(tmp_path: Path) -> None:
    """Protects accepted orders: the deadline of the drain passes, and the next run handles what was left, once."""
    database = tmp_path / "orders.db"
    first, said = served(database, range(40), handle=1)
    assert f"40 orders accepted, {len(first)} handled, {40 - len(first)} saved" in said
    assert len(first) < 40
    second, said = served(database, range(40, 45), handle=45 - len(first))
    assert f"{40 - len(first)} orders taken back" in said
    assert f"{45 - len(first)} orders accepted, {45 - len(first)} handled, 0 saved" in said
    assert sorted(first + second) == list(range(45))


# -- the order service in two programs ------------------------------------------------------------------


class Shop:
    """Both programs, with their orders in a file."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/orders.db?queue=orders"

    def web(self) -> tuple[Child, str]:
        """The web half, and its address."""
        child = started(["-c", ON_STDOUT, "examples.order_queue_web", "--port", "0"], ORDERS_URL=self.url)
        address = re.search(r"http://[\w.:]+", child.line_with("running on"))
        assert address
        return child, address[0]

    def worker(self) -> Child:
        """One more process that handles orders."""
        return started(["-c", ON_STDOUT, "examples.order_queue_worker", "--verbose"], ORDERS_URL=self.url)


def handled(ended: Ended) -> list[int]:
    """The numbers of the orders that a worker has handled."""
    return [int(number) for number in re.findall(r"handled order (\d+)", ended.out)]


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.thorough)])
def test_order_queue_worker_hands_over_at_sigterm(count: int, tmp_path: Path) -> None:
    """Protects accepted orders: both programs are stopped in the midst of it, and others do the rest, once."""
    shop = Shop(tmp_path)
    web, address = shop.web()
    send_orders(address, range(count))
    first = shop.worker()
    first.line_with("handled order")
    first.send(signal.SIGTERM)
    send_orders(address, range(count, count + 10))  # no worker is needed for that
    web.send(signal.SIGTERM)
    ended = first.end()
    assert (ended.status, web.end().status) == (143, -signal.SIGTERM)
    done = handled(ended)
    assert f"{len(done)} orders received, {len(done)} handled, 0 failed" in ended.out
    assert 0 < len(done) <= count  # all, where a busy machine sends the signal late; ten more came after it
    second = shop.worker()
    for _ in range(count + 10 - len(done)):
        second.line_with("handled order")
    second.send(signal.SIGTERM)
    ended = second.end()
    assert ended.status == 143
    assert sorted(done + handled(ended)) == list(range(count + 10))
    assert_keeps("order_queue_worker", ended.out)


def test_order_queue_web_takes_an_order_once(tmp_path: Path) -> None:
    """Protects clients that ask again: one id is one order; nonsense is 400; and what waits is told."""
    web, address = Shop(tmp_path).web()
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        for nonsense in (b"tea", b"[1]", b"\xff", b"", b"{}", b'{"id": "one"}'):
            assert http.post("/orders", content=nonsense).status_code == 400
        for _ in range(3):
            again = http.post("/orders", json={"id": 1, "item": "tea"})
            assert (again.status_code, again.json()) == (202, {"accepted": 1})
        depth = http.get("/depth").json()
        assert (depth["ready"], depth["unacknowledged"], depth["delayed"], depth["dead"]) == (1, 0, 0, 0)
        assert re.fullmatch(loosened(promised("order_queue_web")[-1]), http.get("/depth").text)
    web.send(signal.SIGTERM)
    assert web.end().status == -signal.SIGTERM


@pytest.mark.thorough
def test_order_queue_web_says_when_the_queue_is_out_of_reach(tmp_path: Path) -> None:
    """Protects clients from a promise that nobody can keep: without a confirmation it is 503 with Retry-After."""
    web, address = Shop(tmp_path).web()
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        other = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # and never goes on
        refused = http.post("/orders", json={"id": 1})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        other.execute("ROLLBACK")
        other.close()
        assert http.post("/orders", json={"id": 2}).status_code == 202
    web.send(signal.SIGTERM)
    assert web.end().status == -signal.SIGTERM


# -- the crawl that processes share ---------------------------------------------------------------------


class Site(ThreadingHTTPServer):
    """Pages that link to each other in circles; after some requests it lets its clients wait until it may go on."""

    pages = 150

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SitePage)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.may_go_on = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.may_go_on.set()
        self.shutdown()
        self.server_close()


class SitePage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site = self.server
        assert isinstance(site, Site)
        site.asked.append(self.path)
        if len(site.asked) > 30:
            site.may_go_on.wait(PATIENCE)
        number = int(self.path.removeprefix("/page"))
        links = (number + 1, number + 7, number * 2)
        body = "".join(f'<a href="/page{link % site.pages}">' for link in links).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = 0, size: object = 0) -> None: ...


def test_shared_crawl_fetches_each_page_once(tmp_path: Path) -> None:
    """Protects shared de-duplication: a process is stopped, another goes on, and ends when all was fetched, once."""
    url = f"sqlite:///{tmp_path}/crawl.db?queue=pages"
    with Site() as site:
        first = started(as_script("shared_crawl", f"{site.address}/page0"), CRAWL_URL=url)
        until(lambda: len(site.asked) > 30, "the crawl is under way")
        first.send(signal.SIGTERM)
        second = started(as_script("shared_crawl"), CRAWL_URL=url)
        site.may_go_on.set()
        ended = first.end(), second.end()
        assert sorted(site.asked) == sorted(f"/page{number}" for number in range(site.pages))
    assert [one.status for one in ended] == [143, 0]
    shares = [number(r"(\d+) pages", one.out) for one in ended]
    assert sum(shares) == site.pages
    assert all(shares)
    for one in ended:
        assert one.err == ""
        assert_keeps("shared_crawl", one.out)


@pytest.mark.thorough
def test_shared_crawl_in_processes_of_one_command(tmp_path: Path) -> None:
    """Protects ``--processes`` with a real program: two fetch each page once, and one report sums up."""
    url = f"sqlite:///{tmp_path}/crawl.db?queue=pages"

    pages = remote_queue(url, str)

    async def begin(page: str) -> None:
        async with pages.open() as queue:
            await queue.put(page, id=page)

    with Site() as site:
        site.may_go_on.set()
        child = started([*as_pipeline("shared_crawl"), "--processes", "2"], CRAWL_URL=url)
        asyncio.run(begin(f"{site.address}/page0"))
        until(lambda: len(site.asked) >= site.pages, "all pages are fetched")
        child.send(signal.SIGTERM)
        ended = child.end()
        assert sorted(site.asked) == sorted(f"/page{number}" for number in range(site.pages))
    assert ended.status == 143, ended.err
    assert number(r"(\d+) done in", ended.out) == site.pages
    assert "in 2 processes" in ended.out
