"""Load for an order service over real HTTP, with SIGTERM in the midst of it if asked for.

::

    python tests/load_orders.py 10000 --terminate-after 5000
    python tests/load_orders.py 10000 --terminate-after 5000 --folder shop --service="-m uvicorn app:app --port 0"

starts ``examples/order_service.py``, or what Python runs with other arguments, in a process of its own. It sends the
orders through concurrent clients, and prints as JSON how each was answered and which of the accepted ones were handled.
A service writes where it is running, and a line for each order that it has handled. So "none lost" is judged from
outside, by the orders' numbers, and not from the pipeline's own books.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
EXAMPLE = "-m examples.order_service --port 0 --verbose"


@dataclass
class Outcome:
    """What happened to the orders."""

    sent: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    """How often each status came, or the error instead of one."""
    accepted: int = 0
    handled: int = 0
    lost: list[int] = field(default_factory=list)
    """Accepted (2xx) and not handled."""
    unasked: list[int] = field(default_factory=list)
    """Handled, and neither accepted nor without an answer."""
    unanswered: int = 0
    """Handled, though the connection broke before the answer."""
    twice: list[int] = field(default_factory=list)
    without_retry_after: int = 0
    """Answers 503 that do not say when to come again."""
    waiting_at_signal: int = 0
    """Accepted orders that were not yet handled when SIGTERM was sent."""
    seconds_of_load: float = 0.0
    seconds_to_exit: float = 0.0
    exit_status: int | None = None
    last_line: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


class Service:
    """A service in a process of its own, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.handled: list[int] = []
        self.out: list[str] = []
        self.err: list[str] = []

    @classmethod
    async def start(cls, arguments: str, folder: Path) -> Service:
        pipe = asyncio.subprocess.PIPE
        at_once = os.environ | {"PYTHONUNBUFFERED": "1"}  # each line when it is written
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, *shlex.split(arguments), cwd=folder, env=at_once, stdout=pipe, stderr=pipe
            )
        )

    async def listen(self) -> None:
        assert self.process.stdout
        assert self.process.stderr
        await asyncio.gather(self._read(self.process.stdout, self.out), self._read(self.process.stderr, self.err))
        if not self.address.done():
            self.address.set_exception(RuntimeError("the service did not start:\n" + "".join(self.out + self.err)))

    async def _read(self, stream: asyncio.StreamReader, other: list[str]) -> None:
        async for line in stream:
            text = line.decode()
            if match := re.search(r"handled order (\d+)", text):
                self.handled.append(int(match[1]))
            elif not self.address.done() and (match := re.search(r"[Rr]unning on (http://[\w.:]+)", text)):
                self.address.set_result(match[1])
            else:
                other.append(text)


async def load(
    count: int,
    terminate_after: int | None = None,
    clients: int = 50,
    service: str = EXAMPLE,
    folder: Path = ROOT,
) -> Outcome:
    """Send ``count`` orders; SIGTERM comes after ``terminate_after`` answers, or after the last.

    It comes when an accepted order waits, however slow this program is: else nothing would be left to drain.
    """
    outcome = Outcome()
    server = await Service.start(service, folder)
    listening = asyncio.create_task(server.listen())
    try:
        address = await server.address
        numbers = iter(range(1, count + 1))
        accepted: list[int] = []
        broken: set[int] = set()
        answers: Counter[str] = Counter()
        terminated = 0.0
        after = math.inf if terminate_after is None else terminate_after

        def is_time() -> bool:
            return not terminated and sum(answers.values()) >= after and len(accepted) > len(server.handled)

        def terminate() -> None:
            nonlocal terminated
            outcome.waiting_at_signal = len(accepted) - len(server.handled)
            terminated = perf_counter()
            server.process.send_signal(signal.SIGTERM)

        def connected() -> httpx.AsyncClient:
            """A client of plain HTTP: loading the certificates of the world takes 25 ms each time."""
            return httpx.AsyncClient(base_url=address, trust_env=False, timeout=60, verify=False)

        async def client(numbers: Iterator[int]) -> None:
            async with connected() as http:
                for number in numbers:
                    outcome.sent += 1
                    try:
                        answer = await http.post("/orders", json={"id": number, "item": "tea"})
                    except httpx.TransportError as error:
                        answers[type(error).__name__] += 1
                        broken.add(number)
                    else:
                        answers[str(answer.status_code)] += 1
                        outcome.without_retry_after += answer.status_code == 503 and "retry-after" not in answer.headers
                        if answer.is_success:
                            accepted.append(number)
                    if is_time():
                        terminate()

        began = perf_counter()
        await asyncio.gather(*(client(numbers) for _ in range(clients)))
        outcome.seconds_of_load = perf_counter() - began
        if not terminated:
            async with connected() as http:
                stats = await http.get("/stats")
                outcome.stats = stats.json() if stats.is_success else {}
            terminate()
        await listening
        outcome.exit_status = await server.process.wait()
        outcome.seconds_to_exit = perf_counter() - terminated
    finally:
        if server.process.returncode is None:
            server.process.kill()
            await server.process.wait()
    outcome.answers = dict(answers)
    outcome.accepted, outcome.handled = len(accepted), len(server.handled)
    outcome.lost = sorted(set(accepted) - set(server.handled))
    outcome.unasked = sorted(set(server.handled) - set(accepted) - broken)
    outcome.unanswered = len(set(server.handled) & broken)
    outcome.twice = [number for number, times in Counter(server.handled).items() if times > 1]
    outcome.last_line = server.out[-1].strip() if server.out else ""
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load the order service; see the module's docstring.")
    parser.add_argument("count", type=int)
    parser.add_argument("--terminate-after", type=int, help="send SIGTERM after so many answers")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the service is started")
    parser.add_argument("--service", default=EXAMPLE, help="Python's arguments that start it")
    options = parser.parse_args()
    seen = load(options.count, options.terminate_after, options.clients, options.service, options.folder)
    print(json.dumps(asdict(asyncio.run(seen)), indent=1))
