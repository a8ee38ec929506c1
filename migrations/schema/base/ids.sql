-- Ids are UUIDs of version 7: they grow with time, so new rows land at the end of an index.
-- PostgreSQL 18 has a function for them; older versions get one here.

do $do$
begin
  if current_setting('server_version_num')::int >= 180000 then
    create function jobsworth.uuidv7() returns uuid
      language sql volatile parallel safe
      as $f$ select pg_catalog.uuidv7() $f$;
  else
    -- RFC 9562, version 7: 48 bits of milliseconds, 12 bits of the fraction below them, 62 random
    -- bits (the variant bits come from the random version 4 value).
    create function jobsworth.uuidv7() returns uuid
      language sql volatile parallel safe
      as $f$
        select encode(
          substring(int8send(micros / 1000) from 3)
            || int2send((28672 + (micros % 1000) * 4096 / 1000)::int2)
            || substring(uuid_send(gen_random_uuid()) from 9),
          'hex')::uuid
        from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint) as t(micros)
      $f$;
  end if;
end
$do$;
