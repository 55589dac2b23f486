-- tolerates: 1

-- The messages that were accepted into the outbox: their idempotency keys, so that the state of an
-- item is known after its delivery is deleted. The content is in the delivery only. Processes of an
-- older version neither send nor show these messages.
CREATE TABLE wats_outbox (
    id INTEGER PRIMARY KEY,           -- the id of the delivery
    phone_number_id TEXT NOT NULL,
    nonce INTEGER NOT NULL,           -- random; part of the callback data that proves the send
    scope TEXT NOT NULL,
    key_hash BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    keep_ms INTEGER NOT NULL,         -- the retention of the key after the send
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX wats_outbox_expires ON wats_outbox (expires_at);

-- The item that uses the key; NULL for a message that is sent while its client waits.
ALTER TABLE wats_requests ADD COLUMN outbox_id INTEGER;

-- The token buckets of the rate limits: that of each number (-1), and those of its recipients by the
-- ordering key of the outbox, a digest of both numbers. A missing row is a full bucket.
CREATE TABLE wats_pacing (
    phone_number_id TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    full_at INTEGER NOT NULL,         -- in microseconds
    level INTEGER NOT NULL,           -- how often it was throttled
    level_at INTEGER NOT NULL,        -- the end of the last pause, in microseconds
    PRIMARY KEY (phone_number_id, bucket)
) STRICT, WITHOUT ROWID;
