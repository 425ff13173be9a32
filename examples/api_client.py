"""A client of an unreliable API: it keeps to a rate, tries again when it is told to, and loses no prompt.

The API runs on loopback as long as the client does. To the first call for some prompts it answers 429 with Retry-After,
or 500, or nothing at all. Two prompts always get 400, and one always gets 500. Needs httpx.

Run it::

    python examples/api_client.py                  or        asyncpc run examples.api_client:pipeline

Expect, after a second or two, since a call that got a 429 is repeated after a second::

    prompt 13 given up at call 1: Refused: prompt 13 is against the rules
    prompt 26 given up at call 1: Refused: prompt 26 is against the rules
    prompt 31 given up at call 3: Unavailable: 500 Internal Server Error
    40 prompts, 37 answers, 3 failed, 9 calls repeated

A 429 does not count as an attempt: ``RetryLater`` says when to try again. Errors that may pass are tried three times; a
refused prompt is not tried again. Prompts that have failed at last go to ``dead_letters``, a consumer like any other,
and the others go on. The command line exits with 1, since some prompts have failed.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import httpx

from asyncpc import Failure, Rate, Retry, RetryLater, consumer, exponential, run, source


class Request(NamedTuple):
    address: str
    prompt: int


class Refused(Exception):
    """The API will never answer this prompt."""


class Unavailable(Exception):
    """The API cannot answer now."""


# -- the client -----------------------------------------------------------------------------------


answers: list[str] = []


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)  # no proxy between us and loopback


@consumer
async def dead_letters(failure: Failure) -> None:
    print(f"prompt {failure.item.prompt} given up at call {failure.attempts}: {failure.error}")


@consumer(
    concurrency=8,
    context=client,
    rate=Rate(100, per=1.0),
    timeout=0.5,
    retry=Retry(
        attempts=3,
        on=(Unavailable, httpx.TransportError, TimeoutError),
        wait=partial(exponential, first=0.02),
    ),
    on_error=dead_letters,
)
async def ask(request: Request, http: httpx.AsyncClient) -> str:
    answer = await http.post(request.address, json={"prompt": request.prompt})
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
        raise RetryLater(float(answer.headers["Retry-After"]))  # seconds; others may send a date
    if answer.is_server_error:
        raise Unavailable(f"{answer.status_code} {answer.reason_phrase}")
    if answer.is_client_error:
        raise Refused(answer.json()["error"])
    return str(answer.json()["text"])


@consumer
async def keep(text: str) -> None:
    answers.append(text)


# -- the API: with a real one you know the address and need none of this -------------------------


@asynccontextmanager
async def api() -> AsyncIterator[str]:
    """The address of an unreliable API; the number of the prompt decides what goes wrong."""
    calls: Counter[int] = Counter()

    def judge(prompt: int) -> tuple[int, dict[str, str]]:
        calls[prompt] += 1
        if prompt in (13, 26):
            return 400, {"error": f"prompt {prompt} is against the rules"}
        if prompt == 31 or (prompt % 10 == 5 and calls[prompt] == 1):
            return 500, {"error": "try again"}
        if prompt in (3, 6) and calls[prompt] == 1:
            return 429, {"error": "too many requests"}
        return 200, {"text": f"answer {prompt}"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):  # the client has gone
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            (length,) = re.findall(r"content-length: (\d+)", head.lower())
            prompt = json.loads(await reader.readexactly(int(length)))["prompt"]
            if prompt == 9 and not calls[prompt]:
                calls[prompt] += 1
                await reader.read()  # no answer, until the client gives up
            status, content = judge(prompt)
            text = json.dumps(content)
            lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(text)}"]
            lines += ["Connection: close", *(["Retry-After: 1"] if status == 429 else [])]
            writer.write("\r\n".join([*lines, "", text]).encode())
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"


@consumer(context=api)  # one worker, so there is one API, from before the first prompt until after the last answer
async def address(prompt: int, url: str) -> Request:
    return Request(url, prompt)


pipeline = source(range(1, 41), name="prompts") >> address >> ask >> keep

if __name__ == "__main__":
    report = run(pipeline)
    repeated = sum(stage.retried for stage in report.stages)
    print(f"{report.produced} prompts, {len(answers)} answers, {report.failed} failed, {repeated} calls repeated")
