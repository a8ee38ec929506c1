"""Settings: what is accepted, what is refused, and what the operator is told."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.settings import (
    Settings,
    SettingsError,
    env_name,
    load_settings,
    settings_reference,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("JOBSWORTH_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refusal(**overrides: object) -> list[str]:
    """The lines of the refusal of these settings."""
    with pytest.raises(SettingsError) as refused:
        load_settings(**overrides)
    return str(refused.value).splitlines()


def test_an_empty_environment_gives_the_documented_defaults():
    settings = load_settings()
    assert settings.database_url is None
    assert settings.schema_name == "jobsworth"
    assert settings.queues is None
    assert settings.handlers == ()
    assert settings.http_port == 8470
    assert settings.releases_dir == settings.data_dir / "releases"
    assert settings.deploy_file is None
    assert (settings.heartbeat_seconds, settings.lease_stop_seconds) == (2, 7)
    assert settings.rescue_seconds == 10


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOTS", "7")
    monkeypatch.setenv("JOBSWORTH_SCHEMA", "second")
    monkeypatch.setenv("JOBSWORTH_LOG_LEVEL", "DEBUG")
    settings = load_settings()
    assert (settings.slots, settings.schema_name, settings.log_level) == (7, "second", "debug")


def test_an_override_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOTS", "7")
    monkeypatch.setenv("JOBSWORTH_SCHEMA", "second")
    settings = load_settings(slots=9, schema_name="third")
    assert (settings.slots, settings.schema_name) == (9, "third")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOTS", "")
    monkeypatch.setenv("JOBSWORTH_DATABASE_URL", "")
    settings = load_settings()
    assert (settings.slots, settings.database_url) == (50, None)


@pytest.mark.parametrize("text", ["a.b,c", " a.b , c ,, a.b", '["a.b", "c"]'])
def test_lists_are_read_with_commas_or_as_json(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_HANDLERS", text)
    monkeypatch.setenv("JOBSWORTH_QUEUES", text)
    settings = load_settings()
    assert settings.handlers == ("a.b", "c")
    assert settings.queues == ("a.b", "c")


@pytest.mark.parametrize(("text", "port"), [("off", None), ("OFF", None), ("0", 0), ("9", 9)])
def test_the_http_port_is_a_number_or_off(
    text: str, port: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JOBSWORTH_HTTP_PORT", text)
    assert load_settings().http_port == port


def test_paths_are_made_absolute_and_the_home_folder_is_known(tmp_path: Path):
    settings = load_settings(data_dir="state", releases_dir="~/releases")
    assert settings.data_dir == tmp_path / "state"
    assert settings.releases_dir == Path.home() / "releases"


def test_a_deploy_file_in_the_working_directory_is_found(tmp_path: Path):
    (tmp_path / "deploy.toml").touch()
    assert load_settings().deploy_file == tmp_path / "deploy.toml"


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().slots = 3


def test_an_unknown_name_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOT", "3")
    monkeypatch.setenv("jobsworth_embeder_key", "s3cret")
    lines = refusal()
    assert lines == [
        "JOBSWORTH_SLOT: no such setting; did you mean JOBSWORTH_SLOTS? Otherwise unset it",
        "jobsworth_embeder_key: no such setting; did you mean JOBSWORTH_EMBEDDER_KEY? "
        "Otherwise unset it",
    ]


def test_the_field_name_of_the_schema_is_not_a_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SCHEMA_NAME", "second")
    assert "JOBSWORTH_SCHEMA_NAME: no such setting" in refusal()[0]


@pytest.mark.parametrize(
    "name",
    [
        "JOBSWORTH_PORT",
        "JOBSWORTH_PORT_8470_TCP_ADDR",
        "JOBSWORTH_SERVICE_HOST",
        "JOBSWORTH_SERVICE_PORT_HTTP",
        "JOBSWORTH_TEST_X",
        "JOBSWORTH_CRASH_POINT",
        "JOBSWORTH_CHAOS_SEEDS",
    ],
)
def test_names_of_kubernetes_and_of_the_tests_are_let_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, "tcp://10.0.0.1:8470")
    assert load_settings().http_port == 8470


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOTS", "0")
    monkeypatch.setenv("JOBSWORTH_DRAIN_SECONDS", "soon")
    monkeypatch.setenv("JOBSWORTH_QUUES", "a")
    named = {line.partition(":")[0] for line in refusal()}
    assert named == {"JOBSWORTH_SLOTS=0", "JOBSWORTH_DRAIN_SECONDS=soon", "JOBSWORTH_QUUES"}


def test_a_line_names_the_value_the_reason_and_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_SLOTS", "0")
    assert refusal() == [
        "JOBSWORTH_SLOTS=0: should be greater than or equal to 1; "
        "give a whole number from 1 to 10000, or unset it for the default (50)"
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("JOBSWORTH_SLOTS", "many", "valid integer"),
        ("JOBSWORTH_DRAIN_SECONDS", "nan", "finite"),
        ("JOBSWORTH_DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("JOBSWORTH_SCHEMA", "Mine", "pattern"),
        ("JOBSWORTH_SCHEMA", "pg_mine", "PostgreSQL keeps"),
        ("JOBSWORTH_SCHEMA", 'a"; drop table x', "pattern"),
        ("JOBSWORTH_HANDLERS", "my-app.jobs", "not the name of a Python module"),
        ("JOBSWORTH_HANDLERS", "[1", "JSON"),
        ("JOBSWORTH_HTTP_PORT", "65536", "less than or equal to 65535"),
        ("JOBSWORTH_DATABASE_URL", "localhost", "not a PostgreSQL connection string"),
        ("JOBSWORTH_EMBEDDER_URL", "localhost:11434", "not an http:// or https:// address"),
        ("JOBSWORTH_EMBEDDER_URL", "http://[::1", "not an http:// or https:// address"),
        ("JOBSWORTH_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("JOBSWORTH_LOG_ATTEMPTS_PER_SECOND", "perhaps", "valid integer"),
    ],
)
def test_a_bad_value_is_refused_under_its_name(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    (line,) = refusal()
    assert line.startswith(name)
    assert reason in line


def test_a_model_that_is_not_supported_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("JOBSWORTH_MODEL", "nobody:gpt-5")
    (line,) = refusal()
    assert line.startswith('JOBSWORTH_MODEL=nobody:gpt-5: is neither "offline" nor one of openai, ')


def test_a_model_is_a_provider_and_a_name_and_offline_is_none(monkeypatch: pytest.MonkeyPatch):
    for name, model in (("OpenAI:gpt-5:X", "openai:gpt-5:X"), ("Offline", None)):
        monkeypatch.setenv("JOBSWORTH_MODEL", name)
        assert load_settings().model == model


@pytest.mark.parametrize("name", ["MODEL_URL", "MODEL_KEY"])
def test_where_a_model_is_means_nothing_without_a_model(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_" + name, "http://hunter2")
    (line,) = refusal()
    assert line.startswith(f"JOBSWORTH_{name}: is set although JOBSWORTH_MODEL is not")
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["DATABASE_URL", "LISTEN_URL", "EMBEDDER_URL"])
def test_a_refused_connection_string_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JOBSWORTH_" + name, "user:hunter2 host=x")
    message = "\n".join(refusal())
    assert f"JOBSWORTH_{name}=(hidden)" in message
    assert "hunter2" not in message


def test_secrets_do_not_show_in_the_settings_themselves():
    settings = load_settings(
        database_url="postgresql://u:hunter2@h/d",
        listen_url="postgresql://u:hunter2@h/d",
        embedder_url="http://h",
        embedder_model="m",
        embedder_key="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert settings.embedder_key is not None
    assert settings.embedder_key.get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"heartbeat_seconds": 8}, ("JOBSWORTH_HEARTBEAT_SECONDS=8", "LEASE_STOP_SECONDS=7")),
        ({"rescue_seconds": 5}, ("JOBSWORTH_LEASE_STOP_SECONDS=7", "RESCUE_SECONDS=5")),
        ({"pool_min": 11}, ("JOBSWORTH_POOL_MIN=11", "POOL_MAX=10")),
        ({"retry_max_seconds": 0.5}, ("JOBSWORTH_RETRY_BASE_SECONDS=1", "RETRY_MAX_SECONDS=0.5")),
        ({"listen_url": "postgresql://h/d"}, ("JOBSWORTH_LISTEN_URL", "DATABASE_URL is not")),
        ({"embedder_key": "k"}, ("JOBSWORTH_EMBEDDER_KEY", "EMBEDDER_URL is not")),
        ({"embedder_url": "http://h"}, ("JOBSWORTH_EMBEDDER_URL", "EMBEDDER_MODEL is not")),
        (
            {"embedder": "semantic", "embedder_url": "http://h", "embedder_model": "m"},
            ("JOBSWORTH_EMBEDDER=semantic", "JOBSWORTH_EMBEDDER_URL"),
        ),
        (
            {"embedder": "semantic", "embedder_dimensions": 256},
            ("JOBSWORTH_EMBEDDER_DIMENSIONS=256", "JOBSWORTH_EMBEDDER=semantic"),
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_both_names(
    overrides: dict[str, object], named: tuple[str, str]
):
    (line,) = refusal(**overrides)
    assert all(name in line for name in named)


def test_equal_pool_sizes_and_retry_bounds_are_no_contradiction():
    settings = load_settings(pool_min=4, pool_max=4, retry_base_seconds=2.0, retry_max_seconds=2.0)
    assert settings.pool_min == settings.pool_max


def test_an_override_that_is_no_field_is_refused():
    assert refusal(slot=3)[0].startswith("slot: no such setting")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_no_value_breaks_the_one_line_for_each_problem(value: str):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JOBSWORTH_LOG_FORMAT", "x" + value)
        assert len(refusal()) == 1


def test_the_reference_describes_every_setting():
    reference = {setting.env_name: setting for setting in settings_reference()}
    assert list(reference) == [env_name(name) for name in Settings.model_fields]
    assert all(s.type and s.default and s.description for s in reference.values())
    assert reference["JOBSWORTH_SLOTS"][1:3] == ("a whole number from 1 to 10000", "50")
    assert reference["JOBSWORTH_SCHEMA"].default == "jobsworth"


def test_every_number_has_its_bounds_in_the_reference():
    numbers = [s for s in settings_reference() if "number" in s.type]
    assert numbers
    assert all(" from " in s.type and " to " in s.type for s in numbers)
