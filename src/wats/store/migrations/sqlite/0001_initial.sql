-- Times are milliseconds since 1970, UTC.

-- Indexes on what is random, as ids of messages and numbers of customers are, cost a page each per
-- update. There are few of them, and their entries are small.

-- Every update that came in; never written to again.
CREATE TABLE wats_inbox (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    occurred_at INTEGER NOT NULL,     -- Meta's time
    key BLOB NOT NULL,
    kind TEXT NOT NULL,
    phone_number_id TEXT,
    received_at INTEGER NOT NULL,
    is_message INTEGER NOT NULL CHECK (is_message IN (0, 1))  -- then wats_messages has it too
) STRICT;

-- What makes an update known when it comes again. Led by the time, which a redelivery repeats, so
-- that new rows go to the end of the index and not to a random page of it. Within a second there is
-- no such end; so messages, which many of one second can be, are known by their wats_messages row.
CREATE UNIQUE INDEX wats_inbox_identity ON wats_inbox (occurred_at, key) WHERE NOT is_message;

-- What an update said, while a target is not done with it. A table of its own, so that its pages
-- are used again at once, and the inbox is not a file of pages that are nearly empty.
CREATE TABLE wats_payloads (
    update_id INTEGER PRIMARY KEY,
    waiting INTEGER NOT NULL,         -- how many deliveries are left of it, dead ones included
    payload BLOB NOT NULL
) STRICT;

-- One row for each target that still has to handle an update; deleted when it is done.
-- The rows of one target and lane are handled in the order of update_id. The first of them is the
-- head, and only heads are looked for, so that nothing ever reads past those that wait behind one.
CREATE TABLE wats_deliveries (
    target TEXT NOT NULL,
    lane INTEGER NOT NULL,
    update_id INTEGER NOT NULL,
    -- Not by IN, for which SQLite makes a table of its own at each insert: half its time.
    state TEXT NOT NULL CHECK (state = 'pending' OR state = 'leased' OR state = 'retry'),
    is_head INTEGER NOT NULL CHECK (is_head IN (0, 1)),
    due_at INTEGER NOT NULL,          -- its arrival, its next attempt, or the end of its lease
    attempts INTEGER NOT NULL DEFAULT 0,
    lease_id INTEGER,
    error TEXT,                       -- the class name of what went wrong last
    PRIMARY KEY (target, lane, update_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX wats_deliveries_due ON wats_deliveries (target, due_at, update_id) WHERE is_head;

-- Deliveries of updates with one target, leased as they arrived, until anything else becomes of them
-- than to be done: then they are moved to the tables above. There are never more than some hundred.
CREATE TABLE wats_first_leases (
    update_id INTEGER PRIMARY KEY,
    lease_id INTEGER NOT NULL,        -- below 0, as no other lease is
    target TEXT NOT NULL,
    lane INTEGER NOT NULL,
    leased_until INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

-- Whoever still has to handle an update, wherever that is written; for those who look from outside.
CREATE VIEW wats_outstanding (update_id, target, lane, state, due_at, attempts, error) AS
SELECT update_id, target, lane, state, due_at, attempts, error FROM wats_deliveries
UNION ALL
SELECT update_id, target, lane, 'leased', leased_until, 1, NULL FROM wats_first_leases;

-- Deliveries that were given up. Their update keeps its payload, so that they can be looked at.
CREATE TABLE wats_dead_deliveries (
    update_id INTEGER NOT NULL,
    target TEXT NOT NULL,
    lane INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    died_at INTEGER NOT NULL,
    PRIMARY KEY (update_id, target)
) STRICT, WITHOUT ROWID;

CREATE INDEX wats_dead_deliveries_died ON wats_dead_deliveries (died_at);

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

-- The projection of messages: never their content.
CREATE TABLE wats_messages (
    row_id INTEGER PRIMARY KEY,       -- the order of recording; never reused
    phone_number_id TEXT NOT NULL,
    wa_message_id TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction = 'inbound' OR direction = 'outbound'),
    from_phone TEXT,
    to_phone TEXT,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    graph_message_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    wa_message_hash INTEGER NOT NULL, -- 31 bits of wa_message_id
    window_hash INTEGER,              -- 31 bits of phone_number_id and from_phone, if the message
    opened_at INTEGER                 -- opened the window of these two, and when
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

-- How far messages were recorded and indexed; no row before the first message.
CREATE TABLE wats_marks (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_row_id INTEGER NOT NULL,     -- the last row_id of wats_messages that was allocated
    indexed_row_id INTEGER NOT NULL,  -- rows after this one are not in wats_message_index yet
    pending_latest_at INTEGER NOT NULL  -- the latest time of these rows
) STRICT;

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
