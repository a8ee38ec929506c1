-- The functions and views that are for everyone who has the right to use them, with one line for each: what
-- has a comment in the catalogue is public, all else is ours and may change. `\df+ jobsworth.*` shows them
-- in psql, and docs/sql.md is made of them.

comment on function jobsworth.enqueue is
  'Enqueue a job in your own transaction; returns its id, or that of the job that holds the unique key.';
comment on function jobsworth.enqueue_outcome is
  'What the call of enqueue with this id did: created, replaced or returned.';
comment on function jobsworth.submit is
  'Enqueue for a role that may do nothing else (jobsworth_enqueuer); returns the id.';
comment on function jobsworth.why is
  'Why a job is not running: reason, detail, and what would help.';
comment on function jobsworth.cancel is
  'Cancel a job: at once if it is not running, else when its attempt ends; returns its status.';
comment on function jobsworth.retry is
  'Give a failed or canceled job a fresh start, or run one that waits for a timer now; returns its status.';
comment on function jobsworth.send_signal is
  'Put a signal into a job''s mailbox (job.wait); with an id of yours, a repetition sends nothing more.';
comment on function jobsworth.of_request is
  'All that belongs to one request_id: messages, jobs, runs, calls, approvals, files; oldest first.';

comment on function jobsworth.decide_step is
  'Decide about an unsafe step that was begun and not recorded: done, with its output, or again.';

comment on function jobsworth.start_run is
  'Declare and start a run, a graph of jobs; returns its id. An idempotency key gives the same run again.';
comment on function jobsworth.upsert_run is
  'Find the run of an idempotency key or a trace, and change what is given; or make a draft that others fill.';
comment on function jobsworth.save_step is
  'Save a step of a run without a worker; false if it was saved already. Another output is refused.';
comment on function jobsworth.save_artifact is
  'Save a file of a run by content or address; returns its id. Another one of the same name is refused.';
comment on function jobsworth.run_stats is
  'The sums of a run: jobs by status, calls, tokens, cost, seconds.';
comment on function jobsworth.jobs_of_run is
  'The jobs of a run by node, with those that a fork reads from the runs before it.';
comment on function jobsworth.plan_fork is
  'What a fork would do with each node: run it, go on with it, or read what is done. Writes nothing.';
comment on function jobsworth.fork_run is
  'Go on from a node or step of a run with changed input, without doing the rest again; returns the new run.';
comment on function jobsworth.cancel_run is
  'Cancel a run and all its jobs, those that are added later too; returns its status.';
comment on function jobsworth.retry_run is
  'Run the failed, canceled and skipped jobs of a run again; returns how many.';
comment on function jobsworth.delete_run is
  'Delete a run that has ended, with its jobs and what belongs to them; books, messages and approvals stay.';

comment on function jobsworth.set_job_limit is
  'Set how many jobs run at once (slots) or start in a time (rate), in all, per queue, mode, or key; or change parts.';
comment on function jobsworth.remove_job_limit is
  'Remove a limit of jobs; those that wait for it go on.';
comment on function jobsworth.set_fair is
  'Start the jobs of a queue in turns of their fair keys, or in their order again.';
comment on function jobsworth.set_fair_weight is
  'Serve a key of a fair queue so many times as often as one with weight 1.';

comment on function jobsworth.schedule is
  'Enqueue a job, or start a run, by a cron expression, a period, or once; returns the schedule''s id.';
comment on function jobsworth.pause_schedule is
  'Fire a schedule no more until it is resumed.';
comment on function jobsworth.resume_schedule is
  'Fire a schedule again from now on; nothing is made up for.';
comment on function jobsworth.remove_schedule is
  'Remove a schedule and its history; what it has enqueued goes on.';

comment on function jobsworth.set_budget is
  'Make a budget, or change the one of that name; returns its id.';
comment on function jobsworth.raise_budget is
  'Give a budget another amount; waiting jobs that fit go on.';
comment on function jobsworth.reset_budget is
  'Begin a new window of a budget now, with nothing spent.';
comment on function jobsworth.remove_budget is
  'Switch a budget off; set_budget brings it back.';
comment on function jobsworth.set_rate_limit is
  'Set the requests and tokens a minute that all workers together send to a provider or model; null: no limit.';
comment on function jobsworth.spent is
  'What was spent in a time, by day, provider, model, mode, agent and scope.';

comment on function jobsworth.ask is
  'Ask people, for a program that is no handler; returns the approval''s id. With an id of yours it is asked once.';
comment on function jobsworth.decision is
  'How an approval stands: its status, and what was chosen by whom.';
comment on function jobsworth.resolve is
  'Vote on an approval; the last vote that is needed decides it, and the job that waits goes on.';
comment on function jobsworth.vote is
  'Vote for a role that may do nothing else (jobsworth_approver), on an approval of the transaction''s team.';

comment on function jobsworth.recent_threads is
  'The threads that spoke last, with how many messages of each role.';
comment on function jobsworth.recent_messages is
  'The last messages of a thread, newest first, without retracted ones.';
comment on function jobsworth.make_way is
  'Apply a thread''s policy before a message is inserted: the id to insert it with, and the message it is merged into.';

comment on function jobsworth.remember is
  'Remember a text, which a worker embeds after the commit; returns the memory''s id.';
comment on function jobsworth.supersede_memory is
  'Let a memory be superseded by another one, in your transaction.';
comment on function jobsworth.retract_memory is
  'Take a memory back: it is found no more.';
comment on function jobsworth.restore_memory is
  'Let a memory that was retracted or suspended be found again.';
comment on function jobsworth.retract_message is
  'Take a message back, and suspend what was remembered of it; returns how many memories.';

comment on function jobsworth.plan_erasure is
  'How many rows of each table would leave with a user, thread or session, or stay without words. Writes nothing.';

comment on view jobsworth.violations is
  'Every breach of an invariant of Jobsworth; empty, always.';
comment on view jobsworth.approvals_decided is
  'Each approval with the vote that closed it, if one did.';
comment on view jobsworth.environment_states is
  'What is live in each environment, and which deployment holds it.';
comment on view jobsworth.run_statistics is
  'run_stats of each run: give the id of one.';
comment on view jobsworth.recalls is
  'Which memories went into what a job did, best first, with the parts of each score.';
