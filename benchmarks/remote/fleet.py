"""The implementations' processes: started once for an engine, told what to do in turn."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ..measure import Fails
from .servers import Server

HERE = Path(__file__).parent
ANSWERS_WITHIN = 90.0
"""Seconds; the order itself may take 60."""


class Worker:
    """A process of :mod:`~benchmarks.remote.worker`."""

    def __init__(self, engine: str, name: str, project: str | None, server: Server, loop: str) -> None:
        arguments = ["-m", "benchmarks.remote.worker", engine, name, server.url, str(server.process), loop]
        env = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
        self._lost_by = ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # no block can end in another method: close() does it
        self._process = subprocess.Popen(
            [*python_of(project, env), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=env,
            text=True,
        )
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except BaseException:
            self.close()
            raise

    def tell(self, do: str, queue: str, **terms: Any) -> None:
        """Give an order; its answer is to be read before the next. Raises ``Fails`` if the process has ended."""
        if self._lost_by:
            raise Fails(self._lost_by)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, "queue": queue, **terms}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def answer(self) -> dict[str, Any]:
        """What came of the order: seconds a message. Raises ``Fails``, also if the count of messages was wrong."""
        answer = self._answer()
        if "error" in answer:
            raise Fails(answer["error"])
        return answer

    def do(self, do: str, queue: str, **terms: Any) -> dict[str, Any]:
        """Both."""
        self.tell(do, queue, **terms)
        return self.answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if waiting.select(ANSWERS_WITHIN) else ""
        if not line:
            raise self._lost()
        return dict(json.loads(line))

    def _lost(self) -> Fails:
        """Say how the process has ended, or end it, since nobody knows what it is doing; it gets no more orders."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.returncode
        how = f"no answer within {ANSWERS_WITHIN:g} s" if status is None else f"its process ended with status {status}"
        self._process.kill()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._lost_by = f"{how}: {said}" if said else how
        return Fails(self._lost_by)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in self._process.stdin, self._process.stdout, self._log:
            assert stream is not None
            with suppress(BrokenPipeError):  # what it was told last, if it has ended
                stream.close()


def python_of(project: str | None, env: dict[str, str]) -> list[str]:
    """The command of a Python that has a peer's packages; of a project beside this file, uv makes the environment."""
    if project is None:
        return [sys.executable]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Fails(f"its environment is made by uv, which is not installed: benchmarks/remote/{project}")
    for name in "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV":
        env.pop(name, None)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [uv, "run", "-q", "--python", version, "--project", str(HERE / project), "python"]


class Fleet:
    """The workers of one engine, each started when it is needed first."""

    def __init__(self, engine: str, server: Server, loop: str) -> None:
        self.engine = engine
        self._server = server
        self._loop = loop
        self._workers: dict[str, Worker] = {}
        self._queues = count(1)

    def worker(self, name: str, project: str | None = None, place: int = 0) -> Worker:
        """The one of that name, or another one of its kind; raises ``Fails``."""
        key = f"{name} {place}"
        if key not in self._workers:
            self._workers[key] = Worker(self.engine, name, project, self._server, self._loop)
        return self._workers[key]

    def queue(self) -> str:
        """A new name."""
        return f"jobs{next(self._queues)}"

    def close(self) -> None:
        """End all."""
        while self._workers:
            self._workers.popitem()[1].close()


@contextmanager
def fleet_at(engine: str, server: Server, loop: str) -> Iterator[Fleet]:
    """For a block."""
    fleet = Fleet(engine, server, loop)
    try:
        yield fleet
    finally:
        fleet.close()
