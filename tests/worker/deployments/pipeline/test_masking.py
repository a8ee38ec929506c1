"""No configured secret survives, however its bytes are split and wherever they are cut; common
secrets that nobody configured are known by their looks."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg.sql import SQL, Identifier

from db.pool import Database
from tests.support import connect
from tests.worker.deployments.pipeline.conftest import Site
from tests.worker.job_api import JobApi
from worker.deployments.pipeline import masker_of
from worker.deployments.pipeline.commands import OutputTail
from worker.deployments.pipeline.errors import SecretMissing
from worker.deployments.pipeline.secret_variables import secret_variables
from worker.masking import MASK, Masker

SECRET = "s3cr3t/va+lue é"
secrets = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=["Cs", "Cc", "Zs"]),
    min_size=6,
    max_size=40,
)


@given(st.lists(secrets, min_size=1, max_size=3), st.lists(st.binary(max_size=30)), st.data())
def test_no_secret_survives_wherever_the_stream_is_split_and_cut(
    known: list[str], noise: list[bytes], data: st.DataObject
) -> None:
    pieces: list[bytes] = [*noise, *(secret.encode() for secret in known)]
    stream = b"".join(data.draw(st.permutations(pieces * 2)))
    assume(not any(MASK[0] in secret for secret in known))
    masker = Masker(known)
    # So that what is kept is cut within what hypothesis can draw.
    masker.margin = max(len(secret.encode()) for secret in known) * 6
    bytes_max = data.draw(st.integers(1, len(stream) + 1))
    tail = OutputTail(bytes_max, masker)
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, 40))
        tail.add(stream[at : at + size])
        at += size
    text = tail.text()
    assert len(text.encode()) <= bytes_max
    for secret in known:
        assert secret not in text


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 440))
def test_not_even_a_part_of_a_secret_is_left_where_the_output_was_cut(
    before: bytes, after: bytes, bytes_max: int
) -> None:
    secret = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    masker = Masker([secret])
    masker.margin = len(secret)
    tail = OutputTail(bytes_max + 1, masker)
    clean = re.compile(rb"[A-Z]")
    tail.add(clean.sub(b"", before) + secret.encode() + clean.sub(b"", after))
    assert not re.search(r"[A-Z]", tail.text())


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        json.dumps(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        *(base64.b64encode(f"{user}:{SECRET}".encode()).decode() for user in ("me", "you", "them")),
        "\n".join(re.findall(".{1,5}", base64.b64encode(SECRET.encode()).decode())),
        "\r\n".join(re.findall(".{1,7}", SECRET * 2)),
        f"x{SECRET}{SECRET}y",
    ],
)
def test_a_secret_is_known_in_the_forms_that_programs_print(form: str) -> None:
    masked = Masker([SECRET]).mask(f"before {form} after")
    assert MASK in masked
    assert "cr3t" not in masked
    assert base64.b64encode(SECRET.encode()).decode()[3:12] not in masked
    assert base64.b64encode(f"you:{SECRET}".encode()).decode()[6:18] not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")


def test_each_line_of_a_secret_of_many_lines_is_masked() -> None:
    masked = Masker(["-----BEGIN\nfirst-line\nsecond-line"]).mask("+ first-line\n+ second-line\n")
    assert masked == f"+ {MASK}\n+ {MASK}\n"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("> Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("curl -H 'Authorization: Bearer abc.def.ghi123'", "abc.def.ghi123"),
        ("fetching https://me:hunter2@git.example.org/a.git", "hunter2"),
        ("remote: ghp_0123456789abcdefghijABCDEFGHIJ012345", "ghp_0123"),
        ("key sk-proj-0123456789abcdefghij is wrong", "sk-proj"),
        ("export AWS_SECRET_ACCESS_KEY=abcdEFGH1234", "abcdEFGH1234"),
        ('{"password": "correct horse"}', "correct"),
        ("id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\nand then head -2 ended it", "MIIE"),
    ],
)
def test_a_common_secret_is_recognised_by_its_pattern(text: str, secret: str) -> None:
    masked = Masker().mask(text)
    assert secret not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "error: unexpected token ')' in line 3",
        "https://example.org/a@b",
        "3 passed, tokens: 14",
        "Secret santa deployed to staging",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert Masker().mask(text) == text


def test_the_variables_that_are_listed_or_named_so_are_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOY_KEY", "from-the-worker")
    variables = {"NODE_ENV": "production", "DB_PASSWORD": "hunter2hunter2", "MOTTO": "listed-one"}
    environment = site.environment(secrets=["DEPLOY_KEY", "MOTTO"], environment=variables)
    assert secret_variables(environment) == {"DEPLOY_KEY": "from-the-worker", "MOTTO": "listed-one"}
    said = masker_of(environment).mask("from-the-worker hunter2hunter2 listed-one production")
    assert said == f"{MASK} {MASK} {MASK} production"


@pytest.mark.parametrize(("value", "reason"), [(None, "not set"), ("short", "too short")])
async def test_a_secret_without_a_value_fails_the_job_before_anything_is_begun(
    api: JobApi, site: Site, monkeypatch: pytest.MonkeyPatch, value: str | None, reason: str
) -> None:
    if value is not None:
        monkeypatch.setenv("DEPLOY_KEY", value)
    environment = site.environment(secrets=["DEPLOY_KEY"])
    with pytest.raises(SecretMissing, match=f"DEPLOY_KEY, which is {reason}"):
        masker_of(environment)
    job = await api.run("deploy", {"environment": "staging", "sha": site.commit()})
    assert f"DEPLOY_KEY, which is {reason}" in (job.error or "")
    assert await api.value("select count(*) from jobsworth.deployments") == 0


@pytest.mark.parametrize("broken", [None, "build", "test", "switch", "probe"])
async def test_no_stored_column_has_a_secret_whichever_phase_prints_it_and_fails(
    api: JobApi,
    site: Site,
    database: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str | None,
) -> None:
    monkeypatch.setenv("DEPLOY_KEY", SECRET)

    def command(phase: str, more: str = ":") -> list[str]:
        end = "exit 1" if phase == broken else "exit 0"
        # In two writes, and in a form of its own.
        script = (
            f"printf 's3cr3t/va'; sleep 0.05; printf '+lue é\\n'; echo $DEPLOY_KEY >&2; {more}; "
        )
        return ["sh", "-c", script + end, "sh", "{release}", "{previous}"]

    keys = {
        "secrets": ["DEPLOY_KEY"],
        "build": command("build"),
        "test": command("test"),
        "switch": command("switch", 'ln -sfn "$1" ../current'),
        "rollback": command("rollback", 'ln -sfn "$2" ../current'),
    }
    site.environment(**keys)
    text = (site.directory / "deploy.toml").read_text()
    probe = json.dumps(command("probe"))
    text = re.sub(r'url = "[^"]*"', lambda _: f"command = {probe}", text)
    (site.directory / "deploy.toml").write_text(text)
    await api.run("deploy", {"environment": "staging", "sha": site.commit()})
    logs = await api.rows("select name, content from jobsworth.artifacts order by name")
    names = {log["name"] for log in logs}
    ran = ["build", "test", "switch", "probe"]
    ran = ran[: ran.index(broken) + 1] if broken else ran
    assert names >= {f"deploy/staging/{phase}.log" for phase in ran}
    assert all(MASK in log["content"].decode() for log in logs)
    stored = await everything(database, database_url)
    for form in ("s3cr3t", "va+lue"):
        assert form not in stored
        assert form not in capsys.readouterr().out


async def everything(database: Database, url: str) -> str:
    """All rows of all tables as text, the contents of files decoded."""
    tables = await database.fetch_all(
        "select c.relname as name from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'jobsworth' and c.relkind = 'r'"
    )
    texts: list[str] = []
    for table in tables:
        name = Identifier("jobsworth", table["name"])
        with connect(url) as conn:
            for row in conn.execute(SQL("table {}").format(name)):
                texts += [
                    value.decode(errors="replace") if isinstance(value, bytes) else str(value)
                    for value in row.values()
                ]
    return "\n".join(texts)
