-- The history of a run: each move of its status, when and why. The first row's `from_status` is the status
-- with which the run was made. `guard_run` refuses what is no legal move.

create table jobsworth.run_transitions (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  run_id uuid not null references jobsworth.runs on delete cascade,
  from_status jobsworth.run_status not null,
  to_status jobsworth.run_status not null,
  why text,
  at jobsworth.at not null default clock_timestamp()
);
create index run_transitions_of_run on jobsworth.run_transitions (run_id, id);

-- Append-only, but for a run that is deleted: then its history goes too.
create function jobsworth.keep_transitions() returns trigger language plpgsql
  set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
  set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
begin
  if tg_op = 'DELETE' and not exists (select 1 from jobsworth.runs r where r.id = old.run_id) then
    return old;
  end if;
  raise exception 'run_transitions is append-only: % is refused', lower(tg_op)
    using errcode = 'restrict_violation', hint = 'The history of a run leaves with the run.';
end $$;
create trigger transitions_are_kept before update or delete on jobsworth.run_transitions
  for each row execute function jobsworth.keep_transitions();
create trigger transitions_are_not_emptied before truncate on jobsworth.run_transitions
  for each statement execute function jobsworth.keep_transitions();

-- What moves a run may say why, within its transaction: set_config('jobsworth.why', …, true).
create function jobsworth.note_transition() returns trigger language plpgsql as $$
begin
  insert into jobsworth.run_transitions (team_id, run_id, from_status, to_status, why)
  values (new.team_id, new.id, old.status, new.status,
    left(coalesce(nullif(current_setting('jobsworth.why', true), ''), new.error), 2000));
  return null;
end $$;
create trigger note_transition after update of status on jobsworth.runs
  for each row when (old.status <> new.status) execute function jobsworth.note_transition();
