"""Twenty tests of ``pipeline.py``; each says what breaks it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import ANY

import pipeline as shop
import pytest
from pipeline import BankDown, Declined, Order

from asyncpc import PipelineError, source
from asyncpc.testing import CancelWorker, Crash, Delay, Feed, Redeliver, Spy, collect, idle, now, spied


@pytest.fixture(autouse=True)
def empty(leak_check: None) -> None:
    """Begin with nothing from other tests, and leave nothing."""
    for kept in (shop.refused, shop.tables, shop.lost, shop.entered, shop.ledger):
        kept.clear()


# -- retries, dead letters, a breaker, a time-out -------------------------------------------------


async def test_when_the_bank_is_down_it_is_asked_again_ten_minutes_later() -> None:
    charge = Spy(shop.charge, Crash(2, BankDown(), times=2))
    receipts = await collect(source([1, 2, 3]) >> charge)
    assert sorted(receipts) == ["receipt 1", "receipt 2", "receipt 3"]
    assert charge.calls == {1: 1, 2: 3, 3: 1}
    assert now() == 1200


async def test_after_four_calls_it_is_given_up() -> None:
    charge = Spy(shop.charge, Crash(2, BankDown()))
    report = await (source([1, 2, 3]) >> charge)
    assert (report.done, report.failed) == (2, 1)
    assert charge.calls[2] == 4


async def test_a_declined_card_is_asked_once() -> None:
    charge = Spy(shop.charge, Crash(2, Declined()))
    await (source([1, 2, 3]) >> charge)
    assert charge.calls[2] == 1


async def test_what_could_not_be_charged_is_kept() -> None:
    await (source([1, 2, 3]) >> Spy(shop.charge, Crash(2, Declined("no money"))))
    assert [failure.item for failure in shop.refused] == [2]


async def test_a_failing_bank_gets_a_rest() -> None:
    refund = Spy(shop.refund, Crash(ANY, BankDown(), times=3))
    await (source([1]) >> refund)
    assert refund.times[3] >= refund.times[2] + 30
    assert len(refund.times) == 4


async def test_a_slow_answer_is_not_waited_for() -> None:
    report = await (source(["EUR", "XAU"]) >> Spy(shop.exchange_rate, Delay("XAU", 60)))
    assert (report.done, report.failed) == (1, 1)
    assert now() == 10


# -- batches, rates, order ------------------------------------------------------------------------


async def test_a_full_batch_is_written_at_once() -> None:
    orders = Feed(*range(200))
    async with orders >> shop.insert:
        await idle()
        assert [len(rows) for rows in shop.tables] == [100, 100]
        assert now() == 0


async def test_a_batch_is_written_after_five_seconds() -> None:
    orders = Feed(1, 2, 3)
    insert = Spy(shop.insert)
    async with orders >> insert:
        await asyncio.sleep(60)
        assert shop.tables == [[1, 2, 3]]
    assert insert.times[0] == 5


async def test_ten_mails_a_minute() -> None:
    mail = Spy(shop.mail)
    await (source(range(21)) >> mail)
    assert mail.times[20] == pytest.approx(120)


async def test_pages_leave_in_order() -> None:
    translate = Spy(shop.translate, Delay(0, 9))
    assert await collect(source(range(4)) >> translate) == [0, 1, 2, 3]
    assert translate.done == [1, 2, 3, 0]


async def test_a_customer_has_one_booking_at_a_time() -> None:
    book = Spy(shop.book, Delay(ANY, 1))
    orders = [Order(1, "Ada"), Order(2, "Bob"), Order(3, "Ada")]
    await (source(orders) >> book)
    assert dict(zip([order.number for order in book.items], book.times, strict=True)) == {1: 0, 2: 0, 3: 1}


# -- threads --------------------------------------------------------------------------------------


async def test_two_labels_are_printed_at_once() -> None:
    print_label = Spy(shop.print_label, Delay(ANY, 5))
    await (source(range(6)) >> print_label)
    assert print_label.peak == 2
    assert now() == 15


async def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "orders"
    file.write_text("1\n\n2\n")
    assert sorted(await collect(shop.rows(file) >> shop.print_label)) == [1, 2]


# -- crash, cancel, drain -------------------------------------------------------------------------


async def test_a_bug_stops_the_run_and_names_the_order() -> None:
    with pytest.raises(PipelineError) as failed:
        await (source(range(9)) >> Spy(shop.ship, Crash(3, RuntimeError("no such street"))))
    (failure,) = failed.value.report.failures
    assert failure.item == 3


async def test_a_stuck_order_is_given_up_after_twenty_seconds() -> None:
    async def hand_in(*orders: int) -> None:
        async with spied(shop.shipping, Spy(shop.ship, Delay(2, 10_000))) as shipping:
            for order in orders:
                await shipping.put(order)

    with pytest.raises(PipelineError) as failed:
        await hand_in(1, 2, 3)
    assert now() == 20
    assert failed.value.report.done == 1


async def test_what_a_cancelled_worker_had_is_kept() -> None:
    with pytest.raises(PipelineError):
        await spied(shop.shipping, Spy(shop.ship, CancelWorker(2)), source=Feed(1, 2, 3))
    assert [one.item for one in shop.lost] == [2, 3]


async def test_a_cancelled_run_closes_its_connection() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await (source([1]) >> Spy(shop.update, Delay(1, 60)))
    assert shop.connections == 0


# -- results ----------------------------------------------------------------------------------------


async def test_who_stops_reading_lets_nobody_scan_for_nothing() -> None:
    pages = Feed(*range(1000))
    async with spied(shop.catalogue, source=pages).stream() as scanned:
        assert await anext(scanned) == 0
        await idle()
        assert pages.asked < 20


# -- between the shops ----------------------------------------------------------------------------


async def test_a_remote_order_that_comes_again_is_entered_once(remote_url: str) -> None:
    orders, enter = shop.orders_at(remote_url), Spy(shop.enter, Redeliver(Order(2)))
    async with orders.open() as queue:
        await queue.put_many([Order(1), Order(2), Order(3)])
    await collect(orders >> enter, most=4)
    assert enter.calls[Order(2)] == 2
    assert shop.ledger == {"Ada": 300}


async def test_a_remote_order_that_costs_nothing_is_put_aside(remote_url: str) -> None:
    orders = shop.orders_at(remote_url)
    async with orders.open() as queue:
        await queue.put_many([Order(1), Order(2, cents=0), Order(3)])
    await collect(orders >> shop.enter, most=2)
    assert (await orders.depth()).dead == 1
