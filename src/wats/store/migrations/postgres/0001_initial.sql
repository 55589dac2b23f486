-- tolerates: 1

-- Times are milliseconds since 1970, UTC. Text that is part of a key is compared by its bytes
-- (COLLATE "C"): rows are locked in the order in which Python sorts them, so transactions cannot
-- deadlock.
--
-- phone_number_id is the first column of the key of each large table, and frequent statements have
-- a condition on it, so the tables can be partitioned or distributed by that column. wats_clock,
-- wats_numbers and wats_consumers are small: on a distributed PostgreSQL they are reference tables.

-- The clock of leases, retries and idempotency keys, in one row. It does not go back if the clock
-- of the server does: the shift compensates for that.
CREATE TABLE wats_clock (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    shift bigint NOT NULL DEFAULT 0,
    latest bigint NOT NULL DEFAULT 0  -- the latest recorded time, a few seconds old
);

INSERT INTO wats_clock DEFAULT VALUES;

-- STABLE, so that an index can be searched with the result; evaluated once in each statement.
CREATE FUNCTION wats_now() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + shift FROM wats_clock
$$;

-- The business numbers with rows; '' is for updates without a number.
CREATE TABLE wats_numbers (
    phone_number_id text COLLATE "C" PRIMARY KEY
);

CREATE TABLE wats_consumers (
    name text COLLATE "C" PRIMARY KEY,
    seen_at bigint NOT NULL           -- when a process last registered the consumer
);

-- The identities of updates without a message. A message is identified by its wats_messages row.
CREATE TABLE wats_inbox (
    phone_number_id text COLLATE "C" NOT NULL,
    occurred_at bigint NOT NULL,      -- Meta's time, which a redelivery repeats
    key bytea NOT NULL,
    kind text NOT NULL,
    received_at bigint NOT NULL,
    PRIMARY KEY (phone_number_id, occurred_at, key)
);

CREATE INDEX wats_inbox_received ON wats_inbox (phone_number_id, received_at);

-- Each update gets 256 ids, one for each of its deliveries. They are drawn in the transaction that
-- stores the update; wats/store/postgres/receive.py explains their order.
CREATE SEQUENCE wats_update_ids AS bigint INCREMENT BY 256;

-- Outstanding deliveries: one update for one consumer. The first delivery of a consumer and
-- ordering key is the head; only a head has a due time. The other deliveries are its followers.
CREATE TABLE wats_deliveries (
    phone_number_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,               -- in order of arrival within an ordering key
    update_id bigint NOT NULL,        -- the id of the first delivery of the update
    siblings integer NOT NULL,        -- the number of deliveries of the update
    consumer text COLLATE "C" NOT NULL,
    ordering_key bigint NOT NULL,
    due_at bigint,                    -- head: arrival, time of retry, or lease expiry
    lease bigint,                     -- head: NULL if it is not leased
    is_final boolean NOT NULL DEFAULT false, -- the current attempt is the last
    attempts integer NOT NULL DEFAULT 0,
    followers integer,                -- head: their number; NULL for followers
    last_id bigint NOT NULL,          -- head: the highest id of its ordering key; follower: its id
    error text,                       -- the class name of the last error
    arrived_at bigint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (phone_number_id, consumer, id)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- The statistics of this table are rarely current, so no plan may depend on statistics. Therefore
-- exactly one index serves each statement: other indexes have conditions that the statement does
-- not imply, or another order.

-- One head for each ordering key. Concurrent inserts of replicas wait for each other at this index.
CREATE UNIQUE INDEX wats_deliveries_head
ON wats_deliveries (phone_number_id, consumer, ordering_key) WHERE followers IS NOT NULL;

-- Claimable deliveries. Empty, and cheap to read, while deliveries are leased on arrival.
CREATE INDEX wats_deliveries_due
ON wats_deliveries (phone_number_id, consumer, due_at, id)
WHERE due_at IS NOT NULL AND lease IS NULL;

-- Leased deliveries, which become claimable when the lease expires.
CREATE INDEX wats_deliveries_leased
ON wats_deliveries (phone_number_id, consumer, due_at, id)
WHERE due_at IS NOT NULL AND lease IS NOT NULL;

CREATE INDEX wats_deliveries_followers
ON wats_deliveries (phone_number_id, consumer, ordering_key, last_id) WHERE due_at IS NULL;

-- The remaining deliveries of an update that had several.
CREATE INDEX wats_deliveries_siblings
ON wats_deliveries (phone_number_id, update_id) WHERE siblings > 1;

-- The number of deliveries in each state. Each connection counts in a row of its own, so that
-- transactions do not wait for each other here. A row may be negative; only the sum has a meaning.
CREATE TABLE wats_depths (
    phone_number_id text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    slot integer NOT NULL,
    pending bigint NOT NULL,
    leased bigint NOT NULL,
    retry bigint NOT NULL,
    dead bigint NOT NULL,
    PRIMARY KEY (phone_number_id, consumer, slot)
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- Dead letters, with their payload.
CREATE TABLE wats_dead_deliveries (
    phone_number_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    update_id bigint NOT NULL,
    siblings integer NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    ordering_key bigint NOT NULL,
    attempts integer NOT NULL,
    error text,
    arrived_at bigint NOT NULL,
    died_at bigint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (phone_number_id, id)
);

CREATE INDEX wats_dead_deliveries_died ON wats_dead_deliveries (phone_number_id, died_at);

-- Idempotency keys and their outcomes. Only digests of keys and bodies are kept. A scope begins
-- with the business number of the sender.
CREATE TABLE wats_requests (
    scope text COLLATE "C" NOT NULL,
    key_hash bytea NOT NULL,
    request_hash bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('reserved', 'completed', 'unknown')),
    reserved_until bigint NOT NULL,   -- if still 'reserved' then, the process died
    expires_at bigint NOT NULL,
    response bytea,
    PRIMARY KEY (scope, key_hash)
);

CREATE INDEX wats_requests_expires ON wats_requests (expires_at);

-- The projections of messages, without content. The status is that at the time of recording; later
-- statuses are in wats_statuses.
CREATE TABLE wats_messages (
    phone_number_id text COLLATE "C" NOT NULL,
    wa_message_id text COLLATE "C" NOT NULL,
    direction text COLLATE "C" NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    row_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY, -- in order of recording
    from_phone text,
    to_phone text,
    type text NOT NULL,
    status text NOT NULL,
    graph_message_id text,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (phone_number_id, wa_message_id, direction)
);

CREATE INDEX wats_messages_recorded ON wats_messages (phone_number_id, row_id);
CREATE INDEX wats_messages_updated ON wats_messages (phone_number_id, updated_at);

-- Every transition of every outbound message, including messages that are not recorded yet.
CREATE TABLE wats_statuses (
    phone_number_id text COLLATE "C" NOT NULL,
    wa_message_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    participant text COLLATE "C" NOT NULL,
    occurred_at bigint NOT NULL,
    error_code bigint,
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,     -- the order of arrival
    PRIMARY KEY (phone_number_id, wa_message_id, status, participant, occurred_at)
);

CREATE INDEX wats_statuses_occurred ON wats_statuses (phone_number_id, occurred_at);

-- When each customer last opened a window with each number. The digest cannot be reversed, but it
-- can be computed for any known number.
CREATE TABLE wats_windows (
    phone_number_id text COLLATE "C" NOT NULL,
    digest bigint NOT NULL,           -- BLAKE2b of the number and the customer
    last_inbound_at bigint NOT NULL,
    PRIMARY KEY (phone_number_id, digest)
) WITH (fillfactor = 80);
