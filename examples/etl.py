"""A million rows of a CSV file go through processes into SQLite, with dead letters, progress, and resume after a stop.

Make a file, load it into a database beside it, stop that with Ctrl-C, and load it again::

    python examples/etl.py make rows.csv 1_000_000
    python examples/etl.py load rows.csv           or        asyncpc run examples.etl:pipeline

Expect something like this, with a line of progress in between::

    1,000,000 rows in rows.csv, 1,000 of them bad
    stopped: 409,412 orders and 409 dead letters are in rows.db
    409,821 lines of rows.csv are in rows.db already
    999,000 orders and 1,000 dead letters are in rows.db

A row that cannot be parsed is a value too, a dead letter with the reason. So it goes the same way as the orders, and
one transaction takes a whole batch of both. Each row has the number of its line as its key. A run reads only the lines
that the database does not have, so each is there once, however the run before ended: by a signal, an error or a power
cut.
"""

import csv
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from asyncpc import Batch, Pipeline, consumer, producer, run


class Order(NamedTuple):
    line: int
    customer: str
    day: str
    product: str
    quantity: int
    cents: int


class DeadLetter(NamedTuple):
    line: int
    text: str
    reason: str


Line = tuple[int, bytes]

SCHEMA = """
PRAGMA journal_mode = WAL;  -- the source reads while the loader writes
PRAGMA synchronous = NORMAL;  -- a power cut may undo the last transactions, as a whole: their lines are read again
CREATE TABLE IF NOT EXISTS orders (
    line INTEGER PRIMARY KEY, customer TEXT, day TEXT, product TEXT, quantity INTEGER, cents INTEGER
);
CREATE TABLE IF NOT EXISTS dead_letters (line INTEGER PRIMARY KEY, text TEXT, reason TEXT);
"""


def connected(database: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(database, check_same_thread=False)  # a worker opens it here and uses it in its thread
    connection.executescript(SCHEMA)
    return connection


def loaded(database: Path) -> tuple[int, int]:
    """How many orders and dead letters there are."""
    with closing(connected(database)) as connection:
        (orders,) = connection.execute("SELECT count(*) FROM orders").fetchone()
        (dead_letters,) = connection.execute("SELECT count(*) FROM dead_letters").fetchone()
        return orders, dead_letters


def lines_left(file: Path, database: Path) -> int:
    with file.open("rb") as lines:
        return sum(1 for _ in lines) - 1 - sum(loaded(database))


@producer(total=lines_left)
def rows(file: Path, database: Path) -> Iterator[Line]:
    """The lines below the header that are not in the database, with their numbers."""
    with closing(connected(database)) as connection, file.open("rb") as lines:
        there = connection.execute("SELECT line FROM orders UNION ALL SELECT line FROM dead_letters ORDER BY line")
        (known,) = next(there, (0,))
        for number, text in islice(enumerate(lines, start=1), 1, None):
            if number == known:
                (known,) = next(there, (0,))
            else:
                yield number, text


@consumer(run_in="process", concurrency=2, batch=Batch(1000))  # parsing keeps a processor busy
def parse(batch: list[Line]) -> list[Order | DeadLetter]:
    return [parsed(number, text) for number, text in batch]


def parsed(number: int, text: bytes) -> Order | DeadLetter:
    try:
        [(customer, day, product, pieces, price)] = csv.reader([text.decode()], strict=True)
        quantity, cents = int(pieces), Decimal(price) * 100
        if not (0 < quantity < 10_000 and 0 <= cents < 10**9 and cents == int(cents)):
            raise ValueError(f"{pieces} pieces at {price}")
        return Order(number, customer, date.fromisoformat(day).isoformat(), product, quantity, int(cents))
    except (ValueError, ArithmeticError, csv.Error) as error:
        return DeadLetter(number, text.decode(errors="backslashreplace").rstrip(), f"{type(error).__name__}: {error}")


def insert(batch: list[Order | DeadLetter], connection: sqlite3.Connection) -> None:
    with connection:  # all of the batch or nothing
        orders = [one for one in batch if isinstance(one, Order)]
        dead_letters = [one for one in batch if isinstance(one, DeadLetter)]
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", orders)
        connection.executemany("INSERT INTO dead_letters VALUES (?, ?, ?)", dead_letters)


def etl(file: Path, database: Path) -> Pipeline[Line, None]:
    @asynccontextmanager
    async def connection() -> AsyncIterator[sqlite3.Connection]:
        with closing(connected(database)) as one:
            yield one

    load = consumer(batch=Batch(1000), context=connection)(insert)  # one worker, since SQLite has one writer
    return rows(file, database) >> parse >> load


pipeline = etl(Path("rows.csv"), Path("rows.db"))


def make(file: Path, count: int) -> None:
    """Write a file of orders; one of a thousand is bad, each in its way."""
    bad = ["?,?\n", 'Ada,2026-02-30,"tea",1,4.50\n', "Ben,2026-03-01,ink,many,2.00\n", 'Cleo,2026-03-02,"pen,1,1.00\n']
    draw = random.Random(count)
    with file.open("w", encoding="utf-8") as lines:
        lines.write("customer,day,product,quantity,price\n")
        for n in range(count):
            day = date(2026, 1, 1) + timedelta(days=n * 365 // count)
            good = (
                f'"Shop {draw.randrange(5000)}, Zürich",{day},tea {n % 97},{n % 9 + 1},{draw.randrange(10000) / 100}\n'
            )
            lines.write(bad[n // 1000 % len(bad)] if n % 1000 == 500 else good)
    print(f"{count:,} rows in {file}, {(count + 499) // 1000:,} of them bad")


def main(file: Path) -> int:
    """Load what the database beside the file does not have; return the exit status."""
    database = file.with_suffix(".db")
    if there := sum(loaded(database)):
        print(f"{there:,} lines of {file} are in {database} already", flush=True)
    report = run(etl(file, database), progress=True)
    orders, dead_letters = loaded(database)
    stopped = "stopped: " if report.signal else ""
    print(f"{stopped}{orders:,} orders and {dead_letters:,} dead letters are in {database}")
    return report.exit_status


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", name, count]:
            make(Path(name), int(count))
        case ["load", name]:
            sys.exit(main(Path(name)))
        case _:
            sys.exit("usage: etl.py make FILE ROWS, or etl.py load FILE")
