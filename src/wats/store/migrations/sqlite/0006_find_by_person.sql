-- tolerates: 1

-- The dead letters of a conversation, in which a replay looks for one of the same update.
CREATE INDEX wats_dead_deliveries_key ON wats_dead_deliveries (ordering_key, consumer);

-- An erasure finds the messages of a person in wats_message_index: from this version on, window_hash
-- is also set for messages that opened no window, as another hash of the number and the customer.
-- This index has the messages that an erasure must search one by one: those without a hash, as
-- processes of version 2 write them, and those of a user id, whose message id may name a number.
CREATE INDEX wats_messages_unhashed ON wats_messages (row_id)
WHERE window_hash IS NULL OR from_phone >= ':';

-- The statuses of members of groups.
CREATE INDEX wats_statuses_participant ON wats_statuses (participant) WHERE participant <> '';

-- The business numbers of messages, which are part of each hash.
CREATE TABLE wats_numbers (
    phone_number_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

INSERT INTO wats_numbers (phone_number_id) SELECT DISTINCT phone_number_id FROM wats_messages;
