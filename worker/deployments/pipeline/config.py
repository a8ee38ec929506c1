"""deploy.toml: the environments, and how each is built, switched and probed.

Stage: once at start-up, and whenever a deployment names an environment.
In: the file. Out: one frozen `Environment` per `[environments.<name>]`.
Invariant: what is loaded can be run as it stands; every mistake is reported with file, line, key,
reason and remedy, all of them at once.
"""

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from worker.deployments.pipeline import toml_lines
from worker.deployments.pipeline.errors import ConfigProblem, DeployConfigError, UnknownEnvironment
from worker.deployments.pipeline.repository import is_url

ENVIRONMENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_]+)\}")
"""`{sha}`, but not `${HOME}`, which is left to a shell."""
SCHEMES = ("https", "ssh", "file")
SCHEMES_SHOWN = "https, ssh or file"
PLACEHOLDERS = ("sha", "release", "previous", "environment")


def load_environments(path: Path) -> dict[str, "Environment"]:
    text = _read(path)
    document = _parse(path, text)
    try:
        tables = _File.model_validate(document).environments
    except ValidationError as error:
        lines = toml_lines.key_lines(text)
        problems = {_problem(path, lines, details) for details in error.errors(include_url=False)}
        raise DeployConfigError(
            sorted(problems, key=lambda found: (found.line, found.key))
        ) from None
    return {name: _environment(name, table, path) for name, table in tables.items()}


def find_environment(environments: Mapping[str, "Environment"], name: str) -> "Environment":
    try:
        return environments[name]
    except KeyError:
        raise UnknownEnvironment(name, environments) from None


def fill_placeholders(argv: tuple[str, ...], values: Mapping[str, str]) -> tuple[str, ...]:
    """Replace each placeholder once; a value is neither expanded again nor split into words."""
    return tuple(
        PLACEHOLDER.sub(lambda found: values[found.group(1)], argument) for argument in argv
    )


def _refuse(reason: str, remedy: str, key: str = "") -> PydanticCustomError:
    # As context, not in the template: pydantic would take braces of our text for placeholders.
    context = {"reason": reason, "remedy": remedy, "key": key}
    return PydanticCustomError("deploy_config", "{reason}; {remedy}", context)


def _check_text(value: str) -> str:
    if not value.strip():
        raise _refuse("is empty", "write a value or leave the key out")
    if "\x00" in value:
        raise _refuse("has a NUL byte in it", "remove it, no program can be given one")
    return value


def _check_argument(value: str) -> str:
    if "\x00" in value:
        raise _refuse("has a NUL byte in it", "remove it, no program can be given one")
    for name in cast("list[str]", PLACEHOLDER.findall(value)):
        if name not in PLACEHOLDERS:
            raise _refuse(
                f"has the unknown placeholder {{{name}}}",
                "use "
                + ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
                + ", or put a command that needs such braces into a script",
            )
    return value


def _check_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv or not argv[0].strip():
        raise _refuse("does not name a program", 'write a program first, as in ["make", "build"]')
    return argv


def _check_repository(value: str) -> str:
    _check_text(value)
    if value.startswith("-"):
        raise _refuse("begins with '-'", "write a path or a git URL")
    if "::" in value.partition("/")[0]:
        raise _refuse("names a git transport helper", f"write a path or a {SCHEMES_SHOWN} URL")
    if "://" in value:
        _check_git_url(value)
    return value


def _check_git_url(value: str) -> None:
    try:
        parts = urlsplit(value)
        scheme, password = parts.scheme, parts.password
    except ValueError:
        raise _refuse("is not a URL", f"write a path or a {SCHEMES_SHOWN} URL") from None
    if scheme not in SCHEMES:
        raise _refuse(
            f"has the scheme {scheme!r}",
            f"use {SCHEMES_SHOWN}: others are neither authenticated nor encrypted",
        )
    if password is not None or (scheme == "https" and parts.username is not None):
        raise _refuse(
            "has credentials in it, which every process list would show",
            "leave them to git: a credential helper, ~/.netrc or GIT_ASKPASS",
        )


def _check_url(value: str) -> str:
    _check_text(value)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _refuse(
            f"{value!r} is not an http URL", 'write one, as in "http://127.0.0.1:8080/health"'
        )
    return value


def _check_environment_name(name: str) -> str:
    if not ENVIRONMENT_NAME.fullmatch(name):
        raise _refuse(
            "is not a valid environment name",
            "use lower-case letters, digits, '-' and '_' (it becomes a directory)",
        )
    return name


def _check_variable_name(name: str) -> str:
    if not VARIABLE_NAME.fullmatch(name):
        raise _refuse("is not a valid variable name", "use letters, digits and '_'")
    if name.startswith("JOBSWORTH_"):
        raise _refuse("is a reserved name", "choose one that does not begin with JOBSWORTH_")
    return name


Argv = Annotated[
    tuple[Annotated[str, AfterValidator(_check_argument)], ...],
    Field(strict=False),
    AfterValidator(_check_argv),
]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Variables = dict[
    Annotated[str, AfterValidator(_check_variable_name)],
    Annotated[str, AfterValidator(_check_text)],
]

Names = Annotated[
    tuple[Annotated[str, AfterValidator(_check_variable_name)], ...], Field(strict=False)
]


class _Table(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, extra="forbid")


class Probe(_Table):
    """Either `url`, which must answer with `status`, or `command`, which must exit with 0."""

    url: Annotated[str, AfterValidator(_check_url)] | None = None
    status: int = Field(default=200, ge=100, le=599)
    command: Argv | None = None
    attempts: int = Field(default=5, ge=1, le=1000)
    interval_seconds: float = Field(default=1.0, ge=0, le=3600, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.url is None and self.command is None:
            raise _refuse(
                "has neither `url` nor `command`", 'add `url = "http://…"` or `command = ["…"]`'
            )
        if self.url is not None and self.command is not None:
            raise _refuse("cannot be given together with `url`", "keep one of the two", "command")
        if self.command is not None and "status" in self.model_fields_set:
            raise _refuse("is only for a `url`", "remove it: a command must exit with 0", "status")
        return self


class Timeouts(_Table):
    export_seconds: Seconds = 60.0
    build_seconds: Seconds = 600.0
    test_seconds: Seconds = 600.0
    switch_seconds: Seconds = 60.0
    """For a rollback command too."""
    probe_seconds: Seconds = 30.0
    """For all attempts of a probe together."""


class EnvironmentTable(_Table):
    """One table `[environments.<name>]` of the file."""

    repository: Annotated[str, AfterValidator(_check_repository)]
    build: Argv | None = None
    test: Argv | None = None
    switch: Argv | None = None
    rollback: Argv | None = None
    releases_keep: int = Field(default=5, ge=1, le=1000)
    environment: Variables = Field(default_factory=dict)
    secrets: Names = ()
    """Variables with masked values; one not in `environment` has the value the worker has."""
    approvals: int = Field(default=0, ge=0, le=2)
    """The number of people who must approve a deployment before it begins."""
    probe: Probe
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _can_be_rolled_back(self) -> Self:
        if self.switch is not None and self.rollback is None:
            raise _refuse(
                "has no `rollback` beside it, and moving the symlink back cannot undo a command",
                'add `rollback = […]`, the command that puts "{previous}" live again',
                "switch",
            )
        return self

    @model_validator(mode="after")
    def _probe_has_time(self) -> Self:
        pauses_seconds = (self.probe.attempts - 1) * self.probe.interval_seconds
        if pauses_seconds >= self.timeouts.probe_seconds:
            raise _refuse(
                f"{self.probe.attempts} attempts pause {pauses_seconds:g} s between them, which"
                + f" leaves nothing of timeouts.probe_seconds = {self.timeouts.probe_seconds:g}",
                "lower `attempts` or `interval_seconds`, or raise `probe_seconds`",
                "probe",
            )
        return self


class Environment(EnvironmentTable):
    """An environment with its name, and with an absolute path of its repository."""

    name: str


def _check_environments(tables: dict[str, EnvironmentTable]) -> dict[str, EnvironmentTable]:
    if not tables:
        raise _refuse("defines no environment", "add a table such as [environments.staging]")
    return tables


class _File(_Table):
    environments: Annotated[
        dict[Annotated[str, AfterValidator(_check_environment_name)], EnvironmentTable],
        AfterValidator(_check_environments),
    ]


def _environment(name: str, table: EnvironmentTable, path: Path) -> Environment:
    repository = table.repository
    if not is_url(repository):
        repository = os.path.normpath(path.absolute().parent / Path(repository).expanduser())
    return Environment.model_validate({**dict(table), "name": name, "repository": repository})


def _read(path: Path) -> str:
    try:
        # Bytes, as tomllib.load reads them: a lone carriage return must stay an error.
        return path.read_bytes().decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(path, line, "is not UTF-8 text", "save it as UTF-8") from None
    except FileNotFoundError:
        remedy = "write one (examples/deploy.toml shows how)"
        raise _unreadable(path, 1, "the file does not exist", remedy) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise _unreadable(path, 1, reason, "make it readable for the worker's user") from None


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, line = _split_position(str(error), text)
        remedy = "correct the TOML there (or just before)"
        raise _unreadable(path, line, f"is not TOML: {reason}", remedy) from None


def _unreadable(path: Path, line: int, reason: str, remedy: str) -> DeployConfigError:
    return DeployConfigError([ConfigProblem(path, line, "", reason, remedy)])


def _split_position(message: str, text: str) -> tuple[str, int]:
    reason, _, position = message.rpartition(" (at ")
    found = re.match(r"line (\d+)", position)
    line = int(found.group(1)) if found else text.rstrip("\n").count("\n") + 1
    return reason[:1].lower() + reason[1:], line


def _problem(path: Path, lines: dict[toml_lines.Path, int], details: ErrorDetails) -> ConfigProblem:
    place = tuple(part for part in details["loc"] if part != "[key]")
    context = cast("dict[str, object]", details.get("ctx", {}))
    if details["type"] == "deploy_config":
        reason, remedy = str(context["reason"]), str(context["remedy"])
        place = (*place, str(context["key"])) if context["key"] else place
    else:
        reason, remedy = _explain(details["type"], place, details["input"], details["msg"])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return ConfigProblem(path, toml_lines.line_of(lines, place), key.lstrip("."), reason, remedy)


KINDS = {
    "string_type": ("a string", 'write it in quotes, as in "text"'),
    "int_type": ("a whole number", "write it without quotes and fraction"),
    "float_type": ("a number", "write it without quotes"),
    "tuple_type": ("a list of arguments", 'write it as a list, as in ["make", "build"]'),
    "dict_type": ("a table", "write it as a table"),
    "model_type": ("a table", "write it as a table, as in [environments.staging.probe]"),
}


def _explain(kind: str, place: toml_lines.Path, given: object, message: str) -> tuple[str, str]:
    name = str(place[-1]) if place else ""
    if kind == "extra_forbidden":
        return "is an unknown key", _known_keys(place)
    if kind == "missing":
        return "is missing", _missing_remedy(name)
    if kind == "tuple_type" and isinstance(given, str):
        return (
            "is a string, but a command is a list of arguments (there is no shell)",
            f"write it as a list: {name} = {_as_list(given)}",
        )
    if kind in KINDS:
        wanted, remedy = KINDS[kind]
        return f"is {_kind_of(given)}, but must be {wanted}", remedy
    said = message.removeprefix("Input ")
    return f"{said} (it is {given})", "write a value within these bounds"


def _known_keys(place: toml_lines.Path) -> str:
    table = _table_at(place[:-1])
    known = sorted(table.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"remove it; known here are: {', '.join(known)}"


def _table_at(place: toml_lines.Path) -> type[BaseModel]:
    match place:
        case (_, _, "probe"):
            return Probe
        case (_, _, "timeouts"):
            return Timeouts
        case (_, _):
            return EnvironmentTable
        case _:
            return _File


def _missing_remedy(name: str) -> str:
    remedies = {
        "repository": 'add `repository = "/srv/git/site.git"`, a path or a git URL',
        "probe": "add a table for it with a `url` or a `command`: nothing is healthy without one",
        "environments": "add a table such as [environments.staging]",
    }
    return remedies.get(name, "add it")


def _as_list(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
