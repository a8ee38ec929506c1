"""The types of the settings' fields: each checks one value and describes what it accepts.

In: a value from the environment or the command line. Out: the value as `Settings` keeps it, or a
`ValueError` whose text never repeats a password or a key.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from worker.approvals.webhook_signature import keys

# In place of a URL: the embedded database, whatever the PG* variables of the environment name.
EMBEDDED = "embedded"
# Those that `worker.llm.providers` knows. That module takes a second to load, so this one does not
# import it.
MODEL_PROVIDERS = ("openai", "openai-responses", "anthropic")


@dataclass(frozen=True, slots=True)
class Words:
    """Describes the values of a field whose type and bounds do not describe them."""

    text: str


def _split(value: object) -> object:
    """Read a list of names written as `a, b` or as `["a", "b"]`, and drop repeated names."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"starts like a JSON list but is not valid JSON ({error})") from None
    return tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _connection_string(value: str | None) -> str | None:
    if value is not None and value.strip().lower() == EMBEDDED:
        return None
    # The parser's own message may quote part of the password, so it is not passed on.
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


ConnectionString = Annotated[
    str | None,
    AfterValidator(_connection_string),
    Words("embedded, or a connection string, as postgresql://user:password@host:5432/database"),
]
HttpUrl = Annotated[str | None, AfterValidator(_http_url), Words("an http or https address")]
SchemaName = Annotated[
    str, AfterValidator(_not_reserved), Words("a name of lower case letters, digits and _")
]
Folder = Annotated[Path, AfterValidator(_absolute), Words("a folder")]
File = Annotated[Path | None, AfterValidator(_absolute), Words("a file")]
Modules = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_module_names),
    Words("module names with commas between"),
]
ModelName = Annotated[
    str | None,
    AfterValidator(_model_name),
    Words(
        '"offline", or a provider and its model, as openai:gpt-5.1 or anthropic:claude-sonnet-5-5'
    ),
]
Queues = Annotated[
    tuple[str, ...] | None,
    NoDecode,
    BeforeValidator(_split),
    Words("queue names with commas between"),
]
Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_host_names),
    Words("host names with commas between, with a port or for all of them"),
]
WebhookSecret = Annotated[
    SecretStr | None,
    AfterValidator(_webhook_secret),
    Words("whsec_ and 24 to 64 random bytes in base64, as `jobsworth webhook secret` makes"),
]
Seconds = Annotated[float, Field(allow_inf_nan=False)]
Port = Annotated[int | None, BeforeValidator(_off)]
UnknownPrice = Annotated[Literal["allow", "refuse_if_budgeted", "refuse"], BeforeValidator(_lower)]
EmbedderName = Annotated[Literal["lexical", "semantic"], BeforeValidator(_lower)]
Traces = Annotated[Literal["off", "parent", "link"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
LogFormat = Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)]
