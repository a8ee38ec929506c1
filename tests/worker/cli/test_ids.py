"""An id is given whole, by its beginning or by its end."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import InvalidInput, NotFound
from tests.support import run_cli
from tests.worker.cli.support import cli_json, insert_approval, insert_job
from worker.cli.terminal import ids
from worker.cli.terminal.exit_codes import ExitCode

TWINS = [f"01234567-89ab-7000-8000-000000{n}abcd" for n in (11, 22)]


@pytest.mark.parametrize("part", ["000011abcd", "11ABCD", "8000-00000011abcd", TWINS[0]])
def test_the_end_of_an_id_names_one_of_those_that_begin_alike(database_url: str, part: str) -> None:
    for twin in TWINS:
        insert_job(database_url, twin)
    assert cli_json(database_url, "why", part)["id"] == TWINS[0]


def test_several_ids_with_one_beginning_or_end_are_listed(database_url: str) -> None:
    other = "99999999-0000-7000-8000-000001234567"
    for each in (*TWINS, other):
        insert_job(database_url, each)
    ended = run_cli("job", "cancel", "01234567", url=database_url)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "3 jobs have an id that begins or ends with 01234567" in ended.stderr
    for each in (*TWINS, other):
        assert each in ended.stderr
    assert {job["status"] for job in cli_json(database_url, "jobs")} == {"queued"}


def test_runs_and_approvals_are_found_by_their_end(database_url: str) -> None:
    approval_id = insert_approval(database_url)
    shown = cli_json(database_url, "approval", "show", approval_id[-12:])
    assert shown["id"] == approval_id
    nodes = '[{"node": "a", "mode": "m"}]'
    run_id = cli_json(database_url, "run", "start", "-", stdin=nodes)["id"]
    assert cli_json(database_url, "run", "show", run_id[-12:])["run"]["id"] == run_id


def test_webhooks_are_found_among_the_few_there_are(database_url: str) -> None:
    hosts = {"JOBSWORTH_WEBHOOK_HOSTS": "example.org"}
    added = cli_json(database_url, "webhook", "add", "https://example.org/", env=hosts)
    unknown = run_cli("webhook", "remove", "abcdef", url=database_url)
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "list them: jobsworth webhook list" in unknown.stderr
    removed = cli_json(database_url, "webhook", "remove", added["id"][-12:])
    assert removed == {"id": added["id"], "removed": True}


@given(st.uuids(), st.integers(min_value=ids.DIGITS_MIN, max_value=ids.UUID_DIGITS))
def test_every_part_of_an_id_is_read_with_and_without_hyphens(whole: UUID, length: int) -> None:
    end = ids.typed(whole.hex[-length:], "job")
    assert str(whole).endswith(end.end)
    assert end.end.replace("-", "") == whole.hex[-length:]
    begin = ids.typed(whole.hex[:length].upper(), "job")
    assert begin.lowest <= whole <= begin.highest
    assert ids.find_among(end, [whole], "list") == whole
    assert ids.find_among(begin, [whole], "list") == whole


def test_an_id_that_fits_several_or_none_is_refused() -> None:
    known = [UUID(twin) for twin in TWINS]
    with pytest.raises(ids.AmbiguousId) as ambiguous:
        ids.find_among(ids.typed("01234567", "webhook"), known, "list")
    assert ambiguous.value.candidates == tuple(known)
    with pytest.raises(NotFound):
        ids.find_among(ids.typed("ffffff", "webhook"), known, "list")
    for text in ("", "12345", "xyz-xyz", "0" * 33):
        with pytest.raises(InvalidInput):
            ids.typed(text, "webhook")
