-- Own prices. They come before the prices that are shipped with the program.

create table jobsworth.prices (
  id uuid not null default jobsworth.uuidv7() primary key,
  team_id uuid,
  provider jobsworth.provider not null,
  -- The exact name, or the beginning of a name followed by *.
  model jobsworth.model not null,
  -- US dollars for a million tokens. Without a cache price, cached tokens cost as much as input.
  input jobsworth.input not null,
  output jobsworth.output not null,
  cache_read jobsworth.cache_read,
  cache_write jobsworth.cache_write,
  -- Null: it has always been valid.
  valid_from jobsworth.valid_from,
  note text,
  -- The provider's name for other terms than its standard ones, as flex; null: the standard ones.
  tier text check (tier <> ''),
  -- US dollars for further classes of usage, by the names of genai-prices, as input_audio_mtok.
  others jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  constraint a_star_ends_the_model check (position('*' in model) in (0, length(model)))
);
create unique index prices_of_model on jobsworth.prices
  (team_id, provider, model, tier, valid_from) nulls not distinct;

-- A new price can change the cost of a call that was only estimated; the ledger then has an entry
-- that `reprices`. When the truth about the call is known after all, that entry is taken back, and
-- the entries of the call add up to its row again.
create function jobsworth.take_repricing_back() returns trigger language plpgsql as $$
begin
  insert into jobsworth.token_ledger (
    team_id, call_id, job_id, thread_id, agent_id, run_id, entry, scope, mode, provider, model,
    cost, reprices, unknown_costs)
  select new.team_id, new.id, new.job_id, new.thread_id, new.agent_id, new.run_id, 'adjust',
    new.scope, new.mode, new.provider, new.model, -sum(l.cost), true, -sum(l.unknown_costs)
  from jobsworth.token_ledger l
  where l.call_id = new.id and l.entry = 'adjust' and l.reprices
  having sum(l.cost) <> 0 or sum(l.unknown_costs) <> 0;
  return null;
end $$;
create trigger truth_takes_repricing_back after update on jobsworth.llm_calls
  for each row when (old.status = 'unknown' and new.status <> 'unknown')
  execute function jobsworth.take_repricing_back();
