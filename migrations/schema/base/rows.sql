-- Trigger functions that tables of several chapters share.

-- Keeps a table append-only. A transaction may delete only what it names: `jobsworth.erase` holds ids
-- (with commas between them), and the arguments of the trigger are the columns in which they count. Of
-- what is named it may also empty who decided, which an erased person has no longer done by name.
create function jobsworth.refuse_change() returns trigger language plpgsql as $$
begin
  if tg_op in ('DELETE', 'UPDATE') and exists (
    select 1 from unnest(tg_argv) as a (name)
    where to_jsonb(old) ->> a.name
      = any(string_to_array(current_setting('jobsworth.erase', true), ',')))
  then
    if tg_op = 'DELETE' then
      return old;
    elsif to_jsonb(new) - 'decided_by' = to_jsonb(old) - 'decided_by' then
      return new;
    end if;
  end if;
  raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
    using errcode = 'restrict_violation',
    hint = 'Write a new row instead. To erase rows for good, name them in the same transaction: '
      || 'set local jobsworth.erase = ''ID''; here it is compared with '
      || array_to_string(tg_argv, ', ') || '.';
end $$;

-- Sets `updated_at`.
create function jobsworth.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end $$;
