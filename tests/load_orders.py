"""Load for a service of ``examples`` over real HTTP, with SIGTERM in the midst of it if asked for.

::

    python tests/load_orders.py 10000 --terminate-after 5000 [--example threaded_server]

starts the service (``order_service``, unless another is named) in a process of its own, sends the orders through
concurrent clients, and prints as JSON how each was answered and which of the accepted ones were handled. The service
writes a line for each order that it has handled, so "none lost" is judged from outside, by the orders' numbers, and not
from the pipeline's own books.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
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
    """Handled and not accepted."""
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
    """The example in a process of its own, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.handled: list[int] = []
        self.other: list[str] = []

    @classmethod
    async def start(cls, example: str) -> Service:
        command = (sys.executable, "-m", f"examples.{example}", "--port", "0", "--verbose")
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe))

    async def listen(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            text = line.decode()
            if match := re.search(r"handled order (\d+)", text):
                self.handled.append(int(match[1]))
            elif match := re.search(r"running on (http://\S+)", text):
                self.address.set_result(match[1])
            else:
                self.other.append(text)
        if not self.address.done():
            self.address.set_exception(RuntimeError("the service did not start:\n" + "".join(self.other)))


async def load(count: int, terminate_after: int | None, clients: int, example: str) -> Outcome:
    """Send ``count`` orders; SIGTERM comes after ``terminate_after`` answers, or after the last.

    It comes when an accepted order waits, however slow this program is: else nothing would be left to drain.
    """
    outcome = Outcome()
    service = await Service.start(example)
    listening = asyncio.create_task(service.listen())
    try:
        address = await service.address
        numbers = iter(range(1, count + 1))
        accepted: list[int] = []
        answers: Counter[str] = Counter()
        terminated = 0.0
        after = math.inf if terminate_after is None else terminate_after

        def is_time() -> bool:
            return not terminated and sum(answers.values()) >= after and len(accepted) > len(service.handled)

        def terminate() -> None:
            nonlocal terminated
            outcome.waiting_at_signal = len(accepted) - len(service.handled)
            terminated = perf_counter()
            service.process.send_signal(signal.SIGTERM)

        async def client(numbers: Iterator[int]) -> None:
            async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as http:
                for number in numbers:
                    outcome.sent += 1
                    try:
                        answer = await http.post("/orders", json={"id": number, "item": "tea"})
                    except httpx.TransportError as error:
                        answers[type(error).__name__] += 1
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
            async with httpx.AsyncClient(base_url=address, trust_env=False) as http:
                stats = await http.get("/stats")
                outcome.stats = stats.json() if stats.is_success else {}
            terminate()
        assert service.process.stdout
        said = (await service.process.stdout.read()).decode()
        outcome.exit_status = await service.process.wait()
        outcome.seconds_to_exit = perf_counter() - terminated
        await listening
    finally:
        if service.process.returncode is None:
            service.process.kill()
            await service.process.wait()
    outcome.answers = dict(answers)
    outcome.accepted, outcome.handled = len(accepted), len(service.handled)
    outcome.lost = sorted(set(accepted) - set(service.handled))
    outcome.unasked = sorted(set(service.handled) - set(accepted))
    outcome.twice = [number for number, times in Counter(service.handled).items() if times > 1]
    outcome.last_line = said.strip()
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Load the order service; see the module's docstring.")
    parser.add_argument("count", type=int)
    parser.add_argument("--terminate-after", type=int, help="send SIGTERM after so many answers")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--example", default="order_service")
    options = parser.parse_args()
    outcome = asyncio.run(load(options.count, options.terminate_after, options.clients, options.example))
    print(json.dumps(asdict(outcome), indent=1))
