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
