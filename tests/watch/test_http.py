"""The small server beside a run answers machines, and nobody who connects can harm the run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import httpx
import pytest
from support import until

from asyncpc.watch.http import LIMIT, LONGEST, MOST, Page, Pages, serving, text_page


def accepting(accept: str) -> Page:
    return text_page(HTTPStatus.OK, f"accepts {accept}")


def failing(accept: str) -> Page:
    raise OSError("redis://me:canary@host is gone")


LARGE = 20_000_000
"""More bytes than the buffers between two processes hold."""

PAGES: Pages = {
    "/": lambda accept: text_page(HTTPStatus.OK, "top"),
    "/page": accepting,
    "/ill": lambda accept: text_page(HTTPStatus.SERVICE_UNAVAILABLE, "ill"),
    "/broken": failing,
    "/large": lambda accept: text_page(HTTPStatus.OK, "x" * LARGE),
}


@asynccontextmanager
async def served(pages: Pages = PAGES) -> AsyncIterator[int]:
    """The port at which the pages are served."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        async with serving(pages, listening):
            yield port


async def answer_to(port: int, request: bytes) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_client_of_http_gets_its_pages() -> None:
    """A probe, Prometheus, a browser: several requests in a row, HEAD, query strings, statuses that tell the truth."""
    async with served() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web:
        for _ in range(2):
            page = await web.get("/page/?verbose=1", headers={"accept": "text/plain"})
            assert (page.status_code, page.text) == (200, "accepts text/plain\n")
            assert page.headers["content-type"] == "text/plain; charset=utf-8"
            assert page.headers["cache-control"] == "no-store"
        assert (await web.get("/")).text == "top\n"
        ill, nowhere, refused, head = (
            await web.get("/ill"),
            await web.get("/nowhere"),
            await web.post("/page", content=b"x" * 100),
            await web.head("/page"),
        )
    assert (ill.status_code, ill.text) == (503, "ill\n")
    assert (nowhere.status_code, nowhere.text) == (404, "there are: /, /page, /ill, /broken, /large\n")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", str(len("accepts */*\n")))


async def test_a_page_that_fails_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """The log says why; the answer does not, and the server goes on."""
    async with served() as port:
        answer = await answer_to(port, b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"gone" not in answer
        assert (await answer_to(port, b"GET / HTTP/1.0\n\n")).endswith(b"\r\n\r\ntop\n")
    assert "/broken cannot be shown: OSError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\n\n", 400),
        (b"GET /\xff\x00 HTTP/1.1\r\nno colon\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 2 * LONGEST, 431),
    ],
    ids=["empty", "words", "version", "tls", "bytes", "long"],
)
async def test_nonsense_gets_a_short_answer(request_: bytes, status: int) -> None:
    """Scanners find every open port; nothing they send raises, or is kept."""
    async with served() as port:
        assert (await answer_to(port, request_)).startswith(b"HTTP/1.1 %d " % status)
        assert (await answer_to(port, b"GET / HTTP/1.1\r\n\r\n")).endswith(b"top\n")


async def test_a_request_may_come_in_pieces_and_is_answered_once() -> None:
    """A slow network is no attack; what follows the first request is not read."""
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in (b"GE", b"T / HTT", b"P/1.1\r", b"\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.read()).endswith(b"\r\n\r\ntop\n")
        writer.close()
        await writer.wait_closed()
        twice = await answer_to(port, b"GET / HTTP/1.1\r\n\r\n" * 2)
        assert twice.count(b"HTTP/1.1 200") == 1


@pytest.mark.realtime
@pytest.mark.parametrize("request_", [b"", b"GET / HTTP/1.1\r\nx: ", b"GET /large HTTP/1.1\r\n\r\n"])
async def test_who_is_slow_is_cut_off(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends nothing, or no end, or does not read the answer, holds a connection for ten seconds at most."""
    assert LIMIT == 10
    monkeypatch.setattr("asyncpc.watch.http.LIMIT", 0.05)
    loop, later, received = asyncio.get_running_loop(), asyncio.Event(), 0
    async with served() as port, asyncio.timeout(20):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            client.send(request_)
            loop.call_later(0.1, later.set)  # the server's timer comes first
            await later.wait()
            with suppress(ConnectionResetError):
                while piece := await loop.sock_recv(client, 65536):
                    received += len(piece)
    assert received < LARGE


async def test_too_many_connections_are_closed_and_the_next_ones_answered() -> None:
    """A flood costs a bounded number of connections."""
    async with served() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST)]
        try:
            with pytest.raises((AssertionError, OSError)):
                assert await answer_to(port, b"GET / HTTP/1.1\r\n\r\n")
        finally:
            for _, writer in idle:
                writer.close()
        await until(lambda: all(writer.is_closing() for _, writer in idle))

        async def answered() -> bytes:
            while True:
                try:
                    if answer := await answer_to(port, b"GET / HTTP/1.1\r\n\r\n"):
                        return answer
                except OSError:
                    await asyncio.sleep(0)

        async with asyncio.timeout(10):
            assert (await answered()).endswith(b"top\n")


async def test_nothing_is_left_open() -> None:
    """Neither the port nor a connection, whatever it was doing, when the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        async with serving(PAGES, listening):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HT")
            await writer.drain()
            await asyncio.sleep(0)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with pytest.raises(OSError):  # noqa: PT011  # its words differ from loop to loop
            await asyncio.open_connection("127.0.0.1", port)
    assert listening.fileno() == -1
