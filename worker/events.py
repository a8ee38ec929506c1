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
THREAD_FAILED: Final = "thread.failed"
EXCEPTION_IGNORED: Final = "exception.ignored"
EXIT_REFUSED: Final = "exit.refused"
LEFTOVERS_DROPPED: Final = "leftovers.dropped"
RUNNER_BROKEN: Final = "runner.broken"
RESOURCE_BROKEN: Final = "resource.broken"
TRACES_LOST: Final = "traces.lost"
SIGNALS_TAKEN_BACK: Final = "signals.taken_back"
HEALTH_LISTENED: Final = "health.listened"
HEALTH_FAILED: Final = "health.failed"
REQUEST_FAILED: Final = "request.failed"

DATABASE_LOST: Final = "database.lost"
DATABASE_RECOVERED: Final = "database.recovered"
DATABASE_STARTED: Final = "database.started"
DATABASE_NOT_STARTED: Final = "database.not_started"
SQL_RAN: Final = "sql.ran"
LISTEN_REFUSED: Final = "listen.refused"
LISTEN_LOST: Final = "listen.lost"
LISTEN_RECOVERED: Final = "listen.recovered"

HEARTBEAT_MISSED: Final = "heartbeat.missed"
ATTEMPTS_STOPPED: Final = "attempts.stopped"
WORKER_REPLACED: Final = "worker.replaced"
JOBS_EXPIRED: Final = "jobs.expired"
JOBS_REMOVED: Final = "jobs.removed"
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
CALLS_UNRECORDED: Final = "calls.unrecorded"
CALL_USAGE_DOUBTED: Final = "call.usage_doubted"
LEDGER_CLOSED: Final = "ledger.closed"
UPKEEP_FAILED: Final = "upkeep.failed"
VIOLATIONS_FOUND: Final = "violations.found"

MEMORIES_HIDDEN: Final = "memories.hidden"
EMBEDDINGS_WRITTEN: Final = "embeddings.written"
EMBEDDER_FAILED: Final = "embedder.failed"
EMBEDDER_REFUSED: Final = "embedder.refused"
EMBEDDER_WAITS: Final = "embedder.waits"

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
    THREAD_FAILED: "a thread that a handler or a library started ended by an exception",
    EXCEPTION_IGNORED: "Python could not raise an exception, as in a destructor",
    EXIT_REFUSED: "code of a handler called sys.exit() or the like in the event loop: the worker"
    " goes on, and what awaits that task gets the exception",
    LEFTOVERS_DROPPED: "the process ends although tasks, threads or processes that handlers started"
    " and left do not",
    RUNNER_BROKEN: "a task that ran attempts ended with an error; the attempts have their outcomes",
    RESOURCE_BROKEN: "a resource of the worker (@worker_lifespan) failed while it was open, and is"
    " opened again; or it was not closed in time",
    TRACES_LOST: "the collector of traces and metrics is away or too slow: spans are dropped",
    SIGNALS_TAKEN_BACK: "code of a handler had taken signals away; they reach the worker again",
    HEALTH_LISTENED: "the health and metrics endpoint is open; with its address",
    HEALTH_FAILED: "the health and metrics endpoint could not be opened",
    REQUEST_FAILED: "a request of the HTTP API met an error of its own; with its id",
    DATABASE_LOST: "statements fail; the daemon goes on trying",
    DATABASE_RECOVERED: "statements work again",
    DATABASE_STARTED: "the embedded database had ended and was started again",
    DATABASE_NOT_STARTED: "the embedded database has ended and does not start; tried again",
    SQL_RAN: "a statement, without its values, and the seconds it took (JOBSWORTH_SQL_ECHO)",
    LISTEN_REFUSED: "a pooler passes no notifications on; polling finds new jobs",
    LISTEN_LOST: "the connection for notifications ended; polling goes on",
    LISTEN_RECOVERED: "the connection for notifications is back",
    HEARTBEAT_MISSED: "a heartbeat failed; with the time since the last successful one",
    ATTEMPTS_STOPPED: "no heartbeat succeeded in time: this worker stopped its running jobs",
    WORKER_REPLACED: "this worker's row was gone; it goes on under a new worker id",
    JOBS_EXPIRED: "jobs that had not started by their expires_at were canceled",
    JOBS_REMOVED: "jobs and runs that had been kept long enough were removed, by retention rules",
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
    CALLS_UNRECORDED: "what models are asked cannot be kept to be read; the calls are not affected",
    CALL_USAGE_DOUBTED: "a provider did not report a call's usage, contradicted itself, or exceeded"
    " the estimate; the call is booked at its upper estimate or more",
    LEDGER_CLOSED: "days of the ledger up to this one are summed up; nothing can be added to them",
    UPKEEP_FAILED: "one round of a part of upkeep failed; the next comes at its time",
    VIOLATIONS_FOUND: "the violations view is not empty",
    MEMORIES_HIDDEN: "memories that another embedder made cannot be found by this worker's",
    EMBEDDINGS_WRITTEN: "texts were embedded and stored",
    EMBEDDER_FAILED: "the embedder did not answer; the texts are tried again later",
    EMBEDDER_REFUSED: "the embedder refused one text; it is tried again, ever more rarely",
    EMBEDDER_WAITS: "texts wait to be embedded: a budget or a limit has no room for them",
}

OF_ATTEMPTS: Final = (
    *("job_id", "lease_no", "mode", "queue", "attempt", "status", "outcome", "waited_ms"),
    *("took_ms", "trace_id"),
)
# What every line of an event says, whatever else it has.
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    DAEMON_STARTED: (
        "modes",
        "pid",
        "queues",
        "slots",
        "version",
    ),
    DAEMON_READY: ("schema",),
    DAEMON_DRAINING: ("running",),
    DAEMON_STOPPED: ("exit_code",),
    DAEMON_FAILED: (
        "error",
        "remedy",
    ),
    SETTINGS_REFUSED: ("problems",),
    SCHEMA_REFUSED: (
        "error",
        "remedy",
    ),
    HANDLER_REFUSED: (
        "file",
        "reason",
        "remedy",
    ),
    HANDLER_MISSING: ("modes",),
    SLOTS_STUCK: (
        "modes",
        "slots",
    ),
    LOOP_BLOCKED: (
        "job_id",
        "mode",
        "remedy",
        "seconds",
        "stack",
    ),
    LOOP_FREED: ("seconds",),
    LOOP_STUCK: ("seconds",),
    LOOP_BROKEN: ("error",),
    EXIT_REFUSED: (
        "error",
        "where",
    ),
    LEFTOVERS_DROPPED: ("leftovers",),
    RUNNER_BROKEN: ("error",),
    RESOURCE_BROKEN: (
        "error",
        "resource",
    ),
    TRACES_LOST: ("error",),
    SIGNALS_TAKEN_BACK: (
        "modes",
        "signals",
    ),
    HEALTH_LISTENED: ("url",),
    HEALTH_FAILED: (
        "reason",
        "remedy",
    ),
    REQUEST_FAILED: (
        "request_id",
        "error",
    ),
    DATABASE_LOST: (
        "error",
        "remedy",
    ),
    DATABASE_STARTED: ("data_dir",),
    DATABASE_NOT_STARTED: (
        "error",
        "remedy",
    ),
    LISTEN_REFUSED: ("remedy",),
    LISTEN_LOST: ("error",),
    HEARTBEAT_MISSED: (
        "age_seconds",
        "error",
    ),
    ATTEMPTS_STOPPED: (
        "jobs",
        "reason",
    ),
    WORKER_REPLACED: (
        "new",
        "old",
    ),
    JOBS_EXPIRED: ("jobs",),
    JOBS_REMOVED: ("jobs", "runs"),
    JOBS_RESCUED: (
        "failed",
        "job_ids",
        "jobs",
    ),
    CLAIM_FAILED: ("error",),
    ATTEMPT_ENDED: OF_ATTEMPTS,
    STEPS_NOT_MET: (
        "mode",
        "names",
        "steps",
    ),
    STEP_TYPE_CHANGED: (
        "declared",
        "step",
    ),
    ATTEMPT_LEASE_LOST: OF_ATTEMPTS,
    ATTEMPTS_NOT_LOGGED: ("attempts",),
    BATCH_RETRIED: (
        "error",
        "jobs",
        "tries",
    ),
    FILES_FEW: (
        "open_files",
        "remedy",
        "slots",
    ),
    CONNECTIONS_TAKEN: (
        "connections",
        "model",
    ),
    BATCH_SPLIT: ("error",),
    ENDINGS_DELAYED: (
        "error",
        "job_id",
        "jobs",
        "seconds",
    ),
    JOBS_RELEASED: ("jobs",),
    DEPLOYMENT_PHASE_ENDED: (
        "detail",
        "environment",
        "passed",
        "phase",
    ),
    DEPLOYMENT_ENDED: (
        "environment",
        "reason",
        "sha",
        "status",
    ),
    TRANSACTIONS_ENDED: ("transactions",),
    TIMERS_PROMOTED: ("jobs",),
    SCHEDULE_FIRED: (
        "at",
        "job_id",
        "missed",
        "run_id",
        "schedule",
    ),
    SCHEDULE_SKIPPED: (
        "reason",
        "schedule",
        "times",
    ),
    SCHEDULE_REFUSED: (
        "error",
        "remedy",
        "schedule",
    ),
    SCHEDULE_UNDECLARED: ("schedules",),
    APPROVALS_EXPIRED: ("approvals",),
    WEBHOOK_DELIVERED: (
        "delivery_id",
        "tells",
    ),
    WEBHOOK_SWITCHED_OFF: ("webhook_id",),
    ANSWER_CUT_SHORT: (
        "finish_reason",
        "model",
    ),
    CALLS_ABANDONED: ("calls",),
    BUDGET_WARNED: ("budget",),
    SPOOL_WRITTEN: (
        "call_id",
        "file",
        "job_id",
    ),
    SPOOL_DRAINED: ("calls",),
    SPOOL_FAILED: (
        "call_id",
        "folder",
        "reason",
        "remedy",
    ),
    SPOOL_REFUSED: (
        "file",
        "reason",
        "remedy",
    ),
    LEDGER_CLOSED: ("day",),
    UPKEEP_FAILED: (
        "error",
        "part",
    ),
    VIOLATIONS_FOUND: ("violations",),
    EMBEDDINGS_WRITTEN: (
        "model",
        "seconds",
        "texts",
    ),
    EMBEDDER_FAILED: ("error",),
    EMBEDDER_REFUSED: (
        "delay_seconds",
        "error",
        "memory_id",
        "tries",
    ),
}
