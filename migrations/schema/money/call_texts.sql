-- What models were asked, kept for some days (JOBSWORTH_RECORD_CALLS). A conversation sends its
-- beginning again with each request, so a text is kept once a day, by its hash, and a call keeps the
-- hashes of what it sent. Whole days are forgotten, so nobody has to ask whether a text is still
-- used. Answers are not kept here: they are steps.

create table jobsworth.call_texts (
  day jobsworth.day not null,
  hash bytea not null,  -- of the team and the text before secrets were masked
  team_id uuid,
  text text not null,
  primary key (day, hash)
);

create table jobsworth.call_records (
  call_id uuid not null primary key,
  team_id uuid,
  day jobsworth.day not null,
  asked bytea[] not null  -- the texts of the request, in their order
);
create index call_records_day on jobsworth.call_records (day);
