"""One connection to a server of NATS: requests that are sent together, and pulls; what ``nats.py`` is built on.

The client's own ``fetch`` loses messages that come when it gives up, and makes a task for each; here all answers, and
all messages, come to two subscriptions. Whatever ends the connection, and a server that says nothing, ends every call.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, SecureConnWantedError
from nats.js.api import Header

from ...errors import DefinitionError
from ...wording import shown, summary
from ..broker import Disconnected

__all__ = ["AT_ONCE", "Connection", "Request", "read"]

PATIENCE: Final = 10.0
"""Seconds without a word from the server after which the connection is given up."""

CLOSING: Final = 2.0
"""Seconds that what is said last may take."""

HEARTBEAT: Final = 4.0
"""Seconds after which the server says that there is still no message."""

AT_ONCE: Final = 1000
"""Requests that are sent before their answers are waited for."""

BYTES_AT_ONCE: Final = 8 * 2**20

OURS: Final[dict[str, Any]] = {
    "allow_reconnect": False,  # the session does
    "max_reconnect_attempts": 1,  # it knows no fewer
    "reconnect_time_wait": 0,
    "pending_size": 2**30,  # else publish waits for a server that takes nothing, and swallows its cancel
}
"""Options of the client that are the engine's."""

OPTIONS: Final = set(inspect.signature(Client.connect).parameters) - {"self", "error_cb", *OURS}
"""Options of the client that are the user's."""

CREDENTIALS: Final = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN"}
"""Where the command ``nats`` too looks for them in the environment."""


def read(url: str, client: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The options of the client, and the name of the queue; raises ``DefinitionError``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 4222
    except ValueError:  # its text may show a password
        parts, host, port = urlsplit(""), None, 0
    queue = parts.path.removeprefix("/")
    if not host or parts.query or parts.fragment or not re.fullmatch(r"[\w-]+", queue, re.ASCII):
        form = "nats://[user:password@]host[:4222]/queue (or tls://), and a queue of letters, digits, - and _"
        raise DefinitionError(f"remote_queue: expected {form}")
    if unknown := sorted(set(client) - OPTIONS):
        raise DefinitionError(f"remote_queue: nats:// takes no option {shown(unknown[0])}")
    user, password = parts.username, parts.password
    given = {"token": user} if password is None else {"user": user, "password": password}
    given = {name: unquote(value) for name, value in given.items() if value}
    if not given and not {*CREDENTIALS, "user_credentials", "nkeys_seed", "nkeys_seed_str"} & set(client):
        given = {name: os.environ[variable] for name, variable in CREDENTIALS.items() if os.environ.get(variable)}
    options: dict[str, Any] = {"connect_timeout": 5, "ping_interval": 4, "max_outstanding_pings": 2, "name": "asyncpc"}
    address = {"servers": f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"}
    if parts.scheme == "tls" and "tls" not in client:  # the client would read the certificates inside the loop
        options["tls"] = ssl.create_default_context()
    return options | address | given | dict(client), queue


class Request(NamedTuple):
    """Something to publish, and to be answered."""

    subject: str
    body: bytes
    headers: dict[str, str] | None = None


class _Call:
    """Requests that were sent together, and their answers so far."""

    def __init__(self, number: int) -> None:
        self.answers: dict[int, Msg] = {}
        self.number: int = number
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Client(Client):
    """Says at once that its connection is over, and sends no password in the clear to a server of ``tls://``."""

    def __init__(self, on_end: Callable[[], None], is_encrypted: bool) -> None:
        super().__init__()
        self._on_end: Callable[[], None] = on_end
        self._is_encrypted: bool = is_encrypted

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._is_encrypted and initial_connection and not info.get("tls_required"):
            raise SecureConnWantedError  # it would go on without
        await super()._process_info(info, initial_connection)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._on_end()
        with suppress(OSError):  # of what was not sent yet; a task that nobody looks at would end with it
            await super()._close(status, do_cbs)

    def abort(self) -> None:
        """Let go of the socket, also where the server never takes what is still to be sent."""
        writer = getattr(self._transport, "_io_writer", None)  # the client offers no other way
        if writer is not None:
            writer.transport.abort()


class Connection:
    """From ``open`` to ``close``, once; each call raises ``Disconnected`` when it is over."""

    def __init__(self, where: str, is_encrypted: bool) -> None:
        self.ready: deque[tuple[float, Msg]] = deque()
        """Messages that were pulled, and when they came by the monotonic clock."""
        self._where: str = where
        self._is_encrypted: bool = is_encrypted
        self._client: _Client = _Client(self._end, is_encrypted)
        self._is_over: bool = False
        self._error: BaseException | None = None  # the last that the client told of
        self._numbers: Iterator[int] = count()
        self._calls: dict[str, _Call] = {}
        self._inbox: str = ""
        self._subscriptions: list[Subscription] = []
        self._unsubscribe: Callable[[], Awaitable[None]] | None = None  # from what is pulled, once all has come
        self._pull: int = 0  # messages that the server may still send
        self._pulled: str = ""  # where it says that there are no more
        self._due: float = 0.0  # when it must have said something about that
        self._is_asked_back: bool = False
        self._changed: asyncio.Event = asyncio.Event()

    @property
    def longest(self) -> int:
        """Bytes of a message and its headers that the server takes."""
        return self._client.max_payload

    async def open(self, options: Mapping[str, Any]) -> None:
        """Connect; what fails is closed."""
        client = self._client
        settings: dict[str, Any] = {"error_cb": self._on_error, **OURS, **options}
        try:
            async with asyncio.timeout(PATIENCE):
                await client.connect(**settings)
                self._inbox = client.new_inbox()
                await self._subscribe("*.*", self._on_answer)
                self._unsubscribe = (await self._subscribe("*", self._on_message)).drain
        except (OSError, Error, TimeoutError) as error:
            await self.close()
            raise self.lost(self._error or error) from None
        except BaseException:
            await self.close()
            raise

    async def _subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]]) -> Subscription:
        subject = f"{self._inbox}.{subject}"
        # without bounds: no more comes than was asked for, and the client would drop what is beyond
        made = await self._client.subscribe(subject, cb=cb, pending_msgs_limit=0, pending_bytes_limit=0)
        self._subscriptions.append(made)
        return made

    async def close(self) -> None:
        """Let go of the socket, within some seconds, whatever the server does."""
        self._end()
        with suppress(OSError, Error, TimeoutError):
            async with asyncio.timeout(CLOSING):
                await self._client.close()
        self._client.abort()
        for one in self._subscriptions:  # the client forgets those that were made while its connection ended
            one._stop_processing()
        await asyncio.sleep(0)  # then the socket is closed

    def lost(self, why: BaseException | str) -> Disconnected:
        """The error to raise when the connection is of no more use."""
        self._is_over = True
        return Disconnected(f"{self._where}: {why if isinstance(why, str) else summary(why)}")

    def _end(self) -> None:
        self._is_over = True
        self._changed.set()
        for call in self._calls.values():
            call.end()

    async def _on_error(self, error: Exception) -> None:
        self._error = error  # rather than into the log, which could show a password (fault F7)

    def check(self) -> None:
        """Raise if it is over."""
        if self._is_over:
            raise self.lost(self._error or "the connection is closed")

    # -- requests ---------------------------------------------------------------------------------

    async def call(self, requests: Sequence[Request], quiet: Sequence[Request] = ()) -> list[Msg]:
        """The answers, in their order, to what is sent at once, after that which wants no answer."""
        answers: list[Msg] = []
        try:
            for one in quiet:
                await self._client.publish(one.subject, one.body, "", one.headers)
            for part in _parts(requests):
                answers += await self._call(part)
        except Error as error:
            raise self.lost(error) from None
        if any(one.headers and one.headers.get("Status") == "503" for one in answers):
            raise self.lost("there is no JetStream, or no such stream or consumer any more")
        return answers

    async def _call(self, requests: Sequence[Request]) -> list[Msg]:
        self.check()
        name = str(next(self._numbers))
        call = self._calls[name] = _Call(len(requests))
        try:
            for index, (subject, body, headers) in enumerate(requests):
                await self._client.publish(subject, body, f"{self._inbox}.{name}.{index}", headers)
            before = -1
            while before < len(call.answers) < len(requests) and not self._is_over:
                before = len(call.answers)
                await asyncio.wait([call.done], timeout=PATIENCE)
        finally:
            del self._calls[name]
        if len(call.answers) < len(requests):
            self.check()
            raise self.lost("the server does not answer")
        return [call.answers[index] for index in range(len(requests))]

    async def _on_answer(self, message: Msg) -> None:
        _, name, index = message.subject.rsplit(".", 2)
        call = self._calls.get(name)
        if call is not None:
            call.answers[int(index)] = message
            if len(call.answers) == call.number:
                call.end()

    async def ask(self, *requests: tuple[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What JetStream answers to each subject and its fields, also if that is an error."""
        calls = [Request(f"$JS.API.{subject}", json.dumps(fields).encode()) for subject, fields in requests]
        return [json.loads(one.data) for one in await self.call(calls)]

    async def api(self, *requests: tuple[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same; raises ``DefinitionError`` for what is refused."""
        answers = await self.ask(*requests)
        for (subject, _), answer in zip(requests, answers, strict=True):
            if (error := answer.get("error")) is not None:
                why = error.get("description")
                if error.get("code") == 503:  # a cluster without a leader, for now
                    raise self.lost(str(why))
                raise DefinitionError(f"remote_queue: {self._where} refuses {subject}: {why}")
        return answers

    # -- pulls ------------------------------------------------------------------------------------

    async def pull(self, consumer: str, limit: int, wait: float) -> None:
        """Ask for what is there, then for one message to wait for; ``ready`` has them.

        So no more than one may come after it returned, when it was asked back.
        """
        ends, self._is_asked_back = time.monotonic() + wait, False
        self.check()
        try:
            if not self.ready and not self._pull:
                await self._ask_for(consumer, limit, {"no_wait": True})
                while self._pull:
                    await self._something(self._due)
            while not self.ready and not self._is_asked_back and (left := ends - time.monotonic()) > 0:
                if not self._pull:
                    await self._ask_for(consumer, 1, {"expires": 1_000_000 + int(left * 1e9)})
                await self._something(ends)
        except Error as error:
            raise self.lost(error) from None

    def wake(self) -> None:
        """End a pull that waits."""
        self._is_asked_back = True
        self._changed.set()

    async def stop(self) -> None:
        """Ask for no more; what is under way comes first. Returns within some seconds, whatever the server does."""
        if self._unsubscribe is not None and not self._is_over:
            with suppress(OSError, Error, TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self._unsubscribe()

    async def _ask_for(self, consumer: str, batch: int, how: dict[str, Any]) -> None:
        wait = how.get("expires", 0) / 1e9
        if wait > 2 * HEARTBEAT:
            how["idle_heartbeat"] = int(HEARTBEAT * 1e9)
        self._pull, self._pulled = batch, f"{self._inbox}.{next(self._numbers)}"
        self._due = time.monotonic() + PATIENCE + min(wait, 2 * HEARTBEAT)
        request = json.dumps({"batch": batch, **how}).encode()
        await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", request, self._pulled)

    async def _something(self, ends: float) -> None:
        self.check()
        now = time.monotonic()
        if now >= self._due:
            raise self.lost("the server does not answer")
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(ends, self._due) - now):
                await self._changed.wait()

    async def _on_message(self, message: Msg) -> None:
        if message.reply:
            self.ready.append((time.monotonic(), message))
            self._pull -= 1
        elif message.subject == self._pulled:
            headers = message.headers or {}
            status, why = headers.get("Status"), headers.get(Header.DESCRIPTION, "")
            if status == "100":
                self._due = time.monotonic() + PATIENCE
                return
            self._pull = 0
            if status not in ("404", "408") and why != "Batch Completed":
                self._error, self._is_over = Error(f"{status} {why}"), True  # no consumer, or another leader
        self._changed.set()


def _parts(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    first = size = 0
    for place, one in enumerate(requests):
        if place - first == AT_ONCE or size >= BYTES_AT_ONCE:
            yield requests[first:place]
            first, size = place, 0
        size += len(one.body)
    if requests:
        yield requests[first:]
