"""What a queue has on the server of NATS: its stream, the consumer of all processes, and the stream of dead letters."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.msg import Msg

from ....errors import DefinitionError
from ....wording import shown
from ...broker import DeadLetter, Depth, Message, no_queue
from .connection import Connection, Request
from .message import message_of

__all__ = ["Streams"]

REMEMBERED: Final = 120.0
"""Seconds for which the server knows the id of a message."""


class Streams:
    """See the module; as they are seen over one connection."""

    def __init__(self, connection: Connection, queue: str, dead_letter: str) -> None:
        self.queue: str = queue
        """The stream, and the subject of what can be received."""
        self.consumer: str = f"{queue}.workers"
        self.dead: str = re.sub(r"[^\w-]", "-", dead_letter, flags=re.ASCII)
        """The stream of the dead letters of this queue and others."""
        self.dead_subject: str = f"{self.dead}.{queue}"
        self.can_delay: bool = False
        """False where the server is older than 2.12."""
        self.last: int = 0
        """Sequence that the server had delivered when this connection was opened, as far as it knows."""
        self._connection: Connection = connection
        self._config: dict[str, Any] = {}  # of the consumer

    async def find(self) -> None:
        """Raise ``DefinitionError`` if there is no such queue."""
        (found,) = await self._connection.ask((f"STREAM.INFO.{self.queue}", {}))
        if found.get("error", {}).get("code") == 404:
            raise no_queue(f"at {self._connection.where}")

    async def make(self, lease: float) -> None:
        """What is missing; raises ``DefinitionError`` for a stream of that name that is something else."""
        later = f"{self.queue}.later.*"
        kept = {"storage": "file", "allow_direct": True, "duplicate_window": int(REMEMBERED * 1e9)}
        made = await self._make_stream(
            self.queue, retention="workqueue", subjects=[self.queue, later], allow_msg_schedules=True, **kept
        )
        self.can_delay = bool(made.get("allow_msg_schedules")) and later in made["subjects"]
        await self._make_stream(self.dead, retention="limits", subjects=[f"{self.dead}.*"], **kept)
        (found,) = await self._connection.ask((f"CONSUMER.INFO.{self.consumer}", {}))
        self.last = found.get("delivered", {}).get("stream_seq", 0)
        self._config = found.get("config", {})  # somebody may have made it with other limits
        if not self._config:
            self._config = {"name": "workers", "durable_name": "workers", "max_ack_pending": -1, "max_waiting": 10_000}
            await self.set_lease(lease)

    async def set_lease(self, lease: float) -> None:
        """Let the consumer hand out messages for so many seconds."""
        fixed = {
            "ack_policy": "explicit",
            "filter_subject": self.queue,
            "max_deliver": -1,
            "ack_wait": int(lease * 1e9),
        }
        if self._config != self._config | fixed:
            self._config |= fixed
            request = {"stream_name": self.queue, "config": self._config}
            await self._connection.api((f"CONSUMER.CREATE.{self.consumer}.{self.queue}", request))

    async def _make_stream(self, name: str, **config: Any) -> dict[str, Any]:
        (found,) = await self._connection.ask((f"STREAM.INFO.{name}", {}))
        if found.get("error", {}).get("code") == 404:
            (found,) = await self._connection.api((f"STREAM.CREATE.{name}", {"name": name, **config}))
        made: dict[str, Any] = found.get("config", {})
        first, retention = config["subjects"][0], config["retention"]
        if made.get("retention") != retention or not made.get("allow_direct") or first not in made["subjects"]:
            expected = f"the stream {shown(name)} at {self._connection.where}"
            what = f"retention {retention}, allow_direct, and the subject {first}"
            raise DefinitionError(f"remote_queue: expected {expected} to have {what}")
        return made

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``."""
        stream, consumer, dead = await self._connection.api(
            (f"STREAM.INFO.{self.queue}", {}),
            (f"CONSUMER.INFO.{self.consumer}", {}),
            (f"STREAM.INFO.{self.dead}", {"subjects_filter": self.dead_subject}),
        )
        ready, under_way = consumer["num_pending"], consumer["num_ack_pending"]
        delayed = stream["state"].get("num_subjects", 0) - (ready + under_way > 0)  # each has a subject of its own
        buried = (dead["state"].get("subjects") or {}).get(self.dead_subject, 0)
        oldest = await self.peek(1) if ready else []
        age = max(0.0, time.time() - oldest[0].time) if oldest else None
        return Depth(ready, under_way, max(0, delayed), buried, age)

    async def under_way(self) -> int:
        """Messages that are with somebody."""
        (info,) = await self._connection.api((f"CONSUMER.INFO.{self.consumer}", {}))
        return int(info["num_ack_pending"])

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        (info,) = await self._connection.api((f"CONSUMER.INFO.{self.consumer}", {}))
        first = info["delivered"]["stream_seq"] + 1
        return [message_of(one, place, 1) for place, one in await self._walk(self.queue, self.queue, first, limit)]

    async def letters(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker.dead``."""
        found = await self._walk(self.dead, self.dead_subject, int(after or 0) + 1, limit)
        return [
            DeadLetter(str(place), message_of(one, place), (one.headers or {}).get("Asyncpc-Failure", "").encode())
            for place, one in found
        ]

    async def _walk(self, stream: str, subject: str, first: int, limit: int) -> list[tuple[int, Msg]]:
        found: list[tuple[int, Msg]] = []
        while len(found) < limit:
            (one,) = await self._connection.call([_get(stream, {"seq": first, "next_by_subj": subject})])
            place = (one.headers or {}).get("Nats-Sequence")
            if place is None:  # 404: there is none
                break
            found.append((int(place), one))
            first = int(place) + 1
        return found

    async def letters_at(self, places: Sequence[str]) -> list[tuple[str, Message]]:
        """The dead letters of this queue that are still there, with their places."""
        wanted = [one for one in dict.fromkeys(places) if one.isdecimal() and int(one) < 2**63]
        answers = await self._connection.call([_get(self.dead, {"seq": int(one)}) for one in wanted])
        return [
            (place, message_of(one, int(place)))
            for place, one in zip(wanted, answers, strict=True)
            if (one.headers or {}).get("Nats-Subject") == self.dead_subject
        ]

    async def forget_letters(self, places: Sequence[str]) -> None:
        """Delete the dead letters at these places."""
        await self._connection.ask(*((f"STREAM.MSG.DELETE.{self.dead}", {"seq": int(place)}) for place in places))

    async def purge(self, stream: str, subject: str) -> int:
        """Delete what lies under a subject of a stream; return how many messages."""
        (answer,) = await self._connection.api((f"STREAM.PURGE.{stream}", {"filter": subject}))
        return int(answer["purged"])


def _get(stream: str, fields: dict[str, Any]) -> Request:
    return Request(f"$JS.API.DIRECT.GET.{stream}", json.dumps(fields).encode())
