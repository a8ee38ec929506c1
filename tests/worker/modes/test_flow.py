"""Conversations through a real worker on a real database."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.support import WorkerProcess, Workers, connect, until_sync
from tests.worker.deployments.pipeline.support import commit, make_repository, serve
from worker.modes import offline

OFFLINE = "offline:rules-1"
LOG_LINES_SHOWN = 30
# On a machine that does much else, loading what agents need takes its time.
FIRST_JOB_SECONDS = 60.0


class Chat:
    """A worker, and a thread to talk to it in."""

    def __init__(self, connection: psycopg.Connection[DictRow], worker: WorkerProcess) -> None:
        self.connection = connection
        self.worker = worker
        self.thread_id = self.open_thread()

    def open_thread(self) -> UUID:
        row = self.connection.execute(
            "insert into jobsworth.chat_threads (platform, chat_id) values ('test', %s) "
            "returning id",
            [uuid4().hex],
        ).fetchone()
        assert row
        return row["id"]

    def say(self, text: str, thread_id: UUID | None = None) -> UUID:
        """A message and its classify job, in one commit."""
        thread = thread_id or self.thread_id
        with self.connection.transaction():
            row = self.connection.execute(
                "insert into jobsworth.chat_messages (thread_id, role, text) "
                "values (%s, 'user', %s) returning id",
                [thread, text],
            ).fetchone()
            assert row
            self.connection.execute(
                "select jobsworth.enqueue('classify', thread_id => %s, trigger_message_id => %s)",
                [thread, row["id"]],
            )
        return row["id"]

    def jobs(self, message_id: UUID) -> list[DictRow]:
        return self.connection.execute(
            "select id, mode, status::text, waiting_for::text, result, error "
            "from jobsworth.reactive_jobs where trigger_message_id = %s order by id",
            [message_id],
        ).fetchall()

    def modes(self, message_id: UUID) -> list[tuple[str, str]]:
        return [(job["mode"], job["status"]) for job in self.jobs(message_id)]

    def answers(self, thread_id: UUID | None = None) -> list[DictRow]:
        return self.connection.execute(
            "select text, model, input_tokens, output_tokens, job_id "
            "from jobsworth.chat_messages where thread_id = %s and role = 'assistant' order by id",
            [thread_id or self.thread_id],
        ).fetchall()

    def until_finished(self, seconds: float = FIRST_JOB_SECONDS) -> None:
        self.until(lambda: not self.unfinished(), seconds)

    def until(self, check: Callable[[], object], seconds: float = FIRST_JOB_SECONDS) -> None:
        """Wait for it; what waited in vain tells what hangs, and what the worker logged last."""
        try:
            until_sync(check, seconds)
        except AssertionError as late:
            log = "\n".join(self.worker.lines[-LOG_LINES_SHOWN:])
            raise AssertionError(f"{self.hanging()}\n{log}") from late

    def unfinished(self) -> Sequence[DictRow]:
        return self.connection.execute(
            "select id, mode, status, waiting_for from jobsworth.reactive_jobs "
            "where finished_at is null"
        ).fetchall()

    def hanging(self) -> str:
        """Each open job with its reason."""
        rows = self.connection.execute(
            "select j.mode, w.status, w.reason, w.detail from jobsworth.reactive_jobs j "
            "cross join lateral jobsworth.why(j.id) w where j.finished_at is null"
        ).fetchall()
        return "; ".join(" ".join(str(value) for value in row.values()) for row in rows)

    def until_asked(self) -> DictRow:
        def asked() -> DictRow | None:
            return self.connection.execute(
                "select a.id, a.proposal_text, a.shown from jobsworth.approvals a "
                "join jobsworth.reactive_jobs j on j.id = a.job_id "
                "where a.status = 'pending' and j.waiting_for = 'approval'"
            ).fetchone()

        self.until(asked)
        row = asked()
        assert row
        return row

    def decide(self, option: str, comment: str | None = None) -> None:
        self.connection.execute(
            "select jobsworth.resolve(%s, %s, 'Ada', 'test', %s)",
            [self.until_asked()["id"], option, comment],
        )

    def one(self, query: str, *values: Any) -> Any:
        row = self.connection.execute(query, values).fetchone()  # pyright: ignore[reportArgumentType]
        return None if row is None else next(iter(row.values()))


@pytest.fixture
def chat(database_url: str, workers: Workers) -> Iterator[Chat]:
    worker = workers.start(database_url)
    with connect(database_url) as connection:
        yield Chat(connection, worker)


def test_a_question_is_classified_and_answered_out_of_the_thread(chat: Chat) -> None:
    chat.say("The shop opens at nine.")
    question = chat.say("When does the shop open?")
    chat.until_finished()
    assert chat.modes(question) == [("classify", "done"), ("answer", "done")]
    last = chat.answers()[-1]
    assert last["text"] == "From this thread: “The shop opens at nine.”"
    assert last["model"] == OFFLINE


def test_every_use_of_the_model_is_a_settled_call_of_cost_nothing(chat: Chat) -> None:
    question = chat.say("When does the shop open?")
    chat.until_finished()
    calls = chat.connection.execute(
        "select mode, provider, model, status::text, usage_source::text, cost, price_version, "
        "input_tokens, output_tokens, estimated_output_tokens from jobsworth.llm_calls order by id"
    ).fetchall()
    assert [call["mode"] for call in calls] == ["classify", "answer"]
    for call in calls:
        assert (call["provider"], call["model"]) == ("offline", "rules-1")
        assert (call["status"], call["usage_source"]) == ("ok", "provider")
        assert (call["cost"], call["price_version"]) == (0, OFFLINE)
        assert 0 < call["output_tokens"] <= call["estimated_output_tokens"]
    answer = chat.answers()[-1]
    assert (answer["input_tokens"], answer["output_tokens"]) == (
        calls[-1]["input_tokens"],
        calls[-1]["output_tokens"],
    )
    assert answer["job_id"] == chat.jobs(question)[-1]["id"]


def test_an_exchange_is_remembered_across_threads(chat: Chat) -> None:
    chat.say("Remember that the door code is 4711.")
    chat.until_finished()
    until_sync(lambda: chat.one("select count(*) from jobsworth.embeddings"), what="embedded")
    other = chat.open_thread()
    chat.say("What is the door code?", other)
    chat.until_finished()
    assert chat.answers(other)[-1]["text"] == "I remember: “Remember that the door code is 4711.”"


def test_an_approved_plan_is_executed_as_it_was_shown(chat: Chat) -> None:
    message = chat.say("Please draft a newsletter about the sale.")
    asked = chat.until_asked()
    chat.decide("approve")
    chat.until_finished()
    assert chat.modes(message) == [("classify", "done"), ("plan", "done"), ("execute", "done")]
    execute = chat.one(
        "select payload from jobsworth.reactive_jobs where mode = 'execute' and thread_id = %s",
        chat.thread_id,
    )
    assert execute == {"plan": asked["shown"]}
    written, done = (row["text"] for row in chat.answers())
    assert written.startswith("Plan: draft a newsletter about the sale\n1. ")
    assert done.startswith("Done: draft a newsletter about the sale\n1. ")
    content = chat.one("select convert_from(content, 'utf8') from jobsworth.artifacts")
    assert content.startswith("# Draft: a newsletter about the sale")
    steps = chat.connection.execute(
        "select s.name from jobsworth.steps s join jobsworth.reactive_jobs j on j.id = s.job_id "
        "where j.mode = 'execute' and s.kind <> 'recall' order by s.started_at"
    ).fetchall()
    assert [step["name"] for step in steps] == [
        "execute/request 1",
        "1 search",
        "execute/request 2",
        "2 save",
        "execute/request 3",
        "3 note",
        "execute/request 4",
    ]


def test_a_plan_costs_nothing_while_nobody_decides(chat: Chat) -> None:
    message = chat.say("Please draft a newsletter.")
    chat.until_asked()
    job = chat.jobs(message)[-1]
    assert (job["status"], job["waiting_for"]) == ("waiting", "approval")
    question = chat.say("When is the sale?")
    until_sync(
        lambda: chat.modes(question) == [("classify", "done"), ("answer", "done")],
        what="the thread goes on",
    )
    assert chat.jobs(message)[-1]["waiting_for"] == "approval"


def test_a_rejected_plan_does_nothing_and_says_why(chat: Chat) -> None:
    message = chat.say("Please draft a newsletter.")
    chat.decide("reject", "not now")
    chat.until_finished()
    assert chat.modes(message) == [("classify", "done"), ("plan", "done")]
    assert chat.answers()[-1]["text"] == "The plan was rejected (not now). Nothing was done."
    assert chat.one("select count(*) from jobsworth.llm_calls where mode = 'plan'") == 1


def test_a_plan_that_cannot_be_carried_out_stops_and_says_why(chat: Chat) -> None:
    message = chat.say("Please deploy 0123456 to nowhere.")
    chat.decide("approve")
    chat.until_finished()
    execute = chat.jobs(message)[-1]
    assert (execute["mode"], execute["status"]) == ("execute", "done")
    assert execute["result"]["completed"] is False
    said = chat.answers()[-1]["text"]
    assert said.startswith("Stopped: deploy 0123456 to nowhere")
    assert "could not deploy:" in said
    assert said.endswith("The last one was not done.")


def test_a_plan_deploys_a_real_commit(database_url: str, workers: Workers, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "site")
    sha = commit(repository, {"health": "200"})
    broken = commit(repository, {"health": "500"})
    with serve(tmp_path / "releases" / "staging") as url, connect(database_url) as connection:
        (tmp_path / "deploy.toml").write_text(
            f'[environments.staging]\nrepository = "{repository}"\n'
            f'[environments.staging.probe]\nurl = "{url}/health"\nattempts = 1\n'
        )
        worker = workers.start(
            database_url,
            {
                "JOBSWORTH_DEPLOY_FILE": str(tmp_path / "deploy.toml"),
                "JOBSWORTH_RELEASES_DIR": str(tmp_path / "releases"),
            },
        )
        chat = Chat(connection, worker)
        for commit_sha in (sha, broken):
            chat.say(f"Deploy {commit_sha} to staging")
            chat.decide("approve")
            chat.until_finished()
        rows = connection.execute(
            "select sha, status::text from jobsworth.deployments order by id"
        ).fetchall()
        alone = connection.execute(
            "select jobsworth.enqueue('deploy', %s) as id",
            [Jsonb({"environment": "staging", "sha": broken})],
        ).fetchone()
        assert alone
        chat.until_finished()
        failed = connection.execute(
            "select status::text, failures, error from jobsworth.reactive_jobs where id = %s",
            [alone["id"]],
        ).fetchone()
        said = [row["text"] for row in chat.answers()]
    assert [(row["sha"], row["status"]) for row in rows] == [
        (sha, "healthy"),
        (broken, "rolled_back"),
    ]
    assert f"Deploy {sha} to staging: healthy" in said[1]
    assert f"Deploy {broken} to staging: rolled_back" in said[3]
    assert failed
    assert (failed["status"], failed["failures"]) == ("failed", 1)
    assert "rolled back" in failed["error"]


ODD_TEXTS = {
    "empty": "",
    "space": " \n ",
    "nul": "a\u2400b",
    "emoji": "🙂" * 50,
    "huge": "x" * 100_000,
    "rtl": "שלום עולם",
    "bidi": "\u202e\u2066a\u2069",
    "quotes": "'; drop table %s {} \\",
}


def test_odd_messages_are_answered(chat: Chat) -> None:
    threads = {name: chat.open_thread() for name in ODD_TEXTS}
    sent = {name: chat.say(text, threads[name]) for name, text in ODD_TEXTS.items()}
    chat.until_finished()
    for name, message in sent.items():
        assert chat.modes(message) == [("classify", "done"), ("answer", "done")], name
        assert len(chat.answers(threads[name])) == 1, name


def test_a_text_without_a_thread_is_answered_in_the_result(chat: Chat) -> None:
    job_id = chat.one(
        "select jobsworth.enqueue('answer', %s)", Jsonb({"text": "What is the door code?"})
    )
    chat.until_finished()
    result = chat.one("select result from jobsworth.reactive_jobs where id = %s", job_id)
    assert result["text"].startswith(offline.NOTHING)


def test_a_job_about_nothing_fails_for_good_and_says_what_it_needs(chat: Chat) -> None:
    for mode in ("classify", "answer", "plan"):
        chat.one("select jobsworth.enqueue(%s)", mode)
    chat.until_finished()
    rows = chat.connection.execute(
        "select status::text, failures, error from jobsworth.reactive_jobs"
    ).fetchall()
    assert len(rows) == 3
    for row in rows:
        assert (row["status"], row["failures"]) == ("failed", 1)
        assert "trigger_message_id" in row["error"]


def test_a_plan_that_is_none_is_refused_with_the_field(chat: Chat) -> None:
    job_id = chat.one(
        "select jobsworth.enqueue('execute', %s)",
        Jsonb({"plan": {"title": "t", "steps": [{"kind": "explode"}]}}),
    )
    chat.until_finished()
    error = chat.one("select error from jobsworth.reactive_jobs where id = %s", job_id)
    assert "plan.steps.0" in error


WORDS = "please deploy plan write find remember what when is the tea 0123456 to staging . ? ! 🙂"
words = st.sampled_from(WORDS.split())
conversations = st.lists(
    st.one_of(st.lists(words, max_size=12).map(" ".join), st.text(max_size=60)),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(conversations)
def test_any_conversation_ends(chat: Chat, conversation: list[str]) -> None:
    """Whatever is said and whatever is decided, each message gets its answer or its plan."""
    thread = chat.open_thread()
    said = [
        chat.say(text.replace("\0", "").encode(errors="replace").decode(), thread)
        for text in conversation
    ]

    def settled() -> bool:
        chat.connection.execute(
            "select jobsworth.resolve(a.id, case when length(a.proposal_text) %% 2 = 0 "
            "then 'approve' else 'reject' end, 'Ada') "
            "from jobsworth.approvals a where a.status = 'pending'",
            [],
        )
        return not chat.unfinished()

    chat.until(settled)
    for message in said:
        modes = chat.modes(message)
        assert modes[0] == ("classify", "done")
        assert modes[1] in [("answer", "done"), ("plan", "done")]
        assert all(status == "done" for _, status in modes)
