-- tolerates: 1

-- The dead letters of a conversation, in which a replay looks for one of the same update.
CREATE INDEX wats_dead_deliveries_key
ON wats_dead_deliveries (phone_number_id, consumer, ordering_key);
