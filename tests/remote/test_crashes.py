"""Programs and servers are killed under load, on each durable engine: nothing that was confirmed is lost.

``python -m tests.remote.kills`` does the same hundreds of times, and prints a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from remote.kills import DRAIN, LEASE, crashes, kills, poison, terms
from remote.programs import CONCURRENCY
from remote.servers import PLACES, Place, client_of

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(180)]

POLL = 1.0
"""Seconds after which an engine looks for the messages of the dead at the latest."""

SLACK = 1.5
"""Seconds in which what was taken over is handled, by processes that may have to wait for a processor."""

FLUSH = 20
"""Messages that are handled while one call acknowledges others, on a busy machine."""


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server of each engine in turn."""
    client_of(request.param)
    place = PLACES[request.param].place(tmp_path_factory.mktemp(request.param))
    place.start()
    yield place
    place.stop()


def test_a_kill_loses_nothing(place: Place, tmp_path: Path) -> None:
    """Others take over what a dead worker had, in time; handled twice is what it had handled and not acknowledged."""
    result = kills(place, tmp_path, 5, seed=1)
    assert (result.lost, result.dead) == (0, 0)
    assert result.confirmed > 100
    assert result.duplicates <= result.times * (CONCURRENCY + FLUSH)
    assert 0.0 < result.slowest <= LEASE + POLL + SLACK  # somebody had begun something, and others had it in time


def test_a_signal_to_end_loses_and_repeats_nothing(place: Place, tmp_path: Path) -> None:
    """What was not begun is given back at once; what was begun ends, and is acknowledged before the process ends."""
    result = terms(place, tmp_path, 2, seed=2)
    assert (result.lost, result.duplicates, result.dead) == (0, 0, 0)
    assert result.slowest <= DRAIN


def test_a_killed_server_loses_nothing(place: Place, tmp_path: Path) -> None:
    """The programs wait for it, and go on by themselves; where there is none, all of them are killed at once."""
    result = crashes(place, tmp_path, 1, seed=3)
    assert (result.lost, result.dead) == (0, 0)
    assert result.confirmed > 100


def test_a_message_that_kills_its_process_ends_alone(place: Place, tmp_path: Path) -> None:
    """Though 200 were received with it each time: one dead letter, and no innocent in it."""
    result = poison(place, tmp_path)
    assert (result.confirmed, result.lost, result.dead, result.times) == (299, 0, 1, 5)
