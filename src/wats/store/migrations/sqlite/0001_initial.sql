-- Times are milliseconds since 1970, UTC.

-- Every update that came in. One row is its identity; what it said is kept only while somebody
-- still has to handle it.
CREATE TABLE wats_inbox (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    occurred_at INTEGER NOT NULL,     -- Meta's time
    key BLOB NOT NULL,
    kind TEXT NOT NULL,
    phone_number_id TEXT,
    received_at INTEGER NOT NULL,
    payload BLOB,                     -- NULL when every target is done with it
    done_at INTEGER,                  -- NULL while a target is not done with it
    -- Led by the time, which a redelivery repeats, so that new rows go to the end of the index and
    -- not to a random page of it.
    UNIQUE (occurred_at, key)
) STRICT;

CREATE INDEX wats_inbox_done ON wats_inbox (done_at) WHERE done_at IS NOT NULL;

-- One row for each target that still has to handle an update; deleted when it is done.
-- The rows of one target and lane are handled in the order of update_id. The first of them is the
-- head, and only heads are looked for, so that nothing ever reads past those that wait behind one.
CREATE TABLE wats_deliveries (
    update_id INTEGER NOT NULL,
    target TEXT NOT NULL,
    lane INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'leased', 'retry')),
    is_head INTEGER NOT NULL CHECK (is_head IN (0, 1)),
    due_at INTEGER NOT NULL,          -- its arrival, its next attempt, or the end of its lease
    attempts INTEGER NOT NULL DEFAULT 0,
    lease_id INTEGER,
    error TEXT,                       -- the class name of what went wrong last
    PRIMARY KEY (update_id, target)
) STRICT, WITHOUT ROWID;

CREATE INDEX wats_deliveries_due ON wats_deliveries (target, due_at, update_id) WHERE is_head;
CREATE INDEX wats_deliveries_lane ON wats_deliveries (target, lane, update_id);

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
    state TEXT NOT NULL CHECK (state IN ('reserved', 'completed', 'unknown')),
    reserved_until INTEGER NOT NULL,  -- still 'reserved' after this: its process died
    expires_at INTEGER NOT NULL,
    response BLOB,
    PRIMARY KEY (scope, key_hash)
) STRICT;

CREATE INDEX wats_requests_expires ON wats_requests (expires_at);

-- The projection of messages: never their content.
CREATE TABLE wats_messages (
    row_id INTEGER PRIMARY KEY,       -- the order of recording
    phone_number_id TEXT NOT NULL,
    wa_message_id TEXT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    from_phone TEXT,
    to_phone TEXT,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    status_rank INTEGER NOT NULL,     -- a status replaces only one of lower rank
    graph_message_id TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (wa_message_id, phone_number_id, direction)  -- led by what messages are asked for by
) STRICT;

CREATE INDEX wats_messages_updated ON wats_messages (updated_at);

-- Every transition of every outbound message, also of those whose message is not recorded yet.
CREATE TABLE wats_statuses (
    id INTEGER PRIMARY KEY,           -- the order of arrival
    phone_number_id TEXT NOT NULL,
    wa_message_id TEXT NOT NULL,
    status TEXT NOT NULL,
    participant TEXT NOT NULL,
    error_code INTEGER,
    occurred_at INTEGER NOT NULL,
    UNIQUE (wa_message_id, phone_number_id, status, participant, occurred_at)
) STRICT;

CREATE INDEX wats_statuses_occurred ON wats_statuses (occurred_at);

-- When each customer last wrote to each number. No index by time: every message would move its
-- customer's entry there.
CREATE TABLE wats_windows (
    phone_number_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    last_inbound_at INTEGER NOT NULL,
    PRIMARY KEY (phone_number_id, customer)
) STRICT, WITHOUT ROWID;
