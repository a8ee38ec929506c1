-- What a person does with budgets: set, raise, reset, remove.

-- Make a budget, or change the one of that name. If it counts something else from now on, a new
-- window begins. Returns its id.
create function jobsworth.set_budget(
  name text, unit jobsworth.budget_unit, amount numeric, period jobsworth.budget_period,
  for_team_id uuid default null, agent_id uuid default null, thread_id uuid default null,
  mode text default null, provider text default null, model text default null,
  over jobsworth.budget_over default 'park', warn_at numeric default 0.8,
  team_id uuid default null)
  returns uuid language plpgsql as $$
#variable_conflict use_column
declare
  id uuid;
begin
  if coalesce(trim(set_budget.name), '') = '' then
    raise exception 'a budget needs a name' using hint = 'name it after what it bounds';
  end if;
  if not (set_budget.amount >= 0 and set_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', set_budget.name, set_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  insert into jobsworth.budgets as b (
    team_id, name, unit, amount, period, for_team_id, agent_id, thread_id, mode, provider, model,
    over, warn_at)
  values (
    set_budget.team_id, set_budget.name, set_budget.unit, set_budget.amount, set_budget.period,
    set_budget.for_team_id, set_budget.agent_id, set_budget.thread_id, set_budget.mode,
    set_budget.provider, set_budget.model, set_budget.over, set_budget.warn_at)
  on conflict (team_id, name) do update
  set unit = excluded.unit, amount = excluded.amount, period = excluded.period,
    for_team_id = excluded.for_team_id, agent_id = excluded.agent_id,
    thread_id = excluded.thread_id, mode = excluded.mode, provider = excluded.provider,
    model = excluded.model, over = excluded.over, warn_at = excluded.warn_at, active = true,
    reset_at = case
      when row(b.unit, b.period, b.for_team_id, b.agent_id, b.thread_id, b.mode, b.provider,
          b.model)
        is distinct from row(excluded.unit, excluded.period, excluded.for_team_id,
          excluded.agent_id, excluded.thread_id, excluded.mode, excluded.provider, excluded.model)
      then clock_timestamp() else b.reset_at end
  returning b.id into id;
  perform jobsworth.wake_budgets(array[id]);
  return id;
end $$;

-- Give a budget another amount. Waiting jobs that fit go on.
create function jobsworth.raise_budget(name text, amount numeric, team_id uuid default null)
  returns void language plpgsql as $$
begin
  if not (raise_budget.amount >= 0 and raise_budget.amount < 1e15) then
    raise exception 'budget % cannot be %', raise_budget.name, raise_budget.amount
      using hint = 'give an amount from 0 on';
  end if;
  update jobsworth.budgets b set amount = raise_budget.amount
  where b.id = jobsworth.budget_named(raise_budget.name, raise_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(raise_budget.name, raise_budget.team_id)]);
end $$;

-- Begin a new window now, with nothing reserved or spent. Calls that are running count in the old
-- one.
create function jobsworth.reset_budget(name text, team_id uuid default null)
  returns void language plpgsql as $$
begin
  update jobsworth.budgets b set reset_at = clock_timestamp()
  where b.id = jobsworth.budget_named(reset_budget.name, reset_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(reset_budget.name, reset_budget.team_id)]);
end $$;

-- Switch a budget off. Its windows stay, and `set_budget` brings it back.
create function jobsworth.remove_budget(name text, team_id uuid default null)
  returns void language plpgsql as $$
begin
  update jobsworth.budgets b set active = false
  where b.id = jobsworth.budget_named(remove_budget.name, remove_budget.team_id);
  perform jobsworth.wake_budgets(
    array[jobsworth.budget_named(remove_budget.name, remove_budget.team_id)]);
end $$;

-- The id of the budget of that name; an error if there is none.
create function jobsworth.budget_named(name text, team_id uuid) returns uuid
  language plpgsql stable as $$
declare
  found_id uuid;
begin
  select b.id into found_id from jobsworth.budgets b
  where b.name = budget_named.name and b.team_id is not distinct from budget_named.team_id;
  if not found then
    raise exception 'there is no budget %', budget_named.name
      using errcode = 'P0002', hint = 'jobsworth budget list';
  end if;
  return found_id;
end $$;
