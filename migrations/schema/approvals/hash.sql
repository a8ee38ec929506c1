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
