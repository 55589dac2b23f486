-- tolerates: 1

-- Identifies a reservation, so that its own transaction alone can be undone if the commit was not
-- reported. NULL for keys of the outbox, and for those reserved by earlier versions.
ALTER TABLE wats_requests ADD COLUMN nonce bytea;
