-- tolerates: 1

-- A paused consumer gets no leases. Processes of version 1 do not know that and lease nevertheless.
ALTER TABLE wats_consumers ADD COLUMN is_paused boolean NOT NULL DEFAULT false;
