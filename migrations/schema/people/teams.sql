-- Teams and the people in them. A person may be in several teams. Rows elsewhere name a team
-- (`team_id`) without a foreign key: the queue and the books must not lock rows that jobs share.

create type jobsworth.team_role as enum ('owner', 'admin', 'member', 'viewer');

-- `external_id`: what the platform that people come from calls them, in its own words.
create table jobsworth.users (
  id uuid not null default jobsworth.uuidv7() primary key,
  external_id jobsworth.external_id,
  name text,
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint one_user_per_external_id unique (external_id)
);
create trigger touch before update on jobsworth.users
  for each row execute function jobsworth.touch();

create table jobsworth.teams (
  id uuid not null default jobsworth.uuidv7() primary key,
  name jobsworth.name not null,
  owner_id uuid not null references jobsworth.users,
  metadata jsonb not null default '{}',
  created_at jobsworth.created_at not null default now(),
  updated_at jobsworth.updated_at not null default now(),
  constraint one_team_per_name unique (name)
);
create index teams_owner on jobsworth.teams (owner_id);
create trigger touch before update on jobsworth.teams
  for each row execute function jobsworth.touch();

create table jobsworth.team_memberships (
  team_id uuid not null references jobsworth.teams on delete cascade,
  user_id uuid not null references jobsworth.users,
  role jobsworth.team_role not null default 'member',
  created_at jobsworth.created_at not null default now(),
  primary key (team_id, user_id)
);
create index team_memberships_user on jobsworth.team_memberships (user_id);

-- A team's owner is in it, as its owner.
create function jobsworth.enter_owner() returns trigger language plpgsql as $$
begin
  insert into jobsworth.team_memberships as m (team_id, user_id, role)
  values (new.id, new.owner_id, 'owner')
  on conflict (team_id, user_id) do update set role = 'owner';
  return new;
end $$;
create trigger enter_owner after insert or update of owner_id on jobsworth.teams
  for each row execute function jobsworth.enter_owner();

create function jobsworth.keep_owner() returns trigger language plpgsql as $$
begin
  if (tg_op = 'DELETE' or (new.team_id, new.user_id, new.role)
      is distinct from (old.team_id, old.user_id, 'owner'::jobsworth.team_role))
    and exists (
      select 1 from jobsworth.teams t where t.id = old.team_id and t.owner_id = old.user_id)
  then
    raise exception 'user % owns the team', old.user_id
      using errcode = 'restrict_violation', hint = 'Give the team another owner first.';
  end if;
  return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger keep_owner before update or delete on jobsworth.team_memberships
  for each row execute function jobsworth.keep_owner();
