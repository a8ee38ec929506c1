"""Log lines: their form, what they carry, and what they never show."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from worker import events, log
from worker.log_exceptions import CHARACTERS_MAX
from worker.masking import MASK


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class Broken(io.BytesIO):
    def write(self, *_data: object) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in log.QUIET_LIBRARIES}
    # basicConfig(force=True) closes the handlers it removes; pytest still needs its own.
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: log.Level = "info") -> io.BytesIO:
    stream = io.BytesIO()
    log.configure_logging(level, "json", stream)
    return stream


def test_away_from_a_terminal_a_line_is_json_with_a_utc_time_first():
    stream = io.BytesIO()
    log.configure_logging("info", "auto", stream)
    log.get_logger().info(events.JOBS_RELEASED, jobs=3)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "jobs"]
    assert (line["level"], line["event"], line["jobs"]) == ("info", "jobs.released", 3)
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_on_a_terminal_a_line_is_readable():
    stream = Terminal()
    log.configure_logging("info", "auto", stream)
    log.get_logger().info(events.JOBS_RELEASED, jobs=3)
    text = stream.getvalue().decode()
    assert "jobs.released" in text
    assert not text.startswith("{")


def test_json_can_be_had_on_a_terminal_and_readable_lines_elsewhere():
    terminal, file = Terminal(), io.BytesIO()
    log.configure_logging("info", "json", terminal)
    log.get_logger().info(events.DAEMON_READY)
    log.configure_logging("info", "console", file)
    log.get_logger().info(events.DAEMON_READY)
    assert lines(terminal)[0]["event"] == "daemon.ready"
    assert file.getvalue().endswith(b"daemon.ready\n")
    assert b"\x1b" not in file.getvalue()


def test_lines_below_the_level_are_not_written():
    stream = configured("warning")
    log.get_logger().info(events.JOBS_RELEASED)
    logging.getLogger("myapp").info("nothing")
    log.get_logger().warning(events.HEARTBEAT_MISSED)
    assert [line["event"] for line in lines(stream)] == ["heartbeat.missed"]


async def test_a_bound_job_is_named_by_its_task_its_threads_and_nobody_else():
    stream = configured()
    logger = log.get_logger()
    with log.job_bound(job_id="j-1", lease_no=7, mode="plan", trace_id="t"):
        await anyio.to_thread.run_sync(logging.getLogger("myapp").warning, "in a thread")
        logger.info(events.ATTEMPT_ENDED)
    logger.info(events.DAEMON_STOPPED)
    in_thread, inside, outside = lines(stream)
    for line in (in_thread, inside):
        assert (line["job_id"], line["lease_no"], line["mode"]) == ("j-1", 7, "plan")
        assert line["trace_id"] == "t"
    assert "job_id" not in outside


def test_values_that_are_somebodys_content_are_hidden():
    stream = configured()
    private = dict.fromkeys(log.PRIVATE_FIELDS, "hunter2")
    log.get_logger().info(events.ATTEMPT_ENDED, **private)
    assert b"hunter2" not in stream.getvalue()
    assert lines(stream)[0]["payload"] == "(hidden)"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hunter2@host/db",
        "host=x password=hunter2 user=y",
        "host=x password = 'hunter2 hunter2' user=y",
        "https://host/?user=y&password=hunter2&x=1",
    ],
)
@pytest.mark.parametrize("line_format", ["json", "console"])
def test_passwords_in_connection_strings_are_hidden(text: str, line_format: log.Format):
    stream = io.BytesIO()
    log.configure_logging("info", line_format, stream)
    log.get_logger().info(events.DATABASE_LOST, address=text)
    logging.getLogger("psycopg").warning("cannot reach %s", text)
    try:
        raise ConnectionError(f"cannot reach {text}")
    except ConnectionError:
        log.get_logger().exception(events.DATABASE_LOST)
    assert stream.getvalue().count(MASK.encode()) == 3
    assert b"hunter2" not in stream.getvalue()


def test_an_exception_is_structured_with_its_causes_and_without_its_values():
    stream = configured()
    payload = {"secret": "hunter2"}
    try:
        try:
            raise KeyError(len(payload))
        except KeyError as error:
            raise ValueError("no row\nDETAIL: Failing row contains (hunter2)") from error
    except ValueError:
        log.get_logger().exception(events.UPKEEP_FAILED)
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert [(link["exc_type"], link["exc_value"]) for link in line["exception"]] == [
        ("ValueError", "no row"),
        ("KeyError", "1"),
    ]
    assert b"hunter2" not in stream.getvalue()


def test_the_members_of_an_exception_group_are_as_discreet():
    stream = configured()
    try:
        raise ExceptionGroup("two", [ValueError("a\nhunter2"), TypeError("b\nhunter2")])
    except ExceptionGroup:
        log.get_logger().exception(events.UPKEEP_FAILED)
    group = lines(stream)[0]["exception"][0]
    assert [chain[0]["exc_value"] for chain in group["exceptions"]] == ["a", "b"]
    assert b"hunter2" not in stream.getvalue()


class Exits(Exception):
    def __str__(self) -> str:
        raise SystemExit(9)


def _own_cause() -> BaseException:
    error = ValueError("my own cause")
    error.__cause__ = error
    return error


def _chain() -> BaseException:
    error = ValueError("the first")
    for n in range(2_000):
        error, error.__context__ = ValueError(str(n)), error
    return error


def _deep_groups() -> BaseException:
    error: BaseException = ValueError("leaf")
    for _ in range(3_000):
        pair: list[BaseException] = [error, ValueError("beside")]
        error = BaseExceptionGroup("deeper", pair)
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x" * 10_000_000), "(10000000 characters)"),
        (Exits(), "without a text: its __str__ raised SystemExit"),
        (_own_cause(), "my own cause"),
        (_chain(), "1999"),
        (_deep_groups(), "deeper"),
        (ExceptionGroup("wide", [ValueError(str(n)) for n in range(5_000)]), "wide"),
    ],
    ids=["huge text", "one that exits", "its own cause", "a chain", "deep groups", "wide group"],
)
def test_any_exception_makes_one_short_line(error: BaseException, said: str):
    stream = configured()
    log.get_logger().error(events.UPKEEP_FAILED, exc_info=error)
    logging.getLogger("asyncio").error("in a callback", exc_info=error)
    for line in lines(stream):
        assert said in line["exception"][0]["exc_value"]
    assert len(stream.getvalue().splitlines()) == 2
    assert len(stream.getvalue()) < 50_000


def test_masking_does_not_read_what_is_cut(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []

    def measured(text: str) -> str:
        seen.append(len(text))
        return text

    monkeypatch.setattr("worker.log_exceptions.mask", measured)
    stream = configured()
    log.get_logger().error(events.UPKEEP_FAILED, error="x" * 10_000_000)
    assert max(seen) <= 2 * CHARACTERS_MAX
    assert "(10000000 characters)" in lines(stream)[0]["error"]


def test_a_line_that_cannot_be_formatted_says_so():
    stream = configured()
    logging.getLogger("myapp").error("%s", Exits())
    (line,) = lines(stream)
    assert line["event"] == "a line could not be written"
    assert "test_log.py" in line["where"]


def test_a_long_value_is_cut_and_its_length_told():
    stream = configured()
    log.get_logger().info(events.DAEMON_STARTED, note="x" * 10_000)
    assert lines(stream)[0]["note"] == "x" * CHARACTERS_MAX + "… (10000 characters)"


def test_lines_of_the_standard_module_have_the_same_form():
    stream = configured()
    logging.getLogger("myapp.jobs").info("fetched %d", 3)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "logger"]
    assert (line["event"], line["logger"]) == ("fetched 3", "myapp.jobs")


@pytest.mark.parametrize("library", log.QUIET_LIBRARIES)
def test_libraries_are_heard_from_warning_on(library: str):
    stream = configured("debug")
    logging.getLogger(library + ".part").info("chatter")
    logging.getLogger(library + ".part").warning("trouble")
    assert [line["event"] for line in lines(stream)] == ["trouble"]


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=5,
    )
)
def test_any_value_makes_one_line_of_json(value: object):
    stream = configured()
    log.get_logger().info(events.DAEMON_STARTED, value=value, big=2**80, broken="\ud800")
    (line,) = lines(stream)
    assert line["event"] == "daemon.started"


def test_a_broken_stream_stops_nobody():
    closed = io.BytesIO()
    closed.close()
    for sink in (log.LineSink(Broken()), log.LineSink(closed)):
        sink.info(b"lost")
        sink.error("lost")


def test_lines_of_many_threads_do_not_mix():
    stream = configured()
    logger = log.get_logger()
    threads = 8
    start = threading.Barrier(threads)

    def talk(number: int) -> None:
        start.wait(timeout=10)
        for _ in range(100):
            logger.info(events.ATTEMPT_ENDED, number=number)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(talk, range(threads)))
    assert len(lines(stream)) == threads * 100


CATALOGUE = {name: value for name, value in vars(events).items() if isinstance(value, str)}
NAMES = {name: value for name, value in CATALOGUE.items() if not name.startswith("__")}


@pytest.mark.parametrize("name", NAMES)
def test_an_event_is_spelt_like_its_constant_and_described(name: str):
    assert NAMES[name] == name.lower().replace("_", ".", 1)
    assert events.DESCRIPTIONS[NAMES[name]]


def test_nothing_is_described_that_is_no_event():
    assert set(events.DESCRIPTIONS) == set(NAMES.values())


LOGGER = log.get_logger()


@pytest.mark.parametrize("_", range(2))
def test_what_a_test_has_logged_elsewhere_hides_nothing_from_the_next_one(_: int) -> None:
    with capture_logs() as captured:
        LOGGER.info(events.DAEMON_READY)
    assert len(captured) == 1
    stream = configured()
    LOGGER.info(events.DAEMON_READY)
    assert len(lines(stream)) == 1
