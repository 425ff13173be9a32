"""``nats://host/jobs``: a work-queue stream of NATS JetStream, with one consumer that all processes pull from.

What was put lies under the subject ``jobs``, what is delayed under ``jobs.later.…`` until the server moves it, and dead
letters under ``dead.jobs`` in a stream of their own. The server takes the ack of an old delivery for one of the newest,
so a delivery is let go here a little before its lease ends there (fault E9). It counts every delivery, so what is given
back and was no attempt goes in again, as a copy that knows how often it was tried. A server that was killed may have
forgotten its last deliveries; it never answers their acks, so they count as lost here too.
"""

from __future__ import annotations

import json
import re
import string
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote, unquote

from nats.aio.msg import Msg

from ...errors import DefinitionError
from ...wording import shown
from ..broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings
from .nats_connection import AT_ONCE, Connection, Request, read

__all__ = ["NatsBroker"]

FAILURE: Final = 40_000
"""Bytes kept free in each message for what it may fail of later; the server takes 64 KiB of headers."""

HEADERS: Final = 8192
"""Bytes kept free for headers."""

REMEMBERED: Final = 120.0
"""Seconds for which the server knows the id of a message."""

MARGIN: Final = 2.0
"""Seconds before the end of a lease after which a delivery counts as lost; at most a quarter of the lease."""

SAFE: Final = string.punctuation.replace("%", "")
"""Characters that an id has in a header as they are."""


class _Delivery:
    """A receipt: where to answer to, and until when."""

    __slots__ = ("connection", "delivered", "ends", "reply", "sequence", "stamp")

    def __init__(self, reply: str, ends: float, connection: Connection) -> None:
        parts = reply.split(".")  # $JS.ACK[.domain.account].stream.consumer.delivered.sequence.…
        place = 4 if len(parts) == 9 else 6
        self.reply: str = reply
        self.delivered: int = int(parts[place])
        self.sequence: int = int(parts[place + 1])
        self.stamp: float = int(parts[place + 3]) / 1e9
        self.ends: float = ends  # by the monotonic clock; in the past once it is settled
        self.connection: Connection = connection


class NatsBroker:
    """See the module."""

    guarantees: Guarantees = Guarantees(
        durable=True, dedupes=True, delays=True, counts=True, selects=False, leases=True, orders_by_key=False
    )
    """After ``open`` without ``delays`` where the server is older than 2.12."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._options, self._queue = read(url, settings.client)
        self._consumer = f"{self._queue}.workers"
        self._is_encrypted = url.lower().startswith("tls:")
        self._where = f"{self._options['servers']}/{self._queue}"
        self._dead = re.sub(r"[^\w-]", "-", settings.dead_letter, flags=re.ASCII)
        self._dead_subject = f"{self._dead}.{self._queue}"
        self._lease = settings.lease
        self._ours_for = settings.lease - min(settings.lease / 4, MARGIN)
        self._connection: Connection | None = None
        self._config: dict[str, Any] = {}  # of the consumer
        self._last = 0  # sequence that the server had delivered when this connection was opened, as far as it knows

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` for a stream of that name that is something else."""
        connection = Connection(self._where, self._is_encrypted)
        await connection.open(self._options)
        self._connection = connection
        try:
            await self._make(connection)
        except BaseException:
            await self.close()
            raise

    async def _make(self, connection: Connection) -> None:
        queue, later, dead = self._queue, f"{self._queue}.later.*", f"{self._dead}.*"
        kept = {"storage": "file", "allow_direct": True, "duplicate_window": int(REMEMBERED * 1e9)}
        made = await self._make_stream(
            queue, retention="workqueue", subjects=[queue, later], allow_msg_schedules=True, **kept
        )
        can_delay = bool(made.get("allow_msg_schedules")) and later in made["subjects"]
        self.guarantees = self.guarantees._replace(delays=can_delay)
        await self._make_stream(self._dead, retention="limits", subjects=[dead], **kept)
        (found,) = await connection.ask((f"CONSUMER.INFO.{self._consumer}", {}))
        self._last = found.get("delivered", {}).get("stream_seq", 0)
        self._config = found.get("config", {})  # somebody may have made it with other limits
        if not self._config:
            names = {"name": "workers", "durable_name": "workers", "max_ack_pending": -1, "max_waiting": 10_000}
            await self._make_consumer(names)

    async def _make_consumer(self, config: dict[str, Any]) -> None:
        fixed = {
            "ack_policy": "explicit",
            "filter_subject": self._queue,
            "max_deliver": -1,
            "ack_wait": int(self._lease * 1e9),
        }
        if config != config | fixed:
            self._config = config | fixed
            request = {"stream_name": self._queue, "config": self._config}
            await self._connected().api((f"CONSUMER.CREATE.{self._consumer}.{self._queue}", request))

    async def _make_stream(self, name: str, **config: Any) -> dict[str, Any]:
        connection = self._connected()
        (found,) = await connection.ask((f"STREAM.INFO.{name}", {}))
        if found.get("error", {}).get("code") == 404:
            (found,) = await connection.api((f"STREAM.CREATE.{name}", {"name": name, **config}))
        made: dict[str, Any] = found.get("config", {})
        first, retention = config["subjects"][0], config["retention"]
        if made.get("retention") != retention or not made.get("allow_direct") or first not in made["subjects"]:
            what = f"retention {retention}, allow_direct, and the subject {first}"
            raise DefinitionError(f"remote_queue: expected the stream {shown(name)} at {self._where} to have {what}")
        return made

    async def close(self) -> None:
        """See ``Broker``; what came and was not received goes back at once."""
        connection = self._connection
        if connection is not None:
            connection.wake()
            await connection.stop()
            try:
                await self.release(self._take(len(connection.ready)), 0.0, counted=False)
            except (Disconnected, PublishError):
                pass  # its lease runs out
            finally:
                self._connection = None
                await connection.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise Disconnected(f"{self._where}: not connected")
        return self._connection

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``; the lease is that of whoever receives, not of those who only put or look."""
        await self._make_consumer(self._config)
        await self._connected().pull(self._consumer, limit, wait)
        return self._take(limit)

    def wake(self) -> None:
        """See ``Broker``."""
        if self._connection is not None:
            self._connection.wake()

    def _take(self, limit: int) -> list[Message]:
        taken: list[Message] = []
        connection, now = self._connected(), time.monotonic()
        ready = connection.ready
        while ready and len(taken) < limit:
            came, one = ready.popleft()
            if came + self._ours_for > now:
                receipt = _Delivery(one.reply, came + self._ours_for, connection)
                taken.append(_message(one, receipt.sequence, receipt.delivered, receipt))
        return taken

    # -- settling ---------------------------------------------------------------------------------

    def _ours(self, messages: Sequence[Message]) -> list[Message]:
        now = time.monotonic()
        return [one for one in messages if one.receipt.ends > now and not self._is_forgotten(one.receipt)]

    def _is_forgotten(self, delivery: _Delivery) -> bool:
        return delivery.connection is not self._connection and delivery.sequence > self._last

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        ours = self._ours(messages)
        await self._settle(ours)
        return len(ours)

    async def _settle(self, messages: Sequence[Message], how: bytes = b"") -> None:
        await self._send(messages, how)
        for one in messages:
            one.receipt.ends = 0.0

    async def _send(self, messages: Sequence[Message], how: bytes) -> None:
        if messages:  # the server takes them in turn, so the answer to the last is that to all
            requests = [Request(one.receipt.reply, how) for one in messages]
            await self._connected().call(requests[-1:], quiet=requests[:-1])

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; what is no attempt, or has a delay, goes to the end of the queue."""
        ours = self._ours(messages)
        if counted and not (delay > 0 and self.guarantees.delays):
            await self._settle(ours, b'-NAK {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"-NAK")
            return
        again = []
        for one in ours:
            unique = f"%release/{one.receipt.sequence}/{one.receipt.delivered}"  # the same when it is repeated
            outgoing = Outgoing(one.id, one.body, one.headers, delay, time=one.time)
            again.append(self._request(outgoing, unique, one.attempt - (not counted)))
        await self._put(again, ours)
        await self._settle(ours)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        failures = {id(message): failure for message, failure in dead}
        ours = self._ours([message for message, _ in dead])
        letters, longest = [], self._connected().longest - HEADERS
        for one in ours:
            unique = f"%bury/{self._queue}/{one.receipt.sequence}/{one.receipt.delivered}/{quote(one.id, SAFE)}"
            failure, room = failures[id(one)], min(FAILURE, longest - len(one.body))
            headers = _headers(one, unique, one.attempt)
            headers["Asyncpc-Failure"] = failure.decode("utf-8", "replace") if len(failure) <= room else "{}"
            letters.append(Request(self._dead_subject, one.body, headers))
        await self._put(letters, ours)
        await self._settle(ours)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        ours, ends = self._ours(messages), time.monotonic() + self._ours_for
        kept = set(map(id, ours))
        await self._send(ours, b"+WPI")
        for one in ours:
            one.receipt.ends = ends if one.receipt.ends else 0.0  # it may be settled meanwhile
        return [one for one in messages if id(one) not in kept]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        most = self._connected().longest
        longest = most - min(FAILURE + HEADERS, most // 4)
        fitting = [one for one in messages if len(one.body) <= longest]
        await self._put([self._request(one) for one in fitting], fitting)
        if len(fitting) < len(messages):
            long = [one for one in messages if len(one.body) > longest]
            raise PublishError(f"{self._where} takes at most {longest} bytes a message (see max_payload)", long)

    def _request(self, message: Outgoing, unique: str = "", attempts: int = 0) -> Request:
        headers = _headers(message, unique, attempts)
        if message.delay <= 0 or not self.guarantees.delays:
            return Request(self._queue, message.body, headers)
        due = datetime.fromtimestamp(time.time() + message.delay, UTC).isoformat()
        headers |= {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": self._queue}
        headers.setdefault("Asyncpc-Id", headers["Nats-Msg-Id"])  # the server may use another one when it is due
        name = blake2b(headers["Nats-Msg-Id"].encode(), digest_size=16).hexdigest()
        return Request(f"{self._queue}.later.{name}", message.body, headers)

    async def _put(self, requests: Sequence[Request], messages: Sequence[Any]) -> None:
        refused, why = [], ""
        for message, answer in zip(messages, await self._connected().call(requests), strict=True):
            if b'"error"' in answer.data:
                refused.append(message)
                why = json.loads(answer.data)["error"].get("description", "")
        if refused:
            raise PublishError(f"{self._where}: {why}", refused)

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``; a delivery whose process was killed counts as unacknowledged until it is received again."""
        stream, consumer, dead = await self._connected().api(
            (f"STREAM.INFO.{self._queue}", {}),
            (f"CONSUMER.INFO.{self._consumer}", {}),
            (f"STREAM.INFO.{self._dead}", {"subjects_filter": self._dead_subject}),
        )
        ready, under_way = consumer["num_pending"], consumer["num_ack_pending"]
        delayed = stream["state"].get("num_subjects", 0) - (ready + under_way > 0)  # each has a subject of its own
        buried = (dead["state"].get("subjects") or {}).get(self._dead_subject, 0)
        oldest = await self.peek(1) if ready else []
        age = max(0.0, time.time() - oldest[0].time) if oldest else None
        return Depth(ready, under_way, max(0, delayed), buried, age)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``; shows what was not received before."""
        (info,) = await self._connected().api((f"CONSUMER.INFO.{self._consumer}", {}))
        first = info["delivered"]["stream_seq"] + 1
        return [_message(one, place, 1) for place, one in await self._walk(self._queue, self._queue, first, limit)]

    async def _walk(self, stream: str, subject: str, first: int, limit: int) -> list[tuple[int, Msg]]:
        found: list[tuple[int, Msg]] = []
        while len(found) < limit:
            fields = {"seq": first, "next_by_subj": subject}
            (one,) = await self._connected().call(
                [Request(f"$JS.API.DIRECT.GET.{stream}", json.dumps(fields).encode())]
            )
            place = (one.headers or {}).get("Nats-Sequence")
            if place is None:  # 404: there is none
                break
            found.append((int(place), one))
            first = int(place) + 1
        return found

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        found = await self._walk(self._dead, self._dead_subject, int(after or 0) + 1, limit)
        return [
            DeadLetter(str(place), _message(one, place), (one.headers or {}).get("Asyncpc-Failure", "").encode())
            for place, one in found
        ]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        wanted = [one for one in dict.fromkeys(places) if one.isdecimal() and int(one) < 2**63]
        get = f"$JS.API.DIRECT.GET.{self._dead}"
        answers = await self._connected().call([Request(get, json.dumps({"seq": int(one)}).encode()) for one in wanted])
        found = [(place, one) for place, one in zip(wanted, answers, strict=True) if self._is_dead(one)]
        again = []
        for place, one in found:
            message = _message(one, int(place))
            outgoing = Outgoing(message.id, message.body, message.headers, time=message.time)
            again.append(self._request(outgoing, f"%requeue/{self._dead}/{place}/{quote(message.id, SAFE)}"))
        await self._put(again, again)
        await self._connected().ask(*((f"STREAM.MSG.DELETE.{self._dead}", {"seq": int(place)}) for place, _ in found))
        return len(found)

    def _is_dead(self, message: Msg) -> bool:
        return (message.headers or {}).get("Nats-Subject") == self._dead_subject

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        if dead:
            return await self._purge(self._dead, self._dead_subject)
        number = await self._purge(self._queue, f"{self._queue}.later.*")
        (info,) = await self._connected().api((f"CONSUMER.INFO.{self._consumer}", {}))
        if info["num_ack_pending"] == 0:
            return number + await self._purge(self._queue, self._queue)
        while messages := await self.receive(AT_ONCE, 0.0, 1):  # a purge would take what somebody works on too
            number += await self.ack(messages)
        return number

    async def _purge(self, stream: str, subject: str) -> int:
        (answer,) = await self._connected().api((f"STREAM.PURGE.{stream}", {"filter": subject}))
        return int(answer["purged"])


def _headers(message: Message | Outgoing, unique: str = "", attempts: int = 0) -> dict[str, str]:
    """``unique`` is the id for the server, where it is not the message's own."""
    identity = quote(message.id, SAFE)
    headers = {**message.headers, "Nats-Msg-Id": unique or identity}
    if unique:
        headers["Asyncpc-Id"] = identity
    if message.time:
        headers["Asyncpc-Time"] = str(message.time)
    if attempts:
        headers["Asyncpc-Attempts"] = str(attempts)
    return headers


def _message(one: Msg, sequence: int, delivered: int = 0, receipt: _Delivery | None = None) -> Message:
    headers = one.headers or {}
    identity = headers.get("Asyncpc-Id") or headers.get("Nats-Msg-Id") or str(sequence)
    attempt = delivered + int(_number(headers.get("Asyncpc-Attempts"), 0))
    put = _number(headers.get("Asyncpc-Time"), 0.0)
    if not put:  # another program put it
        put = receipt.stamp if receipt else datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
    others = {name: value for name, value in headers.items() if not name.startswith(("Nats-", "Asyncpc-"))}
    return Message(unquote(identity), one.data, attempt, put, others, receipt)


def _number(text: str | None, other: float) -> float:
    """What a header says, if it can be believed (fault F10)."""
    if text is None:
        return other
    try:
        number = float(text)
    except ValueError:
        return other
    return number if 0 <= number < 1e12 else other
