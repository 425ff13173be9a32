"""The job of ``examples/etl.py`` in chunks by hand, with a ``ProcessPoolExecutor``: what its CPU time is judged by.

It parses, inserts and resumes with the example's own functions. It has no progress, hears no signal, and holds at most
four chunks.

::

    python tests/chunked_etl.py rows.csv
"""

from __future__ import annotations

import sys
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
from examples import etl


def parse(chunk: list[etl.Line]) -> list[etl.Order | etl.DeadLetter]:
    """What a process does."""
    return [etl.parsed(number, text) for number, text in chunk]


def main(file: Path) -> None:
    """Load what the database beside the file does not have."""
    database = file.with_suffix(".db")
    chunks: deque[Future[list[etl.Order | etl.DeadLetter]]] = deque()
    with ProcessPoolExecutor(2) as pool, closing(etl.connected(database)) as connection:
        rows = iter(etl.rows.__wrapped__(file, database))
        while chunk := list(islice(rows, 1000)):
            chunks.append(pool.submit(parse, chunk))
            if len(chunks) == 4:
                etl.insert(chunks.popleft().result(), connection)
        while chunks:
            etl.insert(chunks.popleft().result(), connection)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
