"""A channel by which messages are put; the server confirms each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Confirm
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from ....wording import shown
from ..messages import parts
from .channel import Channel, Line, Refused

__all__ = ["Outlet", "Parcel", "TooLong", "Unsendable"]


class Parcel(NamedTuple):
    """A message to send to a queue."""

    queue: str
    properties: Basic.Properties
    body: bytes


class Unsendable(Exception):
    """The headers of a message do not fit into a frame; the server would close the connection."""


class TooLong(Exception):
    """The server has closed the channel, since a message is longer than it takes."""

    def __init__(self, message: str, places: Sequence[int]) -> None:
        super().__init__(message)
        self.places: Sequence[int] = places
        """Of the messages that are not confirmed."""


class Outlet(Channel):
    """See the module."""

    def __init__(self, line: Line, number: int) -> None:
        super().__init__(line, number)
        self._sent: int = 0  # messages
        self._unconfirmed: dict[int, int] = {}  # the place of each message among those of the call, by its number
        self._refused: list[int] = []
        self._confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _on_method(self, frame: Frame) -> None:
        if isinstance(frame, Basic.Ack | Basic.Nack):
            self._on_confirmed(frame.delivery_tag or 0, bool(frame.multiple), isinstance(frame, Basic.Nack))
        else:
            super()._on_method(frame)

    def _on_content(self, frame: Frame | None, properties: Basic.Properties, body: bytes) -> None:
        if isinstance(frame, Basic.Return):
            self.end(self.lost(f"there is no queue {shown(frame.routing_key)} any more"))

    def _on_confirmed(self, tag: int, is_multiple: bool, is_refused: bool) -> None:
        unconfirmed = self._unconfirmed
        if not is_multiple:
            tags = [tag] if tag in unconfirmed else []
        else:
            tags = []
            for one in unconfirmed:
                if one > tag:
                    break
                tags.append(one)
        for one in tags:
            place = unconfirmed.pop(one)
            if is_refused:
                self._refused.append(place)
        if not unconfirmed and not self._confirmed.done():
            self._confirmed.set_result(None)

    async def open(self) -> None:
        """Begin; from then on the server confirms."""
        await super().open()
        await self.call(Confirm.Select())

    async def publish(self, parcels: Sequence[Parcel]) -> list[int]:
        """Send the messages, and wait until all are confirmed; returns the places of those that were refused.

        One call after the other. Raises ``Unsendable``, and has sent nothing then: whoever put several together puts
        them again one by one. Raises ``TooLong`` when the channel is of no more use; the server does not tell before
        how long a message may be, and confirms none that it was busy with. So one that may be too long goes alone.
        """
        headers = [self._marshalled_header(one) for one in parcels]
        if any(map(self._is_too_long, headers)):
            raise Unsendable
        self._refused = []
        for first, part in parts(parcels, alone=self._line.longest):
            its_headers = headers[first : first + len(part)]
            self.send(b"".join([self._marshalled(*one) for one in zip(its_headers, part, strict=True)]))
            self._confirmed = asyncio.get_running_loop().create_future()
            for place in range(first, first + len(part)):
                self._sent += 1
                self._unconfirmed[self._sent] = place
            try:
                await self.until(self._confirmed, f"a put into {shown(part[0].queue)}")
            except Refused as error:
                if error.code != 406:
                    raise
                unsent = range(first + len(part), len(parcels))
                raise TooLong(str(error), [*self._refused, *self._unconfirmed.values(), *unsent]) from None
        return self._refused

    def fits(self, parcel: Parcel) -> bool:
        """Whether it can be sent."""
        return not self._is_too_long(self._marshalled_header(parcel))

    def _marshalled_header(self, parcel: Parcel) -> bytes:
        return marshal(ContentHeader(body_size=len(parcel.body), properties=parcel.properties), self._number)

    def _is_too_long(self, header: bytes) -> bool:
        return len(header) > self._line.longest

    def _marshalled(self, header: bytes, parcel: Parcel) -> bytes:
        body, number, most = parcel.body, self._number, self._line.longest
        data = marshal(Basic.Publish(routing_key=parcel.queue, mandatory=True), number) + header
        for start in range(0, len(body), most):
            data += marshal(ContentBody(body[start : start + most]), number)
        return data
