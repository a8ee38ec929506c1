"""Settings: what an operator has told this Jobsworth process, read before anything else starts.

In: `JOBSWORTH_*` environment variables, and the command line's overrides. Out: one frozen
`Settings`, or a `SettingsError` that lists every problem at once, each with its remedy. Invariant:
what `load_settings` returns is complete and within bounds, and nothing in the environment that was
meant for Jobsworth has been ignored. An empty variable counts as unset.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, cast, get_args
from urllib.parse import urlsplit

import platformdirs
from annotated_types import Ge, Le
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.approvals.webhook_signature import keys

PREFIX = "JOBSWORTH_"
# Those that `worker.llm.providers` knows; it is not imported here, as it takes a second to load.
MODEL_PROVIDERS = ("openai", "openai-responses", "anthropic")


def load_settings(**overrides: Any) -> "Settings":
    """Read the environment; an override, named as the field, wins over its variable.

    Raises `SettingsError` with every unknown, malformed or contradictory setting.
    """
    problems = list(_unknown_names(os.environ))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError([*problems, *_invalid_values(error)]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def settings_reference() -> list["SettingReference"]:
    """Every setting in the order of `Settings`, as text for `jobsworth doctor` and the docs."""
    return [
        SettingReference(
            env_name(name), _type_words(field), _default_words(name, field), field.description or ""
        )
        for name, field in Settings.model_fields.items()
    ]


def env_name(field_name: str) -> str:
    """The environment variable that sets a field of `Settings`."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()


class SettingReference(NamedTuple):
    env_name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the settings; `value` is None where there is none to show."""

    name: str
    value: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        subject = self.name if self.value is None else f"{self.name}={self.value}"
        return f"{subject}: {self.reason}; {self.remedy}"


class SettingsError(Exception):
    """The operator's settings cannot be used; the message has one line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Says:
    """What a field takes, in words, where bounds and literals do not say it."""

    words: str


def _split(value: object) -> object:
    """`a, b` and `["a", "b"]` both mean two names; each counts once."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"starts like a JSON list but is none ({error})") from None
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _connection_string(value: str | None) -> str | None:
    # The parser's own message may quote a piece of the password, so it is not passed on.
    try:
        conninfo_to_dict(value or "")
    except ProgrammingError:
        raise ValueError("is not a PostgreSQL connection string") from None
    return value


def _http_url(value: str | None) -> str | None:
    if value is not None and not (value.startswith(("http://", "https://")) and _host(value)):
        raise ValueError("is not an http:// or https:// address")
    return value


def _model_name(value: str | None) -> str | None:
    if value is None or value.strip().lower() == "offline":
        return None
    provider, _, model = value.strip().partition(":")
    if provider.lower() not in MODEL_PROVIDERS or not model:
        raise ValueError(
            f'is neither "offline" nor one of {", ".join(MODEL_PROVIDERS)} with ":" and a model'
        )
    return f"{provider.lower()}:{model}"


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _module_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not the name of a Python module")
    return names


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?|[0-9a-fA-F:]+", name):
            raise ValueError(f"{name!r} is not the name of a host, without scheme and path")
    return tuple(name.lower() for name in names)


def _webhook_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        keys(secret.get_secret_value())
    return secret


def _not_reserved(schema: str) -> str:
    if schema.startswith("pg_"):
        raise ValueError("PostgreSQL keeps names that begin with pg_ for itself")
    return schema


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _deploy_file_here() -> Path | None:
    path = Path("deploy.toml").absolute()
    return path if path.is_file() else None


def _spool_below(validated: dict[str, Any]) -> Path:
    return cast("Path", validated["data_dir"]) / "spool"


def _releases_below(validated: dict[str, Any]) -> Path:
    return cast("Path", validated["data_dir"]) / "releases"


ConnectionString = Annotated[
    str | None,
    AfterValidator(_connection_string),
    Says("a connection string, as postgresql://user:password@host:5432/database"),
]
HttpUrl = Annotated[str | None, AfterValidator(_http_url), Says("an http or https address")]
SchemaName = Annotated[
    str, AfterValidator(_not_reserved), Says("a name of lower case letters, digits and _")
]
Folder = Annotated[Path, AfterValidator(_absolute), Says("a folder")]
File = Annotated[Path | None, AfterValidator(_absolute), Says("a file")]
Modules = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_module_names),
    Says("module names with commas between"),
]
ModelName = Annotated[
    str | None,
    AfterValidator(_model_name),
    Says(
        '"offline", or a provider and its model, as openai:gpt-5.1 or anthropic:claude-sonnet-5-5'
    ),
]
Queues = Annotated[
    tuple[str, ...] | None,
    NoDecode,
    BeforeValidator(_split),
    Says("queue names with commas between"),
]
Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_host_names),
    Says("host names with commas between, with a port or for all of them"),
]
WebhookSecret = Annotated[
    SecretStr | None,
    AfterValidator(_webhook_secret),
    Says("whsec_ and 24 to 64 random bytes in base64, as `jobsworth webhook secret` makes"),
]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything that can be set. Below `daemon.py`, pass values on, not this object."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=False,
    )

    database_url: ConnectionString = Field(
        None,
        repr=False,
        description="the PostgreSQL database; unset, an embedded one in the data folder is started",
    )
    listen_url: ConnectionString = Field(
        None,
        repr=False,
        description="direct connection for LISTEN, where the database URL leads through PgBouncer",
    )
    schema_name: SchemaName = Field(
        "jobsworth",
        validation_alias="JOBSWORTH_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,40}$",
        description="the database schema of this installation; several can share a database",
    )
    data_dir: Folder = Field(
        default_factory=lambda: platformdirs.user_data_path("jobsworth", appauthor=False),
        description="what this machine keeps: the embedded database, the releases and the spool",
    )
    spool_dir: Folder = Field(
        default_factory=_spool_below,
        description="where paid answers are kept while the database is away; a local disk",
    )
    spool_bytes_max: int = Field(
        1_073_741_824,
        ge=0,
        le=1_099_511_627_776,
        description="paid answers kept on disk at most, in bytes for each database",
    )

    handlers: Modules = Field(
        (), description="modules with your handlers, as myapp.jobs,other.jobs"
    )
    queues: Queues = Field(
        None, description='queues to serve; unset, "default" and those your handlers name'
    )
    slots: int = Field(50, ge=1, le=10_000, description="jobs this worker runs at once")
    threads: int = Field(
        16, ge=1, le=1_000, description="threads for handlers that are plain functions"
    )

    http_host: str = Field("127.0.0.1", description="address of the health and metrics endpoint")
    http_port: Annotated[int | None, BeforeValidator(_off)] = Field(
        8470,
        ge=0,
        le=65_535,
        description='port of the health and metrics endpoint; 0 takes any free one, "off" none',
    )

    drain_seconds: Seconds = Field(
        30.0,
        ge=0,
        le=86_400,
        description="time that running jobs are given to finish when the worker is told to stop",
    )
    poll_seconds: Seconds = Field(
        1.0, ge=0.01, le=60, description="longest time an idle worker goes without looking for jobs"
    )
    heartbeat_seconds: Seconds = Field(
        2.0, ge=0.05, le=60, description="time between two heartbeats"
    )
    lease_stop_seconds: Seconds = Field(
        8.0,
        ge=0.1,
        le=600,
        description="time without a successful heartbeat after which a worker stops its jobs",
    )
    rescue_seconds: Seconds = Field(
        12.0,
        ge=0.2,
        le=3_600,
        description="time without a heartbeat after which other workers take the jobs",
    )
    failures_max: int = Field(
        5, ge=1, le=1_000, description="failures that end a job, where it does not say itself"
    )
    crashes_max: int = Field(
        5, ge=1, le=1_000, description="worker deaths under a job that end it as failed"
    )
    retry_base_seconds: Seconds = Field(
        1.0, ge=0.001, le=3_600, description="wait after the first failure; it doubles each time"
    )
    retry_max_seconds: Seconds = Field(
        3_600.0, ge=0.001, le=2_592_000, description="longest wait between two tries"
    )
    payload_bytes_max: int = Field(
        1_000_000, ge=1_000, le=100_000_000, description="largest payload a job may be given"
    )

    budget_windows_days: int = Field(
        90,
        ge=1,
        le=3_650,
        description="for how many days it is kept what calls counted in budgets' windows that are"
        " over; the calls and the ledger stay",
    )

    pool_min: int = Field(2, ge=1, le=1_000, description="database connections kept open")
    pool_max: int = Field(10, ge=1, le=1_000, description="database connections at most")
    connect_seconds: Seconds = Field(
        10.0, ge=0, le=600, description="time a one-shot command waits for the database"
    )
    statement_seconds: Seconds = Field(
        30.0, ge=0.1, le=3_600, description="longest time one of our statements may take"
    )

    deploy_file: File = Field(
        default_factory=_deploy_file_here, description="the environments that can be deployed to"
    )
    releases_dir: Folder = Field(
        default_factory=_releases_below,
        description="where deployed releases are exported, built and kept",
    )
    output_bytes_max: int = Field(
        65_536, ge=1_024, le=16_777_216, description="output kept of a deployment's command"
    )

    model: ModelName = Field(
        None,
        description="the model of the shipped modes, and of agents that name none; unset or "
        "offline, rules that quote what was said, at no cost",
    )
    model_url: HttpUrl = Field(
        None,
        description="the base URL of that model's provider, where it is not the usual one: with "
        "/v1, as https://gateway.example/v1; unset, OPENAI_BASE_URL or ANTHROPIC_BASE_URL counts",
    )
    model_key: SecretStr | None = Field(
        None, description="the key that provider wants; unset, its usual variable is read"
    )
    model_seconds: Seconds = Field(
        600.0, ge=0.1, le=86_400, description="longest time that model may take for an answer"
    )
    max_output_tokens: int = Field(
        4_096,
        ge=1,
        le=1_000_000,
        description="most tokens a model may answer with, where neither agent nor model says",
    )
    unknown_price: Annotated[
        Literal["allow", "refuse_if_budgeted", "refuse"], BeforeValidator(_lower)
    ] = Field(
        "refuse_if_budgeted",
        description="may a call go out whose price is not known? refuse_if_budgeted: not if it "
        "falls under a budget of money",
    )
    history_tokens: int = Field(
        8_000,
        ge=0,
        le=1_000_000,
        description="what a shipped mode sees of its thread at most, a token taken as four bytes",
    )
    instructions: str | None = Field(
        None,
        max_length=20_000,
        description="what the shipped modes are told beside their own tasks",
    )
    embedder_url: HttpUrl = Field(
        None,
        description="an OpenAI-compatible embeddings endpoint; unset, the offline lexical embedder",
    )
    embedder_model: str | None = Field(None, description="the model that endpoint is asked for")
    embedder_key: SecretStr | None = Field(None, description="the key that endpoint wants")
    embedder_dimensions: int = Field(
        256, ge=1, le=4_000, description="length of a vector, offline or from the endpoint"
    )
    embed_batch_max: int = Field(64, ge=1, le=2_048, description="texts embedded in one request")

    webhook_secret: WebhookSecret = Field(
        None,
        description="signs what webhooks are sent; without it they are sent nothing; "
        "while it is changed: the new one, a comma, the one before",
    )
    webhook_hosts: Hosts = Field(
        (),
        description="the only hosts that webhooks may be on, as bridge.example.org,127.0.0.1:8480",
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        Field("info", description="least severity that is logged")
    )
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = Field(
        "auto", description='form of a log line; "auto" is readable on a terminal, JSON elsewhere'
    )
    log_attempts_per_second: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="lines of ended attempts at most; failed ones always log theirs",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = list(_contradictions(self))
        if problems:
            raise PydanticCustomError("contradiction", "settings disagree", {"problems": problems})
        return self


# A container platform sets JOBSWORTH_PORT=tcp://… and JOBSWORTH_SERVICE_HOST for a Service of our
# name, and the test harness arms itself by environment: neither is a setting, nor a mistake.
_NOT_SETTINGS = re.compile(r"JOBSWORTH_(PORT(_.*)?|SERVICE_.*|(TEST|CRASH|CHAOS)_.*)")
_HIDDEN = frozenset(
    {"database_url", "listen_url", "embedder_url", "embedder_key", "model_url", "model_key"}
    | {"webhook_secret"}
)
_VALUE_CHARACTERS_MAX = 60


def _unknown_names(environ: Mapping[str, str]) -> Iterator[Problem]:
    # The value is not shown: a misspelt name may hold a key.
    known = {env_name(name) for name in Settings.model_fields}
    for name in sorted(environ):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not _NOT_SETTINGS.fullmatch(upper):
            yield Problem(name, None, "no such setting", _nearest(upper, known))


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
    return f"did you mean {close}? Otherwise unset it"


def _contradictions(settings: Settings) -> Iterator[Problem]:
    for smaller, larger, strictly in (
        ("heartbeat_seconds", "lease_stop_seconds", True),
        ("lease_stop_seconds", "rescue_seconds", True),
        ("pool_min", "pool_max", False),
        ("retry_base_seconds", "retry_max_seconds", False),
    ):
        low, high = getattr(settings, smaller), getattr(settings, larger)
        if low > high or (strictly and low == high):
            relation = "must be less than" if strictly else "must not be more than"
            yield Problem(
                env_name(smaller),
                f"{low:g}",
                f"{relation} {env_name(larger)}={high:g}",
                "lower the first or raise the second",
            )
    if settings.listen_url is not None and settings.database_url is None:
        yield Problem(
            env_name("listen_url"),
            None,
            f"is set although {env_name('database_url')} is not",
            "set both, or neither for the embedded database",
        )
    if settings.model is None:
        for name in ("model_url", "model_key"):
            if getattr(settings, name) is not None:
                yield Problem(
                    env_name(name),
                    None,
                    f"is set although {env_name('model')} is not",
                    "name the model, or unset this one",
                )
    if settings.embedder_url is None:
        for name in ("embedder_model", "embedder_key"):
            if getattr(settings, name) is not None:
                yield Problem(
                    env_name(name),
                    None,
                    f"is set although {env_name('embedder_url')} is not",
                    "set both, or neither for the offline embedder",
                )
    elif settings.embedder_model is None:
        yield Problem(
            env_name("embedder_url"),
            None,
            f"is set although {env_name('embedder_model')} is not",
            "name the model that endpoint shall be asked for",
        )


def _invalid_values(error: ValidationError) -> Iterator[Problem]:
    for details in error.errors(include_url=False):
        if details["type"] == "contradiction":
            yield from details.get("ctx", {})["problems"]
        # A default that depends on a value that is wrong is no second problem.
        elif details["type"] != "default_factory_not_called":
            yield _invalid_value(details)


def _invalid_value(details: ErrorDetails) -> Problem:
    given = str(details["loc"][0])
    name = "schema_name" if given == "JOBSWORTH_SCHEMA" else given
    field = Settings.model_fields.get(name)
    if field is None:
        return Problem(given, None, "no such setting", "see `jobsworth doctor` for their names")
    default = _default_words(name, field)
    return Problem(
        env_name(name),
        "(hidden)" if name in _HIDDEN else _shown(details["input"]),
        re.sub(r"^(Value error,|Input|String) ", "", details["msg"]),
        f"give {_type_words(field)}, or unset it for the default ({default})",
    )


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    printable = "".join(c if c.isprintable() else "�" for c in text)
    if len(printable) > _VALUE_CHARACTERS_MAX:
        return printable[:_VALUE_CHARACTERS_MAX] + "…"
    return printable


def _type_words(field: FieldInfo) -> str:
    for extra in field.metadata:
        if isinstance(extra, Says):
            return extra.words
    types = _flat(field.annotation)
    words = [repr(t) if isinstance(t, str) else _TYPE_WORDS[t] for t in types]
    return " or ".join(words) + _bound_words(field)


_TYPE_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "a secret text",
}


def _flat(annotation: object) -> list[object]:
    """The types and literal values that an annotation is made of, without None."""
    parts = get_args(annotation)
    if not parts:
        return [] if annotation is type(None) else [annotation]
    return [leaf for part in parts for leaf in _flat(part)]


def _bound_words(field: FieldInfo) -> str:
    low = next((m.ge for m in field.metadata if isinstance(m, Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    return "" if low is None or high is None else f" from {low} to {high}"


def _default_words(name: str, field: FieldInfo) -> str:
    if name in _COMPUTED_DEFAULTS:
        return _COMPUTED_DEFAULTS[name]
    default: object = field.get_default()
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


_COMPUTED_DEFAULTS = {
    "data_dir": "jobsworth in the user's data folder",
    "deploy_file": "deploy.toml in the working directory, if there is one",
    "releases_dir": "releases in the data folder",
    "spool_dir": "spool in the data folder",
}
