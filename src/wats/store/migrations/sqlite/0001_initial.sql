-- tolerates: 1

-- Times are milliseconds since 1970, UTC.

-- Indexes on what is random, as ids of messages and numbers of customers are, cost a page each per
-- update. There are few of them, and their entries are small.

-- The identities of updates that are not messages, by which redeliveries are recognized. Messages
-- are recognized by wats_messages.
CREATE TABLE wats_inbox (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    occurred_at INTEGER NOT NULL,     -- Meta's time
    key BLOB NOT NULL,
    kind TEXT NOT NULL,
    phone_number_id TEXT,
    received_at INTEGER NOT NULL
) STRICT;

-- Led by the time, which a redelivery repeats, so that new rows go to the end of the index.
CREATE UNIQUE INDEX wats_inbox_identity ON wats_inbox (occurred_at, key);

-- The consumers that were ever configured, and how many deliveries each has in which state. The
-- counters change in the transactions that change the deliveries.
CREATE TABLE wats_consumers (
    name TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL,         -- when a process last said that it has this consumer
    pending INTEGER NOT NULL DEFAULT 0,
    leased INTEGER NOT NULL DEFAULT 0,
    retry INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- One row for each update and consumer, from its arrival until it is done or dead.
-- The first outstanding delivery of an ordering key and consumer is its head: the only one with a
-- due_at, and the only one that can be leased. The others follow it.
CREATE TABLE wats_deliveries (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    update_id INTEGER NOT NULL,       -- the first delivery of the same update; its others are next
    siblings INTEGER NOT NULL,        -- how many deliveries the update had
    consumer TEXT NOT NULL,
    ordering_key INTEGER NOT NULL,
    due_at INTEGER,                   -- its arrival, its retry, or the end of its lease
    lease INTEGER,                    -- NULL: not leased
    is_final INTEGER NOT NULL DEFAULT 0,  -- the lease is for the last permitted attempt
    attempts INTEGER NOT NULL DEFAULT 0,
    followers INTEGER NOT NULL DEFAULT 0, -- of a head: how many wait for it
    error TEXT,                       -- the class name of the last error
    arrived_at INTEGER NOT NULL,      -- by the clock of the store
    payload BLOB NOT NULL             -- erased with the row
) STRICT;

CREATE UNIQUE INDEX wats_deliveries_head ON wats_deliveries (ordering_key, consumer)
WHERE due_at IS NOT NULL;

CREATE INDEX wats_deliveries_due ON wats_deliveries (consumer, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX wats_deliveries_following ON wats_deliveries (ordering_key, consumer, id)
WHERE due_at IS NULL;

-- The last id that a delivery was given; none is given twice. And the clock: see clock.py.
CREATE TABLE wats_queue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_id INTEGER NOT NULL,
    boot TEXT,
    clock_offset INTEGER NOT NULL,
    now INTEGER NOT NULL              -- the time, noted at most once a second
) STRICT;

INSERT INTO wats_queue (id, last_id, boot, clock_offset, now) VALUES (1, 0, NULL, 0, 0);

-- For people and scripts: what is outstanding.
CREATE VIEW wats_outstanding (id, update_id, consumer, state, due_at, attempts, error) AS
SELECT id, update_id, consumer,
    CASE WHEN lease IS NOT NULL THEN 'leased' WHEN attempts > 0 THEN 'retry' ELSE 'pending' END,
    due_at, attempts, error
FROM wats_deliveries;

-- Dead letters: deliveries that were given up, with their payload, until they expire.
CREATE TABLE wats_dead_deliveries (
    id INTEGER PRIMARY KEY,
    update_id INTEGER NOT NULL,
    siblings INTEGER NOT NULL,
    consumer TEXT NOT NULL,
    ordering_key INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    arrived_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX wats_dead_deliveries_died ON wats_dead_deliveries (died_at);

-- By triggers, so that a person may delete dead letters and the counter stays right.
CREATE TRIGGER wats_dead_deliveries_inserted AFTER INSERT ON wats_dead_deliveries BEGIN
    UPDATE wats_consumers SET dead = dead + 1 WHERE name = new.consumer;
END;

CREATE TRIGGER wats_dead_deliveries_deleted AFTER DELETE ON wats_dead_deliveries BEGIN
    UPDATE wats_consumers SET dead = dead - 1 WHERE name = old.consumer;
END;

-- Which process does the upkeep, and until when without a sign of life.
CREATE TABLE wats_leader (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    process INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT;

-- Idempotency keys and what became of their requests. Only digests of keys and bodies are kept.
CREATE TABLE wats_requests (
    scope TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state = 'reserved' OR state = 'completed' OR state = 'unknown'),
    reserved_until INTEGER NOT NULL,  -- still 'reserved' after this: its process died
    expires_at INTEGER NOT NULL,
    response BLOB,
    PRIMARY KEY (scope, key_hash)
) STRICT;

CREATE INDEX wats_requests_expires ON wats_requests (expires_at);

-- The projection of messages: never their content. Numbers come first, as scans read only these.
CREATE TABLE wats_messages (
    row_id INTEGER PRIMARY KEY,       -- the order of recording; never reused
    wa_message_hash INTEGER NOT NULL, -- 31 bits of wa_message_id
    window_hash INTEGER,              -- 31 bits of phone_number_id and from_phone, if the message
    opened_at INTEGER,                -- opened the window of these two, and when
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    phone_number_id TEXT NOT NULL,
    wa_message_id TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction = 'inbound' OR direction = 'outbound'),
    status TEXT NOT NULL,
    type TEXT NOT NULL,
    from_phone TEXT,
    to_phone TEXT,
    graph_message_id TEXT
) STRICT;

-- Finds messages by either hash. Messages are added some hundred at a time, in order, so that all
-- insertions go to the last bucket. Later, sixteen buckets are merged to one.
CREATE TABLE wats_message_index (
    bucket INTEGER NOT NULL,          -- (row_id >> 14) * 2, or (row_id >> 18) * 32 + 1 once merged
    hash INTEGER NOT NULL,
    row_id INTEGER NOT NULL,
    PRIMARY KEY (bucket, hash, row_id)
) STRICT, WITHOUT ROWID;

-- The buckets of that index, by the latest time of their messages: no message of a bucket was sent,
-- recorded or opened a window later. So a redelivery is looked up in few of them.
CREATE TABLE wats_message_buckets (
    bucket INTEGER PRIMARY KEY,
    latest_at INTEGER NOT NULL,
    has_sent INTEGER NOT NULL         -- whether it has outbound messages, which statuses look for
) STRICT;

CREATE INDEX wats_message_buckets_latest ON wats_message_buckets (latest_at);
CREATE INDEX wats_message_buckets_sent ON wats_message_buckets (bucket) WHERE has_sent;

-- How far messages were recorded and indexed.
CREATE TABLE wats_marks (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_row_id INTEGER NOT NULL,     -- the last row_id of wats_messages that was allocated
    indexed_row_id INTEGER NOT NULL,  -- rows after this one are not in wats_message_index yet
    pending_latest_at INTEGER NOT NULL  -- the latest time of these rows
) STRICT;

INSERT INTO wats_marks (id, last_row_id, indexed_row_id, pending_latest_at) VALUES (1, 0, 0, 0);

-- Every transition of every outbound message. The statuses of one message share a page, which is
-- near the end of the table if the message is recent.
CREATE TABLE wats_statuses (
    id INTEGER PRIMARY KEY,           -- row_id of the message << 16 | its number, in order of arrival
    status TEXT NOT NULL,
    participant TEXT NOT NULL,
    error_code INTEGER,
    occurred_at INTEGER NOT NULL
) STRICT;

-- Transitions of messages that are not recorded: sent by other applications, or recorded a moment
-- later, when these rows are moved to wats_statuses.
CREATE TABLE wats_early_statuses (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    phone_number_id TEXT NOT NULL,
    wa_message_id TEXT NOT NULL,
    status TEXT NOT NULL,
    participant TEXT NOT NULL,
    error_code INTEGER,
    occurred_at INTEGER NOT NULL,
    wa_message_hash INTEGER NOT NULL
) STRICT;

CREATE INDEX wats_early_statuses_hash ON wats_early_statuses (wa_message_hash);

-- When each customer last called each number; messages know the windows that they opened. The
-- digest cannot be reversed, but it can be computed for any number.
CREATE TABLE wats_windows (
    digest INTEGER PRIMARY KEY,       -- BLAKE2b of the number and the customer
    last_inbound_at INTEGER NOT NULL
) STRICT;
