"""Each frequent statement looks rows up by one index, in one partition, with any statistics."""

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from wats.store.migrate import load_migrations
from wats.store.postgres import (
    admin,
    deliveries,
    depths,
    erasure,
    messages,
    outbox,
    pacing,
    receive,
    upkeep,
)
from wats.store.postgres.connection import SETTINGS
from wats.store.postgres.rows import array, columns

NAMES, IDS = ["handlers"], [256, 512]
HELD = array(IDS), array([5, 6])
SMALL = {"wats_clock", "wats_numbers"}

# The statement, values for it, and the indexes of wats_deliveries that it may use.
HOT: dict[str, tuple[str, tuple[Any, ...], set[str]]] = {
    "claim": (deliveries._CLAIM, ("1", "handlers", 64), {"due", "leased"}),
    "due": (deliveries._DUE, ("handlers", 64, 64), {"due", "leased"}),
    "followers": (
        deliveries._FOLLOWERS,
        ("1", "handlers", [7], [5], 9, 10_000),
        {"followers"},
    ),
    "lease": (deliveries._LEASE, ("1", "handlers", IDS, 5, 30_000, 10), {"pkey"}),
    "done": (deliveries._DONE, ("1", "handlers", *HELD), {"pkey"}),
    "done alone": (deliveries._DONE_ALONE, ("1", "handlers", *HELD, 5), {"pkey"}),
    "claim-some": (
        deliveries._CLAIM_WITH_MARK,
        ("1", "handlers", 64, [b"mark"]),
        {"due", "leased"},
    ),
    "unexpired": (deliveries._UNEXPIRED, ("1", "handlers", *HELD), {"pkey"}),
    "lock": (deliveries._LOCKED, ("1", "handlers", *HELD), {"pkey"}),
    "renew": (deliveries._RENEW, ("1", "handlers", *HELD, 30_000, False), {"pkey"}),
    "retry": (deliveries._RETRY, ("1", "handlers", IDS, [5, 6], ["a", "b"]), {"pkey"}),
    "release": (deliveries._RELEASE, ("1", "handlers", IDS, [256], [None, 5]), {"pkey"}),
    "bury": (deliveries._BURY, ("1", "handlers", IDS, ["a", "b"]), {"pkey"}),
    "handled followers": (deliveries._DELETE_FOLLOWERS, ("1", "handlers", IDS), {"pkey"}),
    "shorten": (deliveries._SHORTEN, ("1", "handlers", 256, 2), {"pkey"}),
    "promote": (deliveries.PROMOTE, ("1", "handlers", IDS), {"pkey", "followers"}),
    "delete": (deliveries.DELETE, ("1", "handlers", IDS), {"pkey"}),
    "finished": (deliveries._FINISHED, ("1", IDS, [2, 2]), {"siblings"}),
    "begin": (receive._BEGIN, (2, NAMES), {"due", "leased"}),
    "renumber": (
        receive._RENUMBER_HEADS,
        ("1", "handlers", IDS, [769, 1025], [769, 1025], [769, 1025]),
        {"pkey"},
    ),
    "oldest": (depths._OLDEST_AGE, (NAMES,), {"pkey"}),
    "waiting": (depths._WAITING, ("handlers", ["2"]), set()),
    "heads": (upkeep._HEADS, ("1", "handlers", 500), {"head"}),
    "old followers": (
        upkeep._DELETE_FOLLOWERS,
        ("1", "handlers", IDS, [5, 5]),
        {"pkey", "followers"},
    ),
    "listed": (admin._OUTSTANDING_PAGE, ("1", "handlers", 5, 50), {"pkey"}),
    "keys of ids": (admin._KEYS_OF, ("1", "handlers", IDS), {"pkey"}),
    "locked heads": (admin._LOCK_HEADS, ("1", "handlers", IDS), {"head"}),
    "discarded followers": (admin._DELETE_FOLLOWERS, ("1", "handlers", IDS, [5, 5]), {"pkey"}),
    "held items": (outbox._HELD, ("1", "handlers", IDS, [5, 6]), {"pkey"}),
    "stored item": (outbox._OUTSTANDING, ("1", "handlers", 256), {"pkey"}),
    "waiting items": (outbox._WAITING, ("1", "handlers", IDS), {"pkey"}),
    "postponed items": (pacing._POSTPONE, ("1", "handlers", IDS, [5, 6]), {"pkey"}),
    "keys of items": (outbox._ITEMS, ("1", IDS), set()),
    "buckets": (pacing._READ, ("1", [5, 6]), set()),
    "searched deliveries": (erasure._CONTENT["deliveries"], ("1", 5, 9, 9, "handlers"), {"pkey"}),
    "searched letters": (erasure._CONTENT["dead"], ("1", 5, 9, 9), set()),
    "searched messages": (erasure._ROWS["messages"], ("1", 5, 9, ["a"], ["%a%"], 9), set()),
    "messages of statuses": (erasure._MESSAGES_OF, ("1", ["a"], ["a"], ["%a%"]), set()),
    "searched statuses": (erasure._ROWS["statuses"], ("1", 5, 9, ["a"], ["%a%"], None), set()),
    "sent times": (messages._SENT_TIMES, (*columns([("1", "a")]),), set()),
    "page": (messages._PAGE, ("1", 5, 50), set()),
    "message": (messages._GET, ("1", "a"), set()),
    "last": (messages._LAST_ROW_ID, ("1",), set()),
    "statuses": (messages._STATUSES, (["1"], ["a"]), set()),
    "window": (messages._WINDOW, ("1", 5), set()),
}

INSERTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "identities": (receive._INSERT_IDENTITIES, (*columns([("1", b"a", "a", 5, 5)]),)),
    "heads": (
        receive._INSERT_HEADS,
        (5, 6, *columns([("1", "handlers", b"a", 256, 256, 1, 7, None, False, 0, 256)])),
    ),
    "followers": (
        receive._INSERT_FOLLOWERS,
        (5, *columns([("1", "handlers", b"a", 512, 512, 1, 7)])),
    ),
    "messages": (
        messages._INSERT_MESSAGES,
        (*columns([("1", "a", "inbound", "a", "a", "a", "a", "a", 5, 5)]),),
    ),
    "statuses": (messages._INSERT_STATUSES, (*columns([("1", "a", "a", "a", 5, 5)]),)),
    "items": (outbox._INSERT, ("1", 256, 5, "a", b"a", b"a", 5, 5)),
    "buckets": (pacing._WRITE, ("1", [5], [5], [0], [0])),
    "windows": (messages._MOVE_WINDOWS, (*columns([("1", 5, 5)]),)),
    "depths": (depths._CHANGE, (5, ["1"], ["handlers"], [1], [1], [1], [1])),
}

FILL = """
INSERT INTO wats_deliveries
SELECT '1', 256 * n, 256 * n, 1, 'handlers', n % 1000,
    CASE WHEN n <= 1000 THEN n END, CASE WHEN n % 2 = 0 AND n <= 1000 THEN 5 END, false, 0,
    CASE WHEN n <= 1000 THEN 19 END, 256 * n, NULL, n, 'x'
FROM generate_series(1, 20000) AS n
"""

NUMBER = "INSERT INTO wats_numbers VALUES ('1')"

STATES = {
    "new": [],
    "full": [FILL, "ANALYZE wats_deliveries"],
    "emptied": [FILL, "DELETE FROM wats_deliveries", "VACUUM ANALYZE wats_deliveries"],
    "filled after it was empty": ["ANALYZE wats_deliveries", FILL],
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def explain(sql: Any, statement: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return the nodes of the plan for any values, as the store uses it."""
    (plan,) = json.loads(
        await sql.fetchval(f"EXPLAIN (FORMAT JSON, ANALYZE, COSTS OFF) {statement}", *values)
    )
    return list(nodes(plan["Plan"]))


@pytest.mark.parametrize("state", STATES)
async def test_deliveries_are_looked_up_by_their_index_with_any_statistics(
    database: str, state: str
) -> None:
    sql: Any = await asyncpg.connect(database, server_settings=SETTINGS)
    for statement in (NUMBER, *STATES[state]):
        await sql.execute(statement)
    used: dict[str, set[str]] = {}
    whole: dict[str, list[str]] = {}

    for name, (statement, values, _) in HOT.items():
        transaction = sql.transaction()
        await transaction.start()
        for node in await explain(sql, statement, values):
            index = node.get("Index Name", "")
            if index.startswith("wats_deliveries_"):
                used.setdefault(name, set()).add(index.removeprefix("wats_deliveries_"))
            if index in {"wats_consumers_pkey", "wats_numbers_pkey"}:  # of small tables
                continue
            if index.endswith("_pkey") and node["Index Cond"].count("AND") < 1:
                whole.setdefault(name, []).append(node["Index Cond"])
            assert node["Node Type"] != "Seq Scan" or node["Relation Name"] in SMALL
        await transaction.rollback()

    expected = {name: indexes for name, (_, _, indexes) in HOT.items() if indexes}
    assert used == expected
    assert whole == {}
    await sql.close()


async def partition(sql: Any) -> None:
    """Make the tables again, partitioned in eight by the business number."""
    schema = "\n".join(migration.sql for migration in load_migrations("postgres"))
    await sql.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    tables = re.findall(r"CREATE TABLE (\w+) \(\n    phone_number_id", schema)
    small = {"wats_numbers"}
    for table in tables:
        if table in small:
            continue
        # Up to the end of the statement; a partitioned table has no storage parameters.
        schema = re.sub(
            rf"(CREATE TABLE {table} \(\n.*?\n\))[^;]*;",
            r"\1 PARTITION BY HASH (phone_number_id);",
            schema,
            flags=re.DOTALL,
        )
    await sql.execute(schema)
    for table in tables:
        if table not in small:
            for number in range(8):
                await sql.execute(
                    f"CREATE TABLE {table}_part_{number} PARTITION OF {table} "
                    f"FOR VALUES WITH (MODULUS 8, REMAINDER {number})"
                )


async def test_each_frequent_statement_touches_one_partition(database: str) -> None:
    sql: Any = await asyncpg.connect(database, server_settings=SETTINGS)
    await partition(sql)
    await sql.execute(NUMBER)
    touched: dict[str, set[str]] = {}

    for name, (statement, values, _) in HOT.items():
        transaction = sql.transaction()
        await transaction.start()
        for node in await explain(sql, statement, values):
            part = re.fullmatch(r"wats_\w+_part_(\d)", node.get("Relation Name", ""))
            if part and node.get("Actual Loops", 1):
                touched.setdefault(name, set()).add(part[1])
        await transaction.rollback()
    for name, (statement, values) in INSERTS.items():
        await sql.execute("SELECT pg_stat_reset()")
        transaction = sql.transaction()
        await transaction.start()
        await sql.fetch(statement, *values)
        rows = await sql.fetch(
            "SELECT relname FROM pg_stat_xact_user_tables "
            "WHERE n_tup_ins > 0 AND relname ~ '_part_[0-9]$'"
        )
        touched[f"insert {name}"] = {row["relname"][-1] for row in rows}
        await transaction.rollback()

    assert {name: len(parts) for name, parts in touched.items()} == dict.fromkeys(
        [*HOT, *(f"insert {name}" for name in INSERTS)], 1
    )
    await sql.close()
