-- The numbers, times and names that clients write, each with its bounds.
--
-- A column that a client can write has the domain of its name, so the error about a wrong value names
-- the column and the bound: value for domain jobsworth.run_at violates check constraint
-- "run_at_is_from_1900_to_2199".
--
-- A domain is checked when its column is assigned; an update of other columns does not pay for it.
-- Table constraints were rejected: PostgreSQL parses them anew for each statement, and ten more on
-- `reactive_jobs` made `enqueue` take 1.4 times as long. The conditions are written out, because a
-- call of a function is not inlined here.

-- Times. Every client can read these years; no client can read infinity.
create domain jobsworth.archived_at as timestamptz
  constraint archived_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.arrival_at as timestamptz
  constraint arrival_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.at as timestamptz
  constraint at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.beaten_at as timestamptz
  constraint beaten_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.began_at as timestamptz
  constraint began_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.begun_at as timestamptz
  constraint begun_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.changed_at as timestamptz
  constraint changed_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.closed_at as timestamptz
  constraint closed_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.consumed_at as timestamptz
  constraint consumed_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.created_at as timestamptz
  constraint created_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.cut_at as timestamptz
  constraint cut_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.dead_at as timestamptz
  constraint dead_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.deadline as timestamptz
  constraint deadline_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.decided_at as timestamptz
  constraint decided_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.delivered_at as timestamptz
  constraint delivered_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.due_at as timestamptz
  constraint due_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.ended_at as timestamptz
  constraint ended_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.escalated_at as timestamptz
  constraint escalated_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.expires_at as timestamptz
  constraint expires_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.failed_at as timestamptz
  constraint failed_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.fired_at as timestamptz
  constraint fired_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.finished_at as timestamptz
  constraint finished_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.granted_at as timestamptz
  constraint granted_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.handled_to as timestamptz
  constraint handled_to_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.held_until as timestamptz
  constraint held_until_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.idle_since as timestamptz
  constraint idle_since_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.next_at as timestamptz
  constraint next_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.last_active_at as timestamptz
  constraint last_active_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.last_used_at as timestamptz
  constraint last_used_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.next_try_at as timestamptz
  constraint next_try_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.occurred_at as timestamptz
  constraint occurred_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.paused_until as timestamptz
  constraint paused_until_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.received_at as timestamptz
  constraint received_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.replaced_at as timestamptz
  constraint replaced_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.requests_at as timestamptz
  constraint requests_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.reset_at as timestamptz
  constraint reset_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.refused_at as timestamptz
  constraint refused_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.retracted_at as timestamptz
  constraint retracted_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.revoked_at as timestamptz
  constraint revoked_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.run_at as timestamptz
  constraint run_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.sent_at as timestamptz
  constraint sent_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.settled_at as timestamptz
  constraint settled_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.since as timestamptz
  constraint since_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.started_at as timestamptz
  constraint started_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.starts_at as timestamptz
  constraint starts_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.superseded_at as timestamptz
  constraint superseded_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.switched_at as timestamptz
  constraint switched_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.tokens_at as timestamptz
  constraint tokens_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.turn_at as timestamptz
  constraint turn_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.updated_at as timestamptz
  constraint updated_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.valid_from as timestamptz
  constraint valid_from_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.valid_to as timestamptz
  constraint valid_to_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.warned_at as timestamptz
  constraint warned_at_is_from_1900_to_2199 check (
    value >= '1900-01-01 00:00:00+00' and value < '2200-01-01 00:00:00+00');
create domain jobsworth.day as date
  constraint day_is_from_1900_to_2199 check (value >= '1900-01-01' and value < '2200-01-01');

-- Jobs.
create domain jobsworth.mode as text constraint mode_is_named check (value <> '');
create domain jobsworth.payload as jsonb
  constraint payload_is_an_object check (jsonb_typeof(value) = 'object')
  constraint payload_is_at_most_1_mib check (pg_column_size(value) <= 1048576);
create domain jobsworth.queue as text
  constraint queue_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.unique_key as text
  constraint unique_key_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.fair_key as text
  constraint fair_key_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.weight as float8
  constraint weight_is_0_001_to_1000 check (value between 0.001 and 1000);
create domain jobsworth.virtual_time as float8
  constraint virtual_time_is_0_to_1e15 check (value between 0 and 1e15);
create domain jobsworth.floor as float8
  constraint floor_is_0_to_1e15 check (value between 0 and 1e15);
create domain jobsworth.priority as smallint
  constraint priority_is_1_to_4 check (value between 1 and 4);
create domain jobsworth.failures_max as int constraint failures_max_is_positive check (value > 0);
create domain jobsworth.crashes_max as int constraint crashes_max_is_positive check (value > 0);
create domain jobsworth.timeout_seconds as real
  constraint timeout_is_positive check (value > 0)
  constraint timeout_seconds_is_at_most_1e9 check (value <= 1e9);
-- How long a job waits. A negative time is over.
create domain jobsworth.delay_seconds as float8
  constraint delay_seconds_is_at_most_100_years check (abs(value) <= 3153600000);
create domain jobsworth.attempt as int
  constraint attempt_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.failures as int
  constraint failures_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.crashes as int
  constraint crashes_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.tries_made as int
  constraint tries_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.node as text
  constraint node_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);

-- Limits of jobs. What is longer than a key may be is stored as its hash.
create domain jobsworth.limit_name as text
  constraint limit_name_is_1_to_100_plain_letters
    check (value ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$');
create domain jobsworth.limit_key as text
  constraint limit_key_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.key as text
  constraint key_has_at_most_1000_bytes check (octet_length(value) <= 1000);
create domain jobsworth.limit_weight as int
  constraint limit_weight_is_1_to_1e6 check (value between 1 and 1000000);
create domain jobsworth.slots as int constraint slots_is_1_to_1e6 check (value between 1 and 1000000);
create domain jobsworth.rate as int constraint rate_is_1_to_1e6 check (value between 1 and 1000000);
create domain jobsworth.per_seconds as float8
  constraint per_seconds_is_a_ms_to_100_years check (value between 0.001 and 3153600000);
create domain jobsworth.burst as int constraint burst_is_1_to_1e6 check (value between 1 and 1000000);

-- Schedules.
create domain jobsworth.keep_seconds as float8 constraint keep_seconds_is_from_0_to_100_years
  check (value >= 0 and value <= 3153600000);
create domain jobsworth.every_seconds as float8
  constraint every_seconds_is_1_to_100_years check (value between 1 and 3153600000);
create domain jobsworth.jitter_seconds as float8
  constraint jitter_seconds_is_0_to_86400 check (value between 0 and 86400);
create domain jobsworth.missed_max as int
  constraint missed_max_is_1_to_1000 check (value between 1 and 1000);

-- Tokens, costs in US dollars, prices in US dollars for a million tokens.
create domain jobsworth.input_tokens as int
  constraint input_tokens_is_not_negative check (value >= 0);
create domain jobsworth.output_tokens as int
  constraint output_tokens_is_not_negative check (value >= 0);
create domain jobsworth.cache_read_tokens as int
  constraint cache_read_tokens_is_not_negative check (value >= 0);
create domain jobsworth.cache_write_tokens as int
  constraint cache_write_tokens_is_not_negative check (value >= 0);
create domain jobsworth.reasoning_tokens as int
  constraint reasoning_tokens_is_not_negative check (value >= 0);
create domain jobsworth.total_tokens as int
  constraint total_tokens_is_not_negative check (value >= 0);
create domain jobsworth.estimated_input_tokens as int
  constraint estimated_input_tokens_is_not_negative check (value >= 0);
create domain jobsworth.estimated_output_tokens as int
  constraint estimated_output_tokens_is_not_negative check (value >= 0);
create domain jobsworth.latency_ms as int
  constraint latency_ms_is_not_negative check (value >= 0);
create domain jobsworth.cost as numeric
  constraint cost_is_0_to_below_1e12 check (value >= 0 and value < 1e12);
create domain jobsworth.estimated_cost as numeric
  constraint estimated_cost_is_0_to_below_1e12 check (value >= 0 and value < 1e12);
-- What an entry of the ledger says. An adjustment may take some back.
create domain jobsworth.entered_tokens as bigint
  constraint tokens_of_an_entry_are_within_1e12 check (value between -1000000000000 and 1000000000000);
create domain jobsworth.entered_cost as numeric
  constraint cost_of_an_entry_is_within_1e12 check (abs(value) < 1e12);
create domain jobsworth.reserved as numeric
  constraint reserved_is_within_1e18 check (abs(value) < 1e18);
create domain jobsworth.spent as numeric
  constraint spent_is_within_1e18 check (abs(value) < 1e18);
create domain jobsworth.amount as numeric
  constraint amount_is_0_to_below_1e15 check (value >= 0 and value < 1e15);
create domain jobsworth.warn_at as numeric
  constraint warn_at_is_above_0_to_1 check (value > 0 and value <= 1);
create domain jobsworth.input as numeric
  constraint input_is_0_to_below_1e9 check (value >= 0 and value < 1e9);
create domain jobsworth.output as numeric
  constraint output_is_0_to_below_1e9 check (value >= 0 and value < 1e9);
create domain jobsworth.cache_read as numeric
  constraint cache_read_is_0_to_below_1e9 check (value >= 0 and value < 1e9);
create domain jobsworth.cache_write as numeric
  constraint cache_write_is_0_to_below_1e9 check (value >= 0 and value < 1e9);
create domain jobsworth.requests_per_minute as int
  constraint requests_per_minute_is_positive check (value > 0);
create domain jobsworth.tokens_per_minute as bigint
  constraint tokens_per_minute_is_positive check (value > 0);
create domain jobsworth.tokens_mean as numeric
  constraint tokens_mean_is_0_to_below_1e15 check (value >= 0 and value < 1e15);
create domain jobsworth.tokens_reserved as bigint
  constraint tokens_reserved_is_not_negative check (value >= 0);
create domain jobsworth.refusals as int
  constraint refusals_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.unusable as int
  constraint unusable_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.pace_seconds as float8
  constraint pace_seconds_is_0_to_a_minute check (value between 0 and 60);
create domain jobsworth.provider as text
  constraint provider_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.model as text
  constraint model_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.request_id as text
  constraint request_id_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);

-- People and agents.
create domain jobsworth.external_id as text
  constraint external_id_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.similarity_weight as float8
  constraint similarity_weight_is_0_to_1000 check (value between 0 and 1000);
create domain jobsworth.recency_weight as float8
  constraint recency_weight_is_0_to_1000 check (value between 0 and 1000);
create domain jobsworth.importance_weight as float8
  constraint importance_weight_is_0_to_1000 check (value between 0 and 1000);
create domain jobsworth.half_life_seconds as float8
  constraint half_life_seconds_is_1_to_100_years check (value between 1 and 3153600000);

-- Memories.
create domain jobsworth.importance as float8
  constraint importance_is_0_to_1 check (value between 0 and 1);
create domain jobsworth.confidence as float8
  constraint confidence_is_0_to_1 check (value between 0 and 1);
create domain jobsworth.file_name as text
  constraint file_name_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);

-- The rest.
create domain jobsworth.votes_needed as int
  constraint votes_needed_is_1_to_100 check (value between 1 and 100);
create domain jobsworth.approvals_needed as smallint
  constraint approvals_needed_is_0_to_2 check (value between 0 and 2);
create domain jobsworth.metric as float8
  constraint value_is_finite check (value > '-infinity' and value < 'infinity');
create domain jobsworth.bytes as bigint
  constraint bytes_is_0_to_1e12 check (value between 0 and 1000000000000);
create domain jobsworth.dimensions as int
  constraint dimensions_is_1_to_16000 check (value between 1 and 16000);
create domain jobsworth.chunker as text
  constraint chunker_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.chunk_no as int
  constraint chunk_no_is_1_to_1e9 check (value between 1 and 1000000000);
create domain jobsworth.start_offset as int
  constraint start_offset_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.end_offset as int
  constraint end_offset_is_0_to_1e9 check (value between 0 and 1000000000);
create domain jobsworth.name as text
  constraint name_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.platform as text
  constraint platform_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.chat_id as text
  constraint chat_id_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.environment as text
  constraint environment_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.sha as text
  constraint sha_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.source_kind as text
  constraint source_kind_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.extractor as text
  constraint extractor_has_1_to_200_bytes check (value <> '' and octet_length(value) <= 200);
create domain jobsworth.idempotency_key as text
  constraint idempotency_key_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.trace_id as text
  constraint trace_id_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.proposal_text as text
  constraint proposal_text_is_not_empty check (value <> '');
create domain jobsworth.media_type as text
  constraint media_type_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.uri as text
  constraint uri_has_1_to_8192_bytes check (value <> '' and octet_length(value) <= 8192);
create domain jobsworth.url as text
  constraint url_has_1_to_8192_bytes check (value <> '' and octet_length(value) <= 8192);
create domain jobsworth.step_name as text
  constraint step_name_is_not_empty check (value <> '');
create domain jobsworth.asked_by as text
  constraint asked_by_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.channel as text
  constraint channel_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.created_by as text
  constraint created_by_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
create domain jobsworth.decided_by as text
  constraint decided_by_has_1_to_1000_bytes check (value <> '' and octet_length(value) <= 1000);
