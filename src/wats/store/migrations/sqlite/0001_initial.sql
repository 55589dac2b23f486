-- tolerates: 1

-- Times are milliseconds since 1970, UTC.

-- Each index on random values, such as ids of messages and numbers of customers, costs one page per
-- update. There are few such indexes, and their entries are small.

-- The identities of updates without a message, to detect redeliveries. A message is identified by
-- its row in wats_messages.
CREATE TABLE wats_inbox (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    occurred_at INTEGER NOT NULL,     -- Meta's time
    key BLOB NOT NULL,
    kind TEXT NOT NULL,
    phone_number_id TEXT,
    received_at INTEGER NOT NULL
) STRICT;

-- The time, which a redelivery repeats, is first, so that new rows go to the end of the index.
CREATE UNIQUE INDEX wats_inbox_identity ON wats_inbox (occurred_at, key);

-- The registered consumers, with the number of their deliveries in each state. The counters change
-- in the transactions that change the deliveries.
CREATE TABLE wats_consumers (
    name TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL,         -- when a process last registered the consumer
    pending INTEGER NOT NULL DEFAULT 0,
    leased INTEGER NOT NULL DEFAULT 0,
    retry INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- One row for each update and consumer, from arrival until the delivery is done or dead. The first
-- outstanding delivery of an ordering key and consumer is the head: only a head has a due_at, and
-- only a head can be leased. The other deliveries are its followers.
CREATE TABLE wats_deliveries (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    update_id INTEGER NOT NULL,       -- the id of the first delivery of the update
    siblings INTEGER NOT NULL,        -- the number of deliveries of the update
    consumer TEXT NOT NULL,
    ordering_key INTEGER NOT NULL,
    due_at INTEGER,                   -- arrival, time of retry, or lease expiry
    lease INTEGER,                    -- NULL: not leased
    is_final INTEGER NOT NULL DEFAULT 0,  -- the lease is for the last permitted attempt
    attempts INTEGER NOT NULL DEFAULT 0,
    followers INTEGER NOT NULL DEFAULT 0, -- of a head: their number
    error TEXT,                       -- the class name of the last error
    arrived_at INTEGER NOT NULL,      -- by the clock of the store
    payload BLOB NOT NULL             -- erased with the row
) STRICT;

CREATE UNIQUE INDEX wats_deliveries_head ON wats_deliveries (ordering_key, consumer)
WHERE due_at IS NOT NULL;

CREATE INDEX wats_deliveries_due ON wats_deliveries (consumer, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX wats_deliveries_following ON wats_deliveries (ordering_key, consumer, id)
WHERE due_at IS NULL;

-- The last assigned id of a delivery (ids are not reused), and the state of the clock of clock.py.
CREATE TABLE wats_queue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_id INTEGER NOT NULL,
    boot TEXT,
    clock_offset INTEGER NOT NULL,
    now INTEGER NOT NULL              -- the time, noted at most once a second
) STRICT;

INSERT INTO wats_queue (id, last_id, boot, clock_offset, now) VALUES (1, 0, NULL, 0, 0);

-- The outstanding deliveries, for operators and scripts.
CREATE VIEW wats_outstanding (id, update_id, consumer, state, due_at, attempts, error) AS
SELECT id, update_id, consumer,
    CASE WHEN lease IS NOT NULL THEN 'leased' WHEN attempts > 0 THEN 'retry' ELSE 'pending' END,
    due_at, attempts, error
FROM wats_deliveries;

-- Dead letters, with their payload, until they expire.
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

-- Triggers keep the counter right if an operator deletes dead letters.
CREATE TRIGGER wats_dead_deliveries_inserted AFTER INSERT ON wats_dead_deliveries BEGIN
    UPDATE wats_consumers SET dead = dead + 1 WHERE name = new.consumer;
END;

CREATE TRIGGER wats_dead_deliveries_deleted AFTER DELETE ON wats_dead_deliveries BEGIN
    UPDATE wats_consumers SET dead = dead - 1 WHERE name = old.consumer;
END;

-- The process that does the upkeep, and the end of its term unless it renews the term.
CREATE TABLE wats_leader (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    process INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT;

-- Idempotency keys and the outcomes of their requests. Only digests of keys and bodies are kept.
CREATE TABLE wats_requests (
    scope TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state = 'reserved' OR state = 'completed' OR state = 'unknown'),
    reserved_until INTEGER NOT NULL,  -- if still 'reserved' then, the process died
    expires_at INTEGER NOT NULL,
    response BLOB,
    PRIMARY KEY (scope, key_hash)
) STRICT;

CREATE INDEX wats_requests_expires ON wats_requests (expires_at);

-- The projections of messages, without content. Numbers are first, as scans read only numbers.
CREATE TABLE wats_messages (
    row_id INTEGER PRIMARY KEY,       -- in order of recording; not reused
    wa_message_hash INTEGER NOT NULL, -- 31 bits of wa_message_id
    window_hash INTEGER,              -- 31 bits of phone_number_id and from_phone, if the message
    opened_at INTEGER,                -- opened their window, and the time of opening
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

-- The index of messages by both hashes. Messages are added some hundred at a time, in order, so all
-- insertions go to the last bucket. Later, sixteen buckets are merged into one.
CREATE TABLE wats_message_index (
    bucket INTEGER NOT NULL,          -- (row_id >> 14) * 2, or (row_id >> 18) * 32 + 1 once merged
    hash INTEGER NOT NULL,
    row_id INTEGER NOT NULL,
    PRIMARY KEY (bucket, hash, row_id)
) STRICT, WITHOUT ROWID;

-- The buckets of the index, with the latest time of their messages: no message of a bucket was sent
-- or recorded, or opened a window, after that time. A redelivery is thus looked up in few buckets.
CREATE TABLE wats_message_buckets (
    bucket INTEGER PRIMARY KEY,
    latest_at INTEGER NOT NULL,
    has_sent INTEGER NOT NULL         -- whether the bucket has outbound messages
) STRICT;

CREATE INDEX wats_message_buckets_latest ON wats_message_buckets (latest_at);
CREATE INDEX wats_message_buckets_sent ON wats_message_buckets (bucket) WHERE has_sent;

-- The progress of recording and indexing messages.
CREATE TABLE wats_marks (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_row_id INTEGER NOT NULL,     -- the last allocated row_id of wats_messages
    indexed_row_id INTEGER NOT NULL,  -- the last row_id in wats_message_index
    pending_latest_at INTEGER NOT NULL  -- the latest time of the rows after that
) STRICT;

INSERT INTO wats_marks (id, last_row_id, indexed_row_id, pending_latest_at) VALUES (1, 0, 0, 0);

-- Every transition of every outbound message. The statuses of a message share a page, which is near
-- the end of the table for a recent message.
CREATE TABLE wats_statuses (
    id INTEGER PRIMARY KEY,           -- row_id of the message << 16 | number in order of arrival
    status TEXT NOT NULL,
    participant TEXT NOT NULL,
    error_code INTEGER,
    occurred_at INTEGER NOT NULL
) STRICT;

-- Transitions of messages that are not recorded, because another application sent the message, or
-- because it is recorded later. In the second case the rows are then moved to wats_statuses.
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

-- Windows that are not stored in wats_messages, such as those opened by a call. The digest cannot
-- be reversed, but it can be computed for any known number.
CREATE TABLE wats_windows (
    digest INTEGER PRIMARY KEY,       -- BLAKE2b of the number and the customer
    last_inbound_at INTEGER NOT NULL
) STRICT;
