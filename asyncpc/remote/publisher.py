"""``Publisher``: puts messages for many callers at once; all that came while a publish was under way go together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from ..wording import summary
from .broker import Disconnected, Outgoing, PublishError
from .connection import Connection

__all__ = ["Publisher"]

MOST: Final = 1000
"""Messages that are published together."""

MOST_BYTES: Final = 4 * 1024 * 1024
"""Bytes that are published together, unless one caller gives more."""


class _Call:
    """What one caller puts."""

    __slots__ = ("confirmed", "messages")

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self.messages: Sequence[Outgoing] = messages
        """Those that are not confirmed yet."""
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def size(self) -> int:
        return sum([len(one.body) for one in self.messages])


class Publisher:
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[_Call] = deque()
        self._sent: list[_Call] = []  # and not confirmed yet
        self._is_over = False
        self._came = asyncio.Event()
        self._is_finishing = False

    async def publish(self, messages: Sequence[Outgoing], timeout: float | None) -> None:
        """Return when all messages are confirmed.

        Raises ``TimeoutError`` after ``timeout`` seconds if none was sent, and ``PublishError`` if some may have been.
        ``PublishError`` also comes when the connection is closed. *Cancel safety*: what was not sent yet is not sent.
        """
        if self._is_over:
            raise _unsent(messages)
        call = _Call(messages)
        self._waiting.append(call)
        self._came.set()
        try:
            async with asyncio.timeout(timeout):
                await call.confirmed
        except TimeoutError:
            if call not in self._waiting:
                raise PublishError(
                    f"{len(call.messages)} messages were sent, but not confirmed within {timeout:g} s", call.messages
                ) from None
            raise TimeoutError(f"the broker took no message within {timeout:g} s") from None
        finally:
            if not call.confirmed.done() or call.confirmed.cancelled():
                self._forget(call)

    def _forget(self, call: _Call) -> None:
        for place, one in enumerate(self._waiting):
            if one is call:
                del self._waiting[place]
                return

    def finish(self) -> None:
        """Let :meth:`run` return once all is confirmed."""
        self._is_finishing = True
        self._came.set()

    async def run(self) -> None:
        """Publish what comes, until :meth:`finish`; whatever ends it, nobody goes on waiting."""
        try:
            while self._waiting or not self._is_finishing:
                if not self._waiting:
                    self._came.clear()
                    await self._came.wait()
                    continue
                self._sent = self._next()
                await self._publish(self._sent)
                self._sent = []
        finally:
            self._is_over = True
            for call in self._sent:
                if not call.confirmed.done():
                    lost = (
                        f"{len(call.messages)} messages were sent, but not confirmed before the connection was closed"
                    )
                    call.confirmed.set_exception(PublishError(lost, call.messages))
            while self._waiting:
                waiting = self._waiting.popleft()
                if not waiting.confirmed.done():
                    waiting.confirmed.set_exception(_unsent(waiting.messages))

    def _next(self) -> list[_Call]:
        """The calls that go together."""
        calls = [self._waiting.popleft()]
        if not self._waiting:
            return calls
        messages, size = len(calls[0].messages), calls[0].size
        while self._waiting:
            messages, size = messages + len(self._waiting[0].messages), size + self._waiting[0].size
            if messages > MOST or size > MOST_BYTES:
                break
            calls.append(self._waiting.popleft())
        return calls

    async def _publish(self, calls: list[_Call]) -> None:
        messages = calls[0].messages if len(calls) == 1 else [message for call in calls for message in call.messages]
        may_be_in = False

        async def publish() -> None:
            nonlocal may_be_in
            try:
                await self._connection.broker.publish(messages)
            except Disconnected:
                may_be_in = True
                raise

        try:
            await self._connection.call(publish)
        except Disconnected:
            raise
        except Exception as error:
            others = _unconfirmed(calls, error)  # where no id is known, a second time the rest would be in twice
            if len(calls) > 1 and not may_be_in:  # or one bad message would fail those of other callers
                for call in others:
                    await self._publish([call])
                return
            for call in others:  # if they may be in, they are known only together, and some would come twice
                if not call.confirmed.done():
                    what = "did not confirm" if may_be_in else "refused"
                    told = f"the broker {what} {len(call.messages)} messages: {summary(error)}"
                    call.confirmed.set_exception(PublishError(told, call.messages))
        else:
            _confirm(calls)


def _unconfirmed(calls: Sequence[_Call], error: Exception) -> Sequence[_Call]:
    """The calls of which not all is confirmed, with what is not; the others are confirmed.

    An engine that names none of these messages does not say which.
    """
    named = set(map(id, error.unconfirmed)) if isinstance(error, PublishError) else set[int]()
    left = [[message for message in call.messages if id(message) in named] for call in calls]
    if not any(left):
        return calls
    for call, messages in zip(calls, left, strict=True):
        call.messages = messages
    _confirm([call for call in calls if not call.messages])
    return [call for call in calls if call.messages]


def _confirm(calls: Sequence[_Call]) -> None:
    for call in calls:
        if not call.confirmed.done():
            call.confirmed.set_result(None)


def _unsent(messages: Sequence[Outgoing]) -> PublishError:
    return PublishError(f"{len(messages)} messages were not sent: the connection is closed", messages)
