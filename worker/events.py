"""The event catalogue: every event that Jobsworth logs, and its meaning.

Names are `noun.what_happened`, spelt like their constants. Invariant: every log call takes its
event from here, so this is the whole list of what an operator can search for and alert on.
"""

from typing import Final

DAEMON_STARTED: Final = "daemon.started"
DAEMON_READY: Final = "daemon.ready"
DAEMON_DRAINING: Final = "daemon.draining"
DAEMON_STOPPED: Final = "daemon.stopped"
DAEMON_FAILED: Final = "daemon.failed"
SETTINGS_REFUSED: Final = "settings.refused"
SCHEMA_REFUSED: Final = "schema.refused"
HANDLER_REFUSED: Final = "handler.refused"
HANDLER_MISSING: Final = "handler.missing"
SLOTS_STUCK: Final = "slots.stuck"
LOOP_BLOCKED: Final = "loop.blocked"
LOOP_FREED: Final = "loop.freed"
LOOP_STUCK: Final = "loop.stuck"
LOOP_BROKEN: Final = "loop.broken"
EXIT_REFUSED: Final = "exit.refused"
LEFTOVERS_DROPPED: Final = "leftovers.dropped"
RUNNER_BROKEN: Final = "runner.broken"
SIGNALS_TAKEN_BACK: Final = "signals.taken_back"
HEALTH_LISTENED: Final = "health.listened"
HEALTH_FAILED: Final = "health.failed"

DATABASE_LOST: Final = "database.lost"
DATABASE_RECOVERED: Final = "database.recovered"
LISTEN_REFUSED: Final = "listen.refused"
LISTEN_LOST: Final = "listen.lost"
LISTEN_RECOVERED: Final = "listen.recovered"

HEARTBEAT_MISSED: Final = "heartbeat.missed"
ATTEMPTS_STOPPED: Final = "attempts.stopped"
WORKER_REPLACED: Final = "worker.replaced"
JOBS_RESCUED: Final = "jobs.rescued"

CLAIM_FAILED: Final = "claim.failed"
ATTEMPT_ENDED: Final = "attempt.ended"
STEPS_NOT_MET: Final = "steps.not_met"
STEP_TYPE_CHANGED: Final = "step.type_changed"
ATTEMPT_LEASE_LOST: Final = "attempt.lease_lost"
ATTEMPTS_NOT_LOGGED: Final = "attempts.not_logged"
BATCH_RETRIED: Final = "batch.retried"
FILES_FEW: Final = "files.few"
CONNECTIONS_TAKEN: Final = "connections.taken"
BATCH_SPLIT: Final = "batch.split"
ENDINGS_DELAYED: Final = "endings.delayed"
JOBS_RELEASED: Final = "jobs.released"
DEPLOYMENT_PHASE_ENDED: Final = "deployment.phase_ended"
DEPLOYMENT_ENDED: Final = "deployment.ended"

TRANSACTIONS_ENDED: Final = "transactions.ended"
TIMERS_PROMOTED: Final = "timers.promoted"
SCHEDULE_FIRED: Final = "schedule.fired"
SCHEDULE_SKIPPED: Final = "schedule.skipped"
SCHEDULE_REFUSED: Final = "schedule.refused"
SCHEDULE_UNDECLARED: Final = "schedule.undeclared"
APPROVALS_EXPIRED: Final = "approvals.expired"
WEBHOOK_DELIVERED: Final = "webhook.delivered"
WEBHOOK_FAILED: Final = "webhook.failed"
WEBHOOK_ABANDONED: Final = "webhook.abandoned"
WEBHOOK_SWITCHED_OFF: Final = "webhook.switched_off"
ANSWER_CUT_SHORT: Final = "answer.cut_short"
CALLS_ABANDONED: Final = "calls.abandoned"
BUDGET_WARNED: Final = "budget.warned"
SPOOL_WRITTEN: Final = "spool.written"
SPOOL_DRAINED: Final = "spool.drained"
SPOOL_FAILED: Final = "spool.failed"
SPOOL_REFUSED: Final = "spool.refused"
CALL_USAGE_DOUBTED: Final = "call.usage_doubted"
LEDGER_CLOSED: Final = "ledger.closed"
UPKEEP_FAILED: Final = "upkeep.failed"
VIOLATIONS_FOUND: Final = "violations.found"

MEMORIES_HIDDEN: Final = "memories.hidden"
EMBEDDINGS_WRITTEN: Final = "embeddings.written"
EMBEDDER_FAILED: Final = "embedder.failed"
EMBEDDER_REFUSED: Final = "embedder.refused"

DESCRIPTIONS: Final[dict[str, str]] = {
    DAEMON_STARTED: "a worker process began; with its process id, version, queues and modes",
    DAEMON_READY: "the database answers, its schema is the right one, and claiming begins",
    DAEMON_DRAINING: "the worker was told to stop: it claims no more, running jobs may finish",
    DAEMON_STOPPED: "the process ends; with its exit code",
    DAEMON_FAILED: "the process ends because of an error that it cannot work around",
    SETTINGS_REFUSED: "the settings cannot be used; the daemon does not start",
    SCHEMA_REFUSED: "the database's schema is older or newer than this program",
    HANDLER_REFUSED: "a handler or its module cannot be used",
    HANDLER_MISSING: "queued jobs of modes that no worker knows now wait for a handler",
    SLOTS_STUCK: "attempts that do not end when told to hold every slot; the daemon exits",
    LOOP_BLOCKED: "a handler keeps the event loop from all other work; with its mode and stack",
    LOOP_FREED: "the event loop works again; with how long it stood still",
    LOOP_STUCK: "the event loop stood still for too long (JOBSWORTH_LOOP_BLOCK_SECONDS); the worker"
    " ends, and its jobs are rescued",
    LOOP_BROKEN: "a handler broke this process so that its event loop cannot run; the worker ends,"
    " and its jobs are rescued",
    EXIT_REFUSED: "code of a handler called sys.exit() or the like in the event loop: the worker"
    " goes on, and what awaits that task gets the exception",
    LEFTOVERS_DROPPED: "the process ends although tasks, threads or processes that handlers started"
    " and left do not",
    RUNNER_BROKEN: "a task that ran attempts ended with an error; the attempts have their outcomes",
    SIGNALS_TAKEN_BACK: "code of a handler had taken signals away; they reach the worker again",
    HEALTH_LISTENED: "the health and metrics endpoint is open; with its address",
    HEALTH_FAILED: "the health and metrics endpoint could not be opened",
    DATABASE_LOST: "statements fail; the daemon goes on trying",
    DATABASE_RECOVERED: "statements work again",
    LISTEN_REFUSED: "a pooler passes no notifications on; polling finds new jobs",
    LISTEN_LOST: "the connection for notifications ended; polling goes on",
    LISTEN_RECOVERED: "the connection for notifications is back",
    HEARTBEAT_MISSED: "a heartbeat failed; with the time since the last successful one",
    ATTEMPTS_STOPPED: "no heartbeat succeeded in time: this worker stopped its running jobs",
    WORKER_REPLACED: "this worker's row was gone; it goes on under a new worker id",
    JOBS_RESCUED: "jobs of dead workers were queued again, or failed after too many crashes",
    CLAIM_FAILED: "a claim failed; jobs that it may have taken are looked for",
    ATTEMPT_ENDED: "an attempt is over: its one canonical line, with its status and times",
    STEPS_NOT_MET: "a handler returned that did not meet steps which are recorded: are their names"
    " the same in each attempt?",
    STEP_TYPE_CHANGED: "a step is recorded with another type than its function says it returns",
    ATTEMPT_LEASE_LOST: "another attempt has the job now; this one wrote nothing",
    ATTEMPTS_NOT_LOGGED: "lines of successful attempts were left out; with their number",
    BATCH_RETRIED: "a batch of finishes failed because of the server, and is tried again",
    FILES_FEW: "this process may open too few files for its slots; with the limit to set",
    CONNECTIONS_TAKEN: "a model's HTTP client has no free connection; further requests wait",
    BATCH_SPLIT: "a batch of writes failed because of one of them; each is tried alone",
    ENDINGS_DELAYED: "the ends of jobs wait for a lock, or cannot be committed, not even as"
    " failures; the jobs keep their slots and are tried again, each alone",
    JOBS_RELEASED: "running jobs went back to the queue, without a counted try",
    DEPLOYMENT_PHASE_ENDED: "a phase of a deployment is recorded; with its outcome",
    DEPLOYMENT_ENDED: "a deployment is healthy, rolled back or failed",
    TRANSACTIONS_ENDED: "a stopped worker held rows in mid-statement; its transactions were ended",
    TIMERS_PROMOTED: "waiting jobs became queued because their time has come",
    SCHEDULE_FIRED: "a schedule enqueued a job or started a run",
    SCHEDULE_SKIPPED: "times of a schedule were skipped: nobody could fire them, or the job of an "
    "earlier one has not ended",
    SCHEDULE_REFUSED: "what a schedule enqueues was refused, or it can never fire",
    SCHEDULE_UNDECLARED: "schedules were paused because their handlers declare them no more",
    APPROVALS_EXPIRED: "approvals passed their deadline; their default was applied",
    WEBHOOK_DELIVERED: "a webhook accepted a delivery",
    WEBHOOK_FAILED: "a webhook did not accept a delivery; it is sent again later",
    WEBHOOK_ABANDONED: "a delivery is not sent again; a person can retry it",
    WEBHOOK_SWITCHED_OFF: "a webhook's receiver answered 410 (Gone): it is told nothing more",
    ANSWER_CUT_SHORT: "a model did not end its answer: it had no tokens left, or a filter cut it",
    CALLS_ABANDONED: "model calls of ended attempts were closed as unknown",
    BUDGET_WARNED: "a budget's window has reached its warning share; logged once for each window",
    SPOOL_WRITTEN: "the database did not take a paid answer in time: it is on this machine's disk",
    SPOOL_DRAINED: "paid answers that were on disk are settled in the database",
    SPOOL_FAILED: "a paid answer cannot be kept on disk; only the database can still take it",
    SPOOL_REFUSED: "a file in the spool cannot be used; it is left alone",
    CALL_USAGE_DOUBTED: "a provider did not report a call's usage, contradicted itself, or exceeded"
    " the estimate; the call is booked at its upper estimate or more",
    LEDGER_CLOSED: "days of the ledger up to this one are summed up; nothing can be added to them",
    UPKEEP_FAILED: "one round of a part of upkeep failed; the next comes at its time",
    VIOLATIONS_FOUND: "the violations view is not empty",
    MEMORIES_HIDDEN: "memories that another embedder made cannot be found by this worker's",
    EMBEDDINGS_WRITTEN: "texts were embedded and stored",
    EMBEDDER_FAILED: "the embedder did not answer; the texts are tried again later",
    EMBEDDER_REFUSED: "the embedder refused one text; it is tried again, ever more rarely",
}
