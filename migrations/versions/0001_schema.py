"""The whole schema, as the first release installs it.

Until that release, this runs the sources in `schema/`, so they can still change freely. The first
release keeps a copy of them beside this file, as `0001_schema.sql`. From then on this runs the
copy: a later release must still install what this revision installed. README.md says the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import LiteralString, cast

from migrations import sources
from migrations.sql import run

revision = "0001"
down_revision = None

RELEASED = Path(__file__).with_suffix(".sql")

# The extension `vector` stays: others may use it. So do things that others have put into the
# schema, which is why this is no `drop schema … cascade`.
DOWN = """
drop view
  jobsworth.run_statistics,
  jobsworth.recalls, jobsworth.duplicate_memories,
  jobsworth.approvals_decided,
  jobsworth.environment_states,
  jobsworth.violations_of_queue, jobsworth.violations_of_limits, jobsworth.violations_of_runs,
  jobsworth.violations_of_books,
  jobsworth.violations_of_ledger, jobsworth.violations_of_consent,
  jobsworth.violations_of_shipping, jobsworth.violations_of_memory, jobsworth.violations;

-- The functions that name tables in their signatures or bodies.
drop function
  jobsworth.announce_key, jobsworth.fair_time, jobsworth.place_keys, jobsworth.review_idle_keys,
  jobsworth.claim_locked, jobsworth.claim_locked_gated, jobsworth.start_passing,
  jobsworth.set_aside_behind, jobsworth.pick_fair, jobsworth.claim_fair, jobsworth.set_fair,
  jobsworth.set_fair_weight, jobsworth.why_fair,
  jobsworth.wake, jobsworth.lane_blocked, jobsworth.lane_head, jobsworth.enqueue, jobsworth.claim,
  jobsworth.enqueue_outcome, jobsworth.unique_mistake, jobsworth.keep_key, jobsworth.window_holder,
  jobsworth.recent_messages, jobsworth.recent_threads,
  jobsworth.make_way, jobsworth.is_work_on_message,
  jobsworth.replace_waiting, jobsworth.forget_unique_windows, jobsworth.why_replaced,
  jobsworth.finish, jobsworth.tell_attempts, jobsworth.reason_gone, jobsworth.something_came,
  jobsworth.reconsider, jobsworth.unblock,
  jobsworth.cancel, jobsworth.cancel_locked, jobsworth.retry, jobsworth.restart_locked,
  jobsworth.expire_jobs, jobsworth.kept_long_enough, jobsworth.may_leave,
  jobsworth.first_id_at, jobsworth.remove_ended, jobsworth.run_may_leave,
  jobsworth.retry_locked, jobsworth.bulk_refusal, jobsworth.bulk_apply, jobsworth.move_locked,
  jobsworth.send_signal, jobsworth.jobs_of_dead_workers, jobsworth.stalled_lanes,
  jobsworth.stalled_waits,
  jobsworth.close_orphans, jobsworth.freed_lately,
  jobsworth.due_work,
  jobsworth.gate, jobsworth.gates_of, jobsworth.slots_taken, jobsworth.slot_counts,
  jobsworth.rooms_of, jobsworth.room_at, jobsworth.pick_next, jobsworth.leave_lanes,
  jobsworth.admit, jobsworth.set_aside, jobsworth.charge_rates, jobsworth.told_of,
  jobsworth.claim_gated, jobsworth.may_start,
  jobsworth.hold_slots, jobsworth.set_flood_aside, jobsworth.waiters_at, jobsworth.gate_is_open,
  jobsworth.promote_gate, jobsworth.release_gates, jobsworth.promote_due_rates,
  jobsworth.next_rate_in, jobsworth.sweep_gates, jobsworth.set_job_limit, jobsworth.count_running,
  jobsworth.remove_job_limit, jobsworth.check_weight,
  jobsworth.decide_step,
  jobsworth.start_run, jobsworth.needs_of, jobsworth.check_nodes, jobsworth.refuse_cycle,
  jobsworth.save_step, jobsworth.save_artifact, jobsworth.run_stats,
  jobsworth.upsert_run, jobsworth.move_runs, jobsworth.run_must_move, jobsworth.run_verdict,
  jobsworth.cancel_run, jobsworth.retry_run, jobsworth.delete_run, jobsworth.is_inherited,
  jobsworth.sources_of, jobsworth.inherited_steps, jobsworth.inherited_children,
  jobsworth.inherits_child, jobsworth.jobs_of_run, jobsworth.plan_fork, jobsworth.fork_run,
  jobsworth.schedule, jobsworth.pause_schedule, jobsworth.resume_schedule,
  jobsworth.remove_schedule, jobsworth.schedule_named, jobsworth.next_schedule_in,
  jobsworth.payload_at,
  jobsworth.lock_money, jobsworth.window_start, jobsworth.window_end, jobsworth.amount_words,
  jobsworth.budget_words, jobsworth.budgets_of, jobsworth.window_of, jobsworth.limit_wait,
  jobsworth.limit_applies, jobsworth.tokens_wait, jobsworth.settle_limits, jobsworth.take_tokens,
  jobsworth.slow_down, jobsworth.release_reserved, jobsworth.wake_refused,
  jobsworth.set_rate_limit, jobsworth.wake_limited, jobsworth.pause_rate, jobsworth.start_calls,
  jobsworth.calls_count, jobsworth.start_counted, jobsworth.refuse_call, jobsworth.settle_calls,
  jobsworth.correct_unknown, jobsworth.settle_windows, jobsworth.budget_has_room,
  jobsworth.grant_waiting, jobsworth.wake_budgets, jobsworth.grant_budgets,
  jobsworth.forget_windows, jobsworth.set_budget, jobsworth.raise_budget, jobsworth.reset_budget,
  jobsworth.remove_budget, jobsworth.budget_named, jobsworth.spent,
  jobsworth.canonical, jobsworth.shown_hash, jobsworth.person, jobsworth.resolve,
  jobsworth.expire_approvals, jobsworth.time_out, jobsworth.supersede,
  jobsworth.environment_is_free,
  jobsworth.remember, jobsworth.supersede_memory, jobsworth.retract_memory,
  jobsworth.retract_message,
  jobsworth.restore_memory, jobsworth.merge_memories, jobsworth.memory_locked, jobsworth.said,
  jobsworth.nearest, jobsworth.nearest_by_index, jobsworth.is_of_session,
  jobsworth.space_indexes, jobsworth.space_dimensions, jobsworth.index_space,
  jobsworth.halfvec, jobsworth.cosine_distance,
  jobsworth.why_held, jobsworth.why_attempt, jobsworth.why_again, jobsworth.shell_word,
  jobsworth.why_budget, jobsworth.why_person, jobsworth.why_environment,
  jobsworth.why_job_limit,
  jobsworth.columns_to_erase, jobsworth.stays, jobsworth.tables_to_erase, jobsworth.names_of,
  jobsworth.belongings, jobsworth.to_erase, jobsworth.plan_erasure, jobsworth.lock_to_erase,
  jobsworth.erase, jobsworth.remains, jobsworth.words_of, jobsworth.empty_books,
  jobsworth.find_traces, jobsworth.ask, jobsworth.decision,
  jobsworth.why, jobsworth.of_request, jobsworth.vote;

drop table
  jobsworth.fair_keys, jobsworth.fair_weights,
  jobsworth.reactive_jobs, jobsworth.job_edges, jobsworth.queues, jobsworth.workers,
  jobsworth.signals, jobsworth.attempt_history,
  jobsworth.job_limits, jobsworth.job_limit_slots, jobsworth.job_limit_rates,
  jobsworth.unique_windows, jobsworth.replacements,
  jobsworth.steps, jobsworth.step_decisions, jobsworth.artifacts,
  jobsworth.runs, jobsworth.run_transitions, jobsworth.saved_steps, jobsworth.run_metrics,
  jobsworth.branches, jobsworth.branch_reads,
  jobsworth.schedule_firings, jobsworth.schedules,
  jobsworth.retention,
  jobsworth.llm_calls, jobsworth.call_texts, jobsworth.call_records,
  jobsworth.token_ledger, jobsworth.prices, jobsworth.budgets,
  jobsworth.budget_windows, jobsworth.call_windows, jobsworth.budget_waits, jobsworth.rate_limits,
  jobsworth.ledger_closing, jobsworth.ledger_days,
  jobsworth.approvals, jobsworth.approval_decisions, jobsworth.webhooks, jobsworth.webhook_outbox,
  jobsworth.deployments, jobsworth.environments,
  jobsworth.chat_threads, jobsworth.chat_messages, jobsworth.message_artifacts,
  jobsworth.retracted_messages, jobsworth.extracted_messages,
  jobsworth.teams, jobsworth.users, jobsworth.team_memberships, jobsworth.agents,
  jobsworth.projects, jobsworth.sessions, jobsworth.api_tokens, jobsworth.unproven_erasures,
  jobsworth.embedding_outbox, jobsworth.past_embeddings, jobsworth.embeddings,
  jobsworth.memories,
  jobsworth.embedding_spaces;

-- The functions of triggers and defaults.
drop function
  jobsworth.uuidv7, jobsworth.refuse_change, jobsworth.touch,
  jobsworth.guard_edges, jobsworth.count_idle_workers, jobsworth.wake_on_insert, jobsworth.arrive,
  jobsworth.take_request, jobsworth.announce_moved, jobsworth.note_fair_queues,
  jobsworth.guard_status, jobsworth.guard_settled, jobsworth.tell_deleted, jobsworth.guard_run,
  jobsworth.keep_transitions, jobsworth.note_transition, jobsworth.guard_jobs_of_run,
  jobsworth.plan_again, jobsworth.forget_problem,
  jobsworth.take_repricing_back, jobsworth.open_ledger_day,
  jobsworth.announce_approval, jobsworth.guard_shown,
  jobsworth.enter_owner, jobsworth.keep_owner, jobsworth.effective_skills,
  jobsworth.in_session, jobsworth.isolate, jobsworth.see_all_rows, jobsworth.submit,
  jobsworth.guard_deployment, jobsworth.guard_thread, jobsworth.set_outcome_aside,
  jobsworth.queue_memories, jobsworth.follow_status, jobsworth.date_superseding,
  jobsworth.suspend_derived,
  jobsworth.orphan_memories,
  jobsworth.memory_status, jobsworth.identifiers;

drop sequence
  jobsworth.job_position, jobsworth.lane_position, jobsworth.lease_no, jobsworth.idle_workers,
  jobsworth.fair_queues;

drop type
  jobsworth.bulk_operation, jobsworth.claimed,
  jobsworth.job_status, jobsworth.wait_reason, jobsworth.parent_failure,
  jobsworth.limit_per,
  jobsworth.unique_until, jobsworth.on_conflict,
  jobsworth.step_effect,
  jobsworth.run_status,
  jobsworth.missed_policy, jobsworth.overlap_policy, jobsworth.firing_outcome,
  jobsworth.call_status, jobsworth.usage_source, jobsworth.ledger_scope, jobsworth.ledger_entry,
  jobsworth.budget_unit, jobsworth.budget_period, jobsworth.budget_over, jobsworth.call_verdict,
  jobsworth.approval_status,
  jobsworth.deployment_status,
  jobsworth.thread_status, jobsworth.message_policy, jobsworth.message_role,
  jobsworth.message_artifact_kind,
  jobsworth.team_role, jobsworth.session_status,
  jobsworth.memory_type, jobsworth.memory_status;

-- The domains of columns.
drop domain
  jobsworth.archived_at, jobsworth.arrival_at, jobsworth.at, jobsworth.beaten_at,
  jobsworth.began_at, jobsworth.begun_at,
  jobsworth.changed_at, jobsworth.closed_at, jobsworth.consumed_at, jobsworth.created_at,
  jobsworth.cut_at, jobsworth.dead_at, jobsworth.due_at, jobsworth.deadline, jobsworth.decided_at,
  jobsworth.delivered_at, jobsworth.ended_at, jobsworth.escalated_at, jobsworth.expires_at,
  jobsworth.failed_at,
  jobsworth.finished_at,
  jobsworth.fired_at, jobsworth.handled_to, jobsworth.next_at, jobsworth.every_seconds,
  jobsworth.keep_seconds,
  jobsworth.jitter_seconds, jobsworth.missed_max, jobsworth.granted_at,
  jobsworth.held_until, jobsworth.replaced_at,
  jobsworth.idle_since, jobsworth.next_try_at, jobsworth.occurred_at, jobsworth.paused_until,
  jobsworth.received_at, jobsworth.requests_at, jobsworth.reset_at, jobsworth.refused_at,
  jobsworth.retracted_at,
  jobsworth.run_at,
  jobsworth.sent_at, jobsworth.settled_at, jobsworth.since, jobsworth.started_at,
  jobsworth.starts_at, jobsworth.superseded_at, jobsworth.switched_at, jobsworth.tokens_at,
  jobsworth.turn_at,
  jobsworth.updated_at,
  jobsworth.valid_from, jobsworth.valid_to, jobsworth.importance, jobsworth.confidence,
  jobsworth.file_name, jobsworth.warned_at, jobsworth.day, jobsworth.mode, jobsworth.payload,
  jobsworth.fair_key, jobsworth.weight, jobsworth.virtual_time, jobsworth.floor,
  jobsworth.queue, jobsworth.unique_key, jobsworth.priority, jobsworth.failures_max,
  jobsworth.crashes_max, jobsworth.timeout_seconds, jobsworth.delay_seconds, jobsworth.attempt,
  jobsworth.failures, jobsworth.crashes, jobsworth.tries_made, jobsworth.node,
  jobsworth.limit_name, jobsworth.limit_key, jobsworth.key, jobsworth.limit_weight,
  jobsworth.slots, jobsworth.rate, jobsworth.per_seconds, jobsworth.burst,
  jobsworth.input_tokens,
  jobsworth.output_tokens, jobsworth.cache_read_tokens, jobsworth.cache_write_tokens,
  jobsworth.reasoning_tokens, jobsworth.total_tokens, jobsworth.estimated_input_tokens,
  jobsworth.estimated_output_tokens, jobsworth.latency_ms, jobsworth.cost,
  jobsworth.estimated_cost, jobsworth.entered_tokens, jobsworth.entered_cost, jobsworth.reserved,
  jobsworth.spent, jobsworth.amount, jobsworth.warn_at, jobsworth.input, jobsworth.output,
  jobsworth.cache_read, jobsworth.cache_write, jobsworth.requests_per_minute,
  jobsworth.tokens_per_minute, jobsworth.tokens_reserved, jobsworth.tokens_mean, jobsworth.refusals,
  jobsworth.unusable,
  jobsworth.pace_seconds, jobsworth.provider, jobsworth.model, jobsworth.request_id,
  jobsworth.votes_needed, jobsworth.approvals_needed, jobsworth.metric, jobsworth.bytes,
  jobsworth.dimensions, jobsworth.chunker, jobsworth.chunk_no, jobsworth.start_offset,
  jobsworth.end_offset, jobsworth.name, jobsworth.platform, jobsworth.chat_id,
  jobsworth.environment, jobsworth.sha, jobsworth.source_kind, jobsworth.idempotency_key,
  jobsworth.extractor, jobsworth.trace_id, jobsworth.proposal_text, jobsworth.media_type,
  jobsworth.uri, jobsworth.url, jobsworth.step_name, jobsworth.asked_by, jobsworth.channel,
  jobsworth.created_by, jobsworth.decided_by,
  jobsworth.external_id, jobsworth.last_active_at, jobsworth.last_used_at, jobsworth.revoked_at,
  jobsworth.similarity_weight, jobsworth.recency_weight, jobsworth.importance_weight,
  jobsworth.half_life_seconds;
"""


def upgrade() -> None:
    run(cast(LiteralString, RELEASED.read_text()) if RELEASED.exists() else sources.script())


def downgrade() -> None:
    run(DOWN)
