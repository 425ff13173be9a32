"""The tables of the PostgreSQL engine, and the statements on them; in each, ``%`` is the name of the schema.

Text has the collation "C": it compares fast, and sorts alike on all servers.
"""

from __future__ import annotations

from typing import Final

from ...broker import SUSPECT_AFTER

__all__ = [
    "ACK",
    "BURY",
    "DEAD",
    "DEPTH",
    "EARLIER",
    "EXTEND",
    "FORGET",
    "IS_THERE",
    "LATER",
    "MAKE",
    "MOST",
    "NEXT",
    "PEEK",
    "PURGE",
    "PURGE_DEAD",
    "PUT",
    "RELEASE",
    "REQUEUE",
    "SET",
    "TAKE",
]

MOST: Final = 1000
"""Messages of one statement; each that puts some draws one number for all."""

LATER: Final = ""
"""What a notification says of messages that are due from now on."""

EARLIER: Final = "earlier"
"""What it says of messages that may have been due before others which have gone."""

SET: Final = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
"""Lets a plan that is made while the tables are empty, and kept, serve for a million messages too. It has no joins."""

IS_THERE: Final = "SELECT to_regclass('%.seen') IS NOT NULL"  # the table that is made last

MAKE: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('asyncpc %', 0));
DO $$ BEGIN IF to_regnamespace('%') IS NULL THEN CREATE SCHEMA %; END IF; END $$;
CREATE SEQUENCE IF NOT EXISTS %.statement_number;
CREATE TABLE IF NOT EXISTS %.message (
    seq bigint PRIMARY KEY,
    due timestamptz NOT NULL,
    lease timestamptz NOT NULL DEFAULT '-infinity',
    delivery bigint,
    time double precision NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    is_suspect boolean NOT NULL DEFAULT false,
    queue text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    headers text NOT NULL,
    body bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON COLUMN %.message.due IS 'when it can be received: the time of the put, or the end of a delay';
COMMENT ON COLUMN %.message.lease IS 'until when it cannot be received again';
COMMENT ON COLUMN %.message.delivery IS 'drawn by the receive that has it; null if nobody has it';
CREATE INDEX IF NOT EXISTS message_due ON %.message (queue, due, seq) WHERE NOT is_suspect;
CREATE INDEX IF NOT EXISTS message_suspect ON %.message (queue, due, seq) WHERE is_suspect;
CREATE TABLE IF NOT EXISTS %.dead (
    place bigint GENERATED ALWAYS AS IDENTITY,
    died timestamptz NOT NULL DEFAULT now(),
    time double precision NOT NULL,
    attempt integer NOT NULL,
    queue text COLLATE "C" NOT NULL,
    dead_letter text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    headers text NOT NULL,
    body bytea NOT NULL,
    failure bytea NOT NULL,
    PRIMARY KEY (queue, dead_letter, place)
);
CREATE TABLE IF NOT EXISTS %.seen (
    seq bigint NOT NULL,
    until timestamptz NOT NULL,
    queue text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (queue, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX IF NOT EXISTS seen_until ON %.seen (until);
"""

# In the order of the ids, so that two processes which put the same ids wait for one another in one direction. What
# known_by names is the place of the message whose id is remembered, beginning with 1. Where an array but those of ids
# and bodies has a single value, that is the value of all.
PUT: Final = f"""
WITH given AS MATERIALIZED (
    SELECT number * {MOST} + place AS seq, place, id, body, coalesce(headers, $6[1]) AS headers,
        coalesce(delay, $7[1]) AS delay, coalesce(time, $8[1]) AS time, coalesce(known_by, $9[1]) AS known_by
    FROM (SELECT nextval('%.statement_number') AS number) AS statement,
        unnest($4::text[], $5::bytea[], $6::text[], $7::float8[], $8::float8[], $9::int4[])
            WITH ORDINALITY AS g(id, body, headers, delay, time, known_by, place)
), fresh AS (
    INSERT INTO %.seen (queue, id, seq, until) SELECT $1, id, seq, statement_timestamp() + interval '1 hour'
    FROM given WHERE known_by = place ORDER BY id COLLATE "C", seq ON CONFLICT DO NOTHING RETURNING seq
), put AS (
    INSERT INTO %.message (seq, queue, due, time, id, headers, body)
    SELECT seq, $1, statement_timestamp() + delay * interval '1 second', time, id, headers, body
    FROM given WHERE (seq - place + known_by IN (SELECT seq FROM fresh)) IS TRUE
)
SELECT pg_notify($2, $3)
"""

# A lease that a crash of the server undoes is no loss: its commit waits for no disk.
_UNSYNCED: Final = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'"

_READY: Final = """
    FROM %.message WHERE queue = $1 AND due <= statement_timestamp() AND lease <= statement_timestamp() AND
"""

# The rows are locked, so that their places stay. $6 spares a look at what has gone since the table was vacuumed last.
TAKE: Final = f"""
WITH fresh AS (
    SELECT ctid AS place, seq, due {_READY} NOT is_suspect AND due >= $6
    ORDER BY due, seq LIMIT $2 FOR UPDATE SKIP LOCKED
), suspect AS (
    SELECT ctid AS place, seq, due {_READY} is_suspect ORDER BY due, seq LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE %.message SET lease = statement_timestamp() + $4 * interval '1 second', delivery = $5,
    attempt = attempt + 1, is_suspect = attempt + 1 >= {SUSPECT_AFTER}
WHERE ctid = ANY(ARRAY(
    SELECT place FROM (SELECT * FROM fresh UNION ALL SELECT * FROM suspect) AS ready ORDER BY due, seq LIMIT $2
)) AND {_UNSYNCED}
RETURNING id, body, attempt, time, headers, due, seq
"""

NEXT: Final = """
SELECT extract(epoch FROM least(
    (SELECT min(due) FROM %.message WHERE queue = $1 AND NOT is_suspect AND due > statement_timestamp()),
    (SELECT min(due) FROM %.message WHERE queue = $1 AND is_suspect AND due > statement_timestamp())
) - statement_timestamp())::float8, statement_timestamp()
"""

PEEK: Final = f"""
SELECT id, body, attempt, time, headers FROM (
    (SELECT * {_READY} NOT is_suspect ORDER BY due, seq LIMIT $2)
    UNION ALL (SELECT * {_READY} is_suspect ORDER BY due, seq LIMIT $2)
) AS ready ORDER BY due, seq LIMIT $2
"""

DEPTH: Final = f"""
SELECT count(*) FILTER (WHERE greatest(due, lease) <= statement_timestamp()),
    count(*) FILTER (WHERE lease > statement_timestamp()),
    count(*) FILTER (WHERE due > statement_timestamp()),
    (SELECT count(*) FROM %.dead WHERE queue = $1 AND dead_letter = $2),
    extract(epoch FROM statement_timestamp())::float8 - least(
        (SELECT time {_READY} NOT is_suspect ORDER BY due, seq LIMIT 1),
        (SELECT time {_READY} is_suspect ORDER BY due, seq LIMIT 1))
FROM %.message WHERE queue = $1
"""

# "IS TRUE" keeps the planner from a join, whose plan would depend on the size of the table.
_OURS: Final = """
    seq = ANY($1) AND ((seq, delivery) IN (SELECT * FROM unnest($1::bigint[], $2::bigint[]))) IS TRUE
"""

ACK: Final = f"DELETE FROM %.message WHERE {_OURS}"

RELEASE: Final = f"""
WITH released AS (
    UPDATE %.message SET lease = '-infinity', delivery = NULL,
        attempt = attempt - $6, is_suspect = attempt - $6 >= {SUSPECT_AFTER},
        due = CASE WHEN $5 > 0 THEN greatest(due,
            statement_timestamp() + $5 * interval '1 second' + array_position($1, seq) * interval '1 microsecond'
        ) ELSE due END
    WHERE {_OURS}
)
SELECT pg_notify($3, $4) WHERE {_UNSYNCED}
"""

EXTEND: Final = f"""
UPDATE %.message SET lease = statement_timestamp() + $3 * interval '1 second'
WHERE {_OURS} AND {_UNSYNCED} RETURNING seq, delivery
"""

BURY: Final = f"""
WITH gone AS (
    DELETE FROM %.message WHERE {_OURS} RETURNING *, array_position($1, seq) AS place
)
INSERT INTO %.dead (queue, dead_letter, time, attempt, id, headers, body, failure)
SELECT queue, $4, time, attempt, id, headers, body, ($3::bytea[])[place] FROM gone ORDER BY place
"""

DEAD: Final = """
SELECT id, body, attempt, time, headers, place, failure FROM %.dead
WHERE queue = $1 AND dead_letter = $2 AND place > $3 ORDER BY place LIMIT $4
"""

REQUEUE: Final = f"""
WITH back AS (
    DELETE FROM %.dead WHERE queue = $1 AND dead_letter = $2 AND place = ANY($4::bigint[]) RETURNING *
), given AS MATERIALIZED (
    SELECT number * {MOST} + row_number() OVER (ORDER BY place) AS seq, back.*
    FROM (SELECT nextval('%.statement_number') AS number) AS statement, back
), known AS (
    INSERT INTO %.seen (queue, id, seq, until)
    SELECT DISTINCT ON (id) queue, id, seq, statement_timestamp() + interval '1 hour' FROM given ORDER BY id, seq DESC
    ON CONFLICT (queue, id) DO UPDATE SET seq = excluded.seq, until = excluded.until
), put AS (
    INSERT INTO %.message (seq, queue, due, time, id, headers, body)
    SELECT seq, queue, statement_timestamp(), time, id, headers, body FROM given
)
SELECT (SELECT count(*) FROM given) FROM (SELECT pg_notify($3, '')) AS told
"""

# An id is forgotten an hour after its put, but not before its message has gone. With the id that a batch is known by,
# the whole batch is forgotten, also what is still there of it.
FORGET: Final = """
WITH old AS (
    SELECT ctid AS place, (SELECT true FROM %.message AS m WHERE m.seq = s.seq LIMIT 1) AS is_there
    FROM %.seen AS s WHERE until <= statement_timestamp() ORDER BY until LIMIT $1 FOR UPDATE OF s SKIP LOCKED
), kept AS (
    UPDATE %.seen SET until = statement_timestamp() + interval '1 hour'
    WHERE ctid = ANY(ARRAY(SELECT place FROM old WHERE is_there))
)
DELETE FROM %.seen WHERE ctid = ANY(ARRAY(SELECT place FROM old WHERE is_there IS NULL))
"""

PURGE: Final = f"""
DELETE FROM %.message WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM %.message WHERE queue = $1 AND lease <= statement_timestamp()
    LIMIT {10 * MOST} FOR UPDATE SKIP LOCKED))
"""

PURGE_DEAD: Final = f"""
DELETE FROM %.dead WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM %.dead WHERE queue = $1 AND dead_letter = $2 LIMIT {10 * MOST} FOR UPDATE SKIP LOCKED))
"""
