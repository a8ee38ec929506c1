"""Every setting: its name, type, bounds, default and description.

In: the values that `load_settings` has read. Out: one frozen `Settings`. `jobsworth doctor
--settings` lists the fields in this order.
"""

from pathlib import Path
from typing import Any, cast

import platformdirs
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.settings.checks import (
    ConnectionString,
    EmbedderName,
    File,
    Folder,
    Hosts,
    HttpUrl,
    LogFormat,
    LogLevel,
    ModelName,
    Modules,
    Port,
    Queues,
    SchemaName,
    Seconds,
    Traces,
    UnknownPrice,
    WebhookSecret,
)

PREFIX = "JOBSWORTH_"
# Pydantic models have a method `schema`, so the field of this variable has another name.
SCHEMA_VARIABLE = PREFIX + "SCHEMA"


def _deploy_file_here() -> Path | None:
    path = Path("deploy.toml").absolute()
    return path if path.is_file() else None


def _spool_below(validated: dict[str, Any]) -> Path:
    return cast("Path", validated["data_dir"]) / "spool"


def _releases_below(validated: dict[str, Any]) -> Path:
    return cast("Path", validated["data_dir"]) / "releases"


class Settings(BaseSettings):
    """Everything that can be set. Below `worker/daemon`, pass values, not this object."""

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
        description="the PostgreSQL database; what it leaves out, the PG* variables of libpq say; "
        "unset or embedded, one in the data folder is started",
    )
    listen_url: ConnectionString = Field(
        None,
        repr=False,
        description="direct connection for LISTEN, where the database URL leads through PgBouncer",
    )
    schema_name: SchemaName = Field(
        "jobsworth",
        validation_alias=SCHEMA_VARIABLE,
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
        description="most bytes of paid answers that are kept on disk, for each database",
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
    http_port: Port = Field(
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
        7.0,
        ge=0.1,
        le=600,
        description="time without a successful heartbeat after which a worker stops its jobs",
    )
    rescue_seconds: Seconds = Field(
        10.0,
        ge=0.2,
        le=3_600,
        description="time without a heartbeat after which other workers take the jobs",
    )
    loop_block_seconds: Seconds = Field(
        120.0,
        ge=1,
        le=86_400,
        description="longest time that a handler may block the event loop; then the worker ends,"
        " and its jobs are rescued",
    )
    failures_max: int = Field(
        5, ge=1, le=1_000, description="failures that end a job, unless it has its own number"
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
    step_input_bytes: int = Field(
        2_000,
        ge=0,
        le=1_000_000,
        description="how much of a step's arguments is kept with the step, for people to read; 0"
        " keeps none",
    )

    budget_windows_days: int = Field(
        90,
        ge=1,
        le=3_650,
        description="days for which the usage in ended windows of budgets is kept; the calls and"
        " the ledger stay",
    )

    pool_min: int = Field(2, ge=1, le=1_000, description="database connections kept open")
    pool_max: int = Field(10, ge=1, le=1_000, description="most database connections")
    pool_wait_seconds: Seconds = Field(
        30.0, ge=0.1, le=3_600, description="longest time to wait for a free database connection"
    )
    pool_lifetime_seconds: Seconds = Field(
        3_600.0, ge=1, le=604_800, description="age at which a database connection is replaced"
    )
    pool_idle_seconds: Seconds = Field(
        600.0,
        ge=1,
        le=604_800,
        description="time after which an unused database connection beyond pool_min is closed",
    )
    sql_echo: bool = Field(
        False,
        description="log each SQL statement with its duration (sql.ran); its values are masked",
    )
    handler_pool_max: int = Field(
        10,
        ge=1,
        le=1_000,
        description="most database connections that handlers hold, beside the worker's own:"
        " job.database, job.transaction",
    )
    connect_seconds: Seconds = Field(
        10.0, ge=0, le=600, description="time a one-shot command waits for the database"
    )
    database_wait_seconds: Seconds = Field(
        3_600.0,
        ge=1,
        le=1_000_000,
        description="time a starting worker waits for the database; then it ends",
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
        None, description="that provider's key; unset, its usual variable is read"
    )
    model_seconds: Seconds = Field(
        600.0, ge=0.1, le=86_400, description="longest time that model may take for an answer"
    )
    max_output_tokens: int = Field(
        4_096,
        ge=1,
        le=1_000_000,
        description="most tokens of a model's answer, unless the agent or the model has a bound",
    )
    refusals_max: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="how often a provider may refuse a request for its rate limit; then its job "
        "fails",
    )
    refused_seconds_max: Seconds = Field(
        86_400.0,
        ge=0,
        le=31_536_000,
        description="for how long a provider may refuse a request for its rate limit; then its job "
        "fails",
    )
    unknown_price: UnknownPrice = Field(
        "refuse_if_budgeted",
        description="whether a call of unknown price is sent; refuse_if_budgeted: not if a budget "
        "of money applies to it",
    )
    history_tokens: int = Field(
        8_000,
        ge=0,
        le=1_000_000,
        description="most tokens of its thread that a shipped mode sees, at four bytes each",
    )
    instructions: str | None = Field(
        None,
        max_length=20_000,
        description="instructions for the shipped modes, beside those for their tasks",
    )
    record_calls: int = Field(
        7,
        ge=0,
        le=3_650,
        description="days for which prompts are kept and can be read (job calls); 0: none",
    )
    embedder: EmbedderName = Field(
        "lexical",
        description="the offline embedder: lexical compares words and spellings, semantic (extra "
        "semantic, 384 numbers) meanings",
    )
    embedder_threads: int = Field(
        1, ge=1, le=64, description="most threads of the offline semantic embedder"
    )
    embedder_url: HttpUrl = Field(
        None,
        description="an OpenAI-compatible embeddings endpoint; unset, an offline embedder",
    )
    embedder_model: str | None = Field(None, description="the model that endpoint shall use")
    embedder_key: SecretStr | None = Field(None, description="that endpoint's key")
    embedder_dimensions: int = Field(
        256, ge=1, le=4_000, description="length of a vector, lexical or from the endpoint"
    )
    embed_batch_max: int = Field(64, ge=1, le=2_048, description="texts embedded in one request")

    webhook_secret: WebhookSecret = Field(
        None,
        description="signs the requests to webhooks; unset, none are sent; while you change it: "
        "the new secret, a comma, the previous one",
    )
    webhook_hosts: Hosts = Field(
        (),
        description="the only hosts that webhooks may be on, as bridge.example.org,127.0.0.1:8480",
    )

    log_level: LogLevel = Field("info", description="least severity that is logged")
    log_format: LogFormat = Field(
        "auto", description='form of a log line; "auto" is readable on a terminal, JSON elsewhere'
    )
    log_attempts_per_second: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="most lines of ended attempts; failed and lost ones are always logged",
    )
    traces: Traces = Field(
        "off",
        description="OpenTelemetry traces and metrics to where OTEL_EXPORTER_OTLP_ENDPOINT says "
        "(extra otel): an attempt is a child of its job's span (parent), or linked to it (link)",
    )


def env_name(field_name: str) -> str:
    """The environment variable that sets a field of `Settings`."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()
