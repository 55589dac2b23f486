-- tolerates: 1

-- The messages that were accepted into the outbox: their idempotency keys, so that the state of an
-- item is known after its delivery is deleted. The content is in the delivery only. Processes of an
-- older version neither send nor show these messages.
CREATE TABLE wats_outbox (
    phone_number_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,               -- the id of the delivery
    nonce bigint NOT NULL,            -- random; part of the callback data that proves the send
    scope text COLLATE "C" NOT NULL,
    key_hash bytea NOT NULL,
    request_hash bytea NOT NULL,
    keep_ms bigint NOT NULL,          -- the retention of the key after the send
    expires_at bigint NOT NULL,
    PRIMARY KEY (phone_number_id, id)
);

CREATE INDEX wats_outbox_expires ON wats_outbox (expires_at);

-- The item that uses the key; NULL for a message that is sent while its client waits.
ALTER TABLE wats_requests ADD COLUMN outbox_id bigint;

-- The token buckets of the rate limits: that of each number (-1), and those of its recipients by the
-- ordering key of the outbox, a digest of both numbers. A missing row is a full bucket. The row of
-- the number is locked first.
CREATE TABLE wats_pacing (
    phone_number_id text COLLATE "C" NOT NULL,
    bucket bigint NOT NULL,
    full_at bigint NOT NULL,          -- in microseconds
    level bigint NOT NULL,            -- how often it was throttled
    level_at bigint NOT NULL,         -- the end of the last pause, in microseconds
    PRIMARY KEY (phone_number_id, bucket)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
