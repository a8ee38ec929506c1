-- What an approval is bound to.

-- JSON in one form: keys in order, no spaces, numbers without exponent and trailing zeros.
create function jobsworth.canonical(value jsonb) returns text language plpgsql immutable strict
  parallel safe as $$
begin
  return case jsonb_typeof(value)
    when 'object' then (
      select '{' || coalesce(string_agg(
          to_json(e.key)::text || ':' || jobsworth.canonical(e.value), ','
          order by e.key collate "C"), '') || '}'
      from jsonb_each(value) e)
    when 'array' then (
      select '[' || coalesce(string_agg(jobsworth.canonical(e.value), ',' order by e.n), '') || ']'
      from jsonb_array_elements(value) with ordinality e (value, n))
    when 'number' then trim_scale((value #>> '{}')::numeric)::text
    else value::text
  end;
end $$;

-- The hash of exactly what is asked and shown.
create function jobsworth.shown_hash(proposal_text text, options text[], shown jsonb) returns text
  language sql immutable parallel safe
  return encode(sha256(convert_to(jobsworth.canonical(jsonb_build_object(
    'proposal_text', proposal_text, 'options', to_jsonb(options),
    'shown', coalesce(shown, 'null'))), 'UTF8')), 'hex');

-- What was asked and shown stays as it is, because people vote for its hash. An edit comes beside it,
-- while the approval is open, with its own hash.
create function jobsworth.guard_shown() returns trigger language plpgsql as $$
begin
  if row(new.proposal_text, new.options, new.shown, new.shown_hash)
    is distinct from row(old.proposal_text, old.options, old.shown, old.shown_hash)
  then
    raise exception 'what approval % asks and shows cannot change', old.id
      using errcode = 'restrict_violation',
      hint = 'Ask anew, and put the new one in its place: jobsworth.supersede.';
  elsif old.status <> 'pending' or not old.editable or new.edited_hash is distinct from
    jobsworth.shown_hash(new.proposal_text, new.options, new.edited)
  then
    raise exception 'approval % cannot be edited so', old.id
      using errcode = 'restrict_violation',
      hint = 'Only an open one that was asked as editable can: jobsworth.resolve(…, edited => …).';
  end if;
  return null;
end $$;
create trigger guard_shown
  after update of proposal_text, options, shown, shown_hash, edited, edited_hash
  on jobsworth.approvals
  for each row when (
    row(new.proposal_text, new.options, new.shown, new.shown_hash, new.edited, new.edited_hash)
    is distinct from
    row(old.proposal_text, old.options, old.shown, old.shown_hash, old.edited, old.edited_hash))
  execute function jobsworth.guard_shown();
