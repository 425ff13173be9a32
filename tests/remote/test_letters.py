"""Dead letters can be read, put back and forgotten by a program, whoever wrote them."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any, NamedTuple

import pytest

from asyncpc import Failure, consumer, testing
from asyncpc.remote import Letter, Message, Outgoing
from asyncpc.remote.broker import LONGEST_FAILURE, DeadLetter
from asyncpc.remote.codec import codec_for
from asyncpc.remote.letters import failure_of, letter_of
from asyncpc.remote.queue import RemoteQueue, remote_queue

_names = count()


class Job(NamedTuple):
    number: int


def fresh() -> RemoteQueue[Job]:
    """A queue of its own."""
    return remote_queue(f"memory://letters-{next(_names)}", Job)


@consumer(retry=2)
async def fails(job: Job) -> None:
    raise ValueError(f"number {job.number} of redis://me:canary@host")


def test_a_program_reads_dead_letters_and_puts_them_back() -> None:
    """Protects who mends what failed: the item and why, typed; what is put back begins anew."""
    queue = fresh()

    async def main() -> None:
        async with queue.open() as opened:
            await opened.put_many([Job(n) for n in range(5)])
            await opened.broker.publish([Outgoing("bad", b"\xff")])
            async with queue >> fails:
                await asyncio.sleep(5)
            letters = await opened.dead()
            assert sorted(letter.item.number for letter in letters if letter.item) == [0, 1, 2, 3, 4]
            (bad,) = [letter for letter in letters if letter.item is None]
            assert (bad.id, bad.body, bad.calls, bad.deliveries) == ("bad", b"\xff", 0, 1)
            assert bad.reason.startswith("PayloadError: the message is not what was declared")
            two = next(letter for letter in letters if letter.item == Job(2))
            assert two.reason == "ValueError: number 2 of redis://me:***@host"
            assert (two.stage, two.calls, two.deliveries) == ("fails", 2, 1)
            assert (two.history, bad.history) == ((two.reason,), ())
            assert two.traceback.startswith(f'Traceback (most recent call last):\n  File "{__file__}"')
            assert two.put <= two.died
            first, *others = await opened.dead(limit=3)
            assert [first, *others, *await opened.dead(after=others[-1].place)] == letters

            assert await opened.requeue([first, bad.place, "there is none"]) == 2
            assert await opened.requeue([]) == 0
            assert [one.attempt for one in await opened.broker.peek(9)] == [0, 0]
            assert await opened.purge(dead=True) == 4
            assert await opened.purge() == 2
            assert (await opened.depth())[:4] == (0, 0, 0, 0)

    testing.run(main())


@pytest.mark.parametrize(
    ("failure", "reason", "calls"),
    [
        (b"", "b''", 0),
        (b"\xff\x00", "b'\\xff\\x00'", 0),
        (b"[1]", "b'[1]'", 0),
        (b'{"reason": 7, "calls": "two", "x": 1}', "", 0),
        (
            json.dumps({"reason": "a\n\x1b[2Jb at nats://me:canary@h", "calls": 3}).encode(),
            "a\n\x1b[2Jb at nats://me:***@h",
            3,
        ),
    ],
)
def test_what_others_wrote_is_read_as_far_as_it_goes(failure: bytes, reason: str, calls: int) -> None:
    """Protects the list: one letter that another program wrote spoils no other."""
    message = Message("id", b'{"number": 1}', 4, 12.5, {}, None)
    letter: Letter[Any] = letter_of(DeadLetter("7", message, failure), codec_for("queue", Any, "json", 99).decoded)
    assert (letter.place, letter.item, letter.deliveries, letter.put) == ("7", {"number": 1}, 4, 12.5)
    assert (letter.reason, letter.calls, letter.history) == (reason, calls, ())


def test_what_others_wrote_of_earlier_calls_is_read_without_passwords() -> None:
    """Protects the list: what is no text is left out."""
    told = json.dumps({"history": ["a at nats://me:canary@h", 7, None, "b"]}).encode()
    letter = letter_of(DeadLetter("7", Message("id", b"1", 4, 12.5, {}, None), told), lambda body, headers: body)
    assert letter.history == ("a at nats://me:***@h", "b")


@pytest.mark.parametrize(
    ("reason", "earlier", "of_history"),
    [
        ("x" * 1000, "x" * 1000, 20),
        ("x" * 10_000, "x" * 1000, 0),
        ("x" * 100_000, "", 0),
        ("ж" * 900, "ж" * 900, 0),
        ("🌲" * 100_000, "🌲" * 1000, 0),
    ],
)
def test_an_error_is_told_however_long_all_is_together(reason: str, earlier: str, of_history: int) -> None:
    """Protects who looks for the cause on an engine that keeps it in headers, and nothing of one that is too long."""
    failure = Failure(None, reason, 21, "work", f"Traceback: {reason}", (earlier,) * 20)
    written = failure_of(failure, 1)
    assert written.isascii()
    assert len(written) <= LONGEST_FAILURE
    letter = letter_of(DeadLetter("7", Message("id", b"1", 4, 12.5, {}, None), written), lambda body, headers: body)
    assert letter.reason[:700] == reason[:700]
    assert letter.traceback[:700] == f"Traceback: {reason}"[:700]
    assert len(letter.history) == of_history


def test_of_what_others_wrote_no_more_is_read_than_is_kept() -> None:
    """Protects a terminal from somebody else's letter with a million earlier calls."""
    told = json.dumps({"history": [str(number) for number in range(100)]}).encode()
    letter = letter_of(DeadLetter("7", Message("id", b"1", 4, 12.5, {}, None), told), lambda body, headers: body)
    assert letter.history == tuple(str(number) for number in range(80, 100))
