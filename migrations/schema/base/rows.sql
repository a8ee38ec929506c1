-- Trigger functions that tables of several chapters share.

-- Keeps a table append-only. Only a transaction that has set `jobsworth.erase` to `on` may delete:
-- the one that erases a whole thread.
create function jobsworth.refuse_change() returns trigger language plpgsql as $$
begin
  if tg_op = 'DELETE' and current_setting('jobsworth.erase', true) = 'on' then
    return old;
  end if;
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'restrict_violation',
    hint = 'Write a new row instead; only erasing a whole thread deletes.';
end $$;

-- Sets `updated_at`.
create function jobsworth.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end $$;
