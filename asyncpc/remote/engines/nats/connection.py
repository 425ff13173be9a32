"""One connection to a server of NATS, and requests over it that are sent together; what ``nats.py`` is built on.

All answers come to one subscription. Whatever ends the connection, and a server that says nothing, ends every call.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from ....errors import DefinitionError
from ....wording import message_of, summary
from ...broker import Disconnected, NotAllowed
from ..messages import parts
from .address import OURS
from .client import OurClient

__all__ = ["PATIENCE", "Connection", "Request"]

PATIENCE: Final = 10.0
"""Seconds without a word from the server after which the connection is given up."""

CLOSING: Final = 2.0
"""Seconds that what is said last may take."""


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


class Connection:
    """From ``open`` to ``close``, once; each call raises ``Disconnected`` when it is over."""

    def __init__(self, where: str, is_encrypted: bool) -> None:
        self.at_end: Callable[[], None] = _nothing
        """Called when it is over."""
        self.where: str = where
        """The server and the queue, without a password."""
        self._is_encrypted: bool = is_encrypted
        self._client: OurClient = OurClient(self._end, is_encrypted)
        self._is_over: bool = False
        self._error: BaseException | None = None  # the last that the client told of
        self._numbers: Iterator[int] = count()
        self._calls: dict[str, _Call] = {}
        self._inbox: str = ""
        self._subscriptions: list[Subscription] = []

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
                await self.subscribe(f"{self._inbox}.*.*", self._on_answer)
        except (OSError, Error, TimeoutError) as error:
            await self.close()
            raise self.lost(self._error or error) from None
        except BaseException:
            await self.close()
            raise

    def new_inbox(self) -> str:
        """A subject that nobody else has."""
        return self._client.new_inbox()

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Without bounds: no more comes than was asked for, and the client would drop what is beyond."""
        made = await self._client.subscribe(subject, cb=cb, pending_msgs_limit=0, pending_bytes_limit=0)
        self._subscriptions.append(made)
        return made

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Let what is under way come first. Returns within some seconds, whatever the server does."""
        drain: Callable[[], Awaitable[None]] = subscription.drain  # the client declares no types here
        self.check()
        try:
            async with asyncio.timeout(CLOSING):
                await drain()
        except (OSError, Error, TimeoutError) as error:
            raise self.lost(error) from None
        self._subscriptions.remove(subscription)

    async def close(self) -> None:
        """Let go of the socket, within some seconds, whatever the server does."""
        self._end()
        try:
            with suppress(OSError, Error, TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self._client.close()
        finally:  # also if whoever waits has no more time
            self._client.abort()
            for one in self._subscriptions:  # the client forgets those that were made while its connection ended
                one._stop_processing()
        await asyncio.sleep(0)  # then the socket is closed

    def lost(self, why: BaseException | str) -> Disconnected:
        """The error to raise when the connection is of no more use."""
        self._is_over = True
        if isinstance(why, Error) and _is_refusal(why):
            return NotAllowed(f"{self.where}: {message_of(why)}")
        return Disconnected(f"{self.where}: {why if isinstance(why, str) else summary(why)}")

    def end(self, error: BaseException) -> None:
        """It is over, for that reason."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self.at_end()
        for call in self._calls.values():
            call.end()

    async def _on_error(self, error: Exception) -> None:
        self._error = error  # rather than into the log, which could show a password (fault F7)
        if _is_refusal(error):  # what was asked is never answered
            self._end()

    def check(self) -> None:
        """Raise if it is over."""
        if self._is_over:
            raise self.lost(self._error or "the connection is closed")

    async def tell(self, subject: str, body: bytes, reply: str) -> None:
        """Send something, whatever is answered; raises what the client raises."""
        await self._client.publish(subject, body, reply)

    # -- requests ---------------------------------------------------------------------------------

    async def call(self, requests: Sequence[Request], quiet: Sequence[Request] = ()) -> list[Msg]:
        """The answers, in their order, to what is sent at once, after that which wants no answer."""
        answers: list[Msg] = []
        try:
            for one in quiet:
                await self._client.publish(one.subject, one.body, "", one.headers)
            for _, part in parts(requests):
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
                raise DefinitionError(f"remote_queue: {self.where} refuses {subject}: {why}")
        return answers


def _is_refusal(error: Exception) -> bool:
    """Whether the server lets this user not in, or not say or hear something."""
    return re.search("authorization|authentication|permissions violation", str(error), re.IGNORECASE) is not None


def _nothing() -> None:
    """Nobody is told."""
