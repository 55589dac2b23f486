-- tolerates: 1

-- If the clock of the server has gone back, time stands still until the shift is increased. Without
-- this limit, a lease that is given in between would have expired when that happens.
CREATE OR REPLACE FUNCTION wats_now() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + shift, latest)
    FROM wats_clock
$$;
