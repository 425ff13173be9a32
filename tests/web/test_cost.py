"""What watching costs a run that does nothing else, by the CPU time of the process.

Runs that are watched are compared with equal ones beside them, whose differences tell how far the machine can be
trusted.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from children import run_on_terminal

pytestmark = [pytest.mark.thorough, pytest.mark.realtime, pytest.mark.timeout(300)]

LEAST = 0.97
"""The throughput of a run that is watched in all ways, as a share of the one of a run that nobody watches."""

PROGRAM = """
import io, resource, socket, subprocess, sys
from contextlib import redirect_stdout
from asyncpc import Pipeline, consumer, source
from asyncpc.cli import main

CLIENT = '''
import socket, sys, time, urllib.request
page, metrics, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", page))
        connection.sendall(b"GET /api/events HTTP/1.1\\\\r\\\\nHost: localhost\\\\r\\\\n\\\\r\\\\n")
        if kind == "sleeps":
            time.sleep(600)
        while connection.recv(65536):
            if metrics:
                urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read()
    except OSError:
        time.sleep(0.05)
'''

@consumer
async def nothing(n): return n

@consumer
async def last(n): ...

def named(number):
    return Pipeline(source(range(2_000_000)), nothing >> last, name=f"run {number}")

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

rounds, *rest = sys.argv[1:]
clients = [one for one in rest if not one.startswith("--")]
page, metrics = free_port(), free_port()
ports = {"--live": [], "--web": [page], "--metrics": [metrics]}
watched = [word for one in rest if one in ports for word in (one, *ports[one])]
command = [sys.executable, "-c", CLIENT, page, metrics if "--metrics" in rest else "0"]
running = [subprocess.Popen([*command, kind]) for kind in clients]
try:
    for number, is_watched in enumerate(map(int, rounds)):
        before = cpu()
        with redirect_stdout(io.StringIO()):
            status = main(["run", "app:named", "--set", f"number={number}", *(watched if is_watched else ["--quiet"])])
        print("CPU", is_watched, status, cpu() - before, flush=True)
finally:
    for one in running:
        one.kill()
"""


def cost(folder: Path, watched: Sequence[str], clients: Sequence[str]) -> tuple[float, float]:
    """The throughput of a run that is watched, as a share; and how much two equal runs differ."""
    pytest.importorskip("rich")
    (folder / "app.py").write_text(PROGRAM.partition("def free_port")[0].replace("from asyncpc.cli import main\n", ""))
    (folder / "cost.py").write_text(PROGRAM)
    on: list[float] = []
    off: list[float] = []
    for _ in range(4):
        ended = run_on_terminal(folder, "cost.py", "101010", *watched, *clients)
        told = re.findall(r"CPU (\d) (\d) ([\d.]+)", ended.out)
        assert [status for _, status, _ in told] == ["0"] * 6, ended.out
        for found, which in ((on, "1"), (off, "0")):
            found += [float(cpu) for is_on, _, cpu in told[2:] if is_on == which]  # the first two warm up
    noise = statistics.median([abs(one - other) for one, other in pairwise(off)])
    share = statistics.median([before / with_it for before, with_it in zip(off, on, strict=True)])
    print(
        f"{' '.join(watched)}, {len(clients)} clients: {share:.3f}, off against off {noise / statistics.mean(off):.3f}"
    )
    return share, noise / statistics.mean(off)


def test_all_that_watches_together_costs_three_in_a_hundred(tmp_path: Path) -> None:
    """The view on the terminal, the page with somebody who has it open, and a scrape twice a second."""
    share, noise = cost(tmp_path, ["--live", "--web", "--metrics"], ["reads"])
    assert share >= LEAST - noise, (share, noise)


def test_five_clients_that_do_not_read_cost_nothing(tmp_path: Path) -> None:
    """They are asked for nothing, and nobody looks at the run for them."""
    share, noise = cost(tmp_path, ["--web"], ["sleeps"] * 5)
    assert share >= LEAST - noise, (share, noise)
