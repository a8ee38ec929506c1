"""How problems with the settings are told, and the reference of all settings.

In: what the operator wrote, and what pydantic says about it. Out: one `Problem` for each mistake,
with the variable's name, its value unless that is a secret, the reason and the remedy.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

from annotated_types import Ge, Le
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from worker.settings.checks import EMBEDDED, Words
from worker.settings.fields import PREFIX, SCHEMA_VARIABLE, Settings, env_name

# A container platform sets JOBSWORTH_PORT=tcp://… and JOBSWORTH_SERVICE_HOST for a Service named
# jobsworth, and the fault tests set variables of their own. Neither are settings.
NOT_SETTINGS = re.compile(r"JOBSWORTH_(PORT(_.*)?|SERVICE_.*|(TEST|CRASH|CHAOS)_.*)")
HIDDEN = frozenset(
    {"database_url", "listen_url", "embedder_url", "embedder_key", "model_url", "model_key"}
    | {"webhook_secret"}
)
VALUE_CHARACTERS_MAX = 60
# Those variables of libpq that say which server, database or role is meant.
NAMES_A_SERVER = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
COMPUTED_DEFAULTS = {
    "data_dir": "jobsworth in the user's data folder",
    "deploy_file": "deploy.toml in the working directory, if there is one",
    "releases_dir": "releases in the data folder",
    "spool_dir": "spool in the data folder",
}
TYPE_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "a secret text",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the settings; `value` is None where none is shown."""

    name: str
    value: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        subject = self.name if self.value is None else f"{self.name}={self.value}"
        return f"{subject}: {self.reason}; {self.remedy}"


class SettingsError(Exception):
    """The settings cannot be used; the message has one line for each problem."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SettingReference(NamedTuple):
    """A setting as the reference prints it."""

    env_name: str
    type: str
    default: str
    description: str


def settings_reference() -> list[SettingReference]:
    """Every setting in the order of `Settings`, as text for `jobsworth doctor` and the docs."""
    return [
        SettingReference(
            env_name(name), _type_words(field), _default_words(name, field), field.description or ""
        )
        for name, field in Settings.model_fields.items()
    ]


def unknown_names(environ: Mapping[str, str]) -> Iterator[Problem]:
    """The variables that begin with our prefix and are not settings.

    Their values are not shown: a misspelt name may hold a key.
    """
    known = {env_name(name) for name in Settings.model_fields}
    for name in sorted(environ):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not NOT_SETTINGS.fullmatch(upper):
            yield Problem(name, None, "no such setting", _nearest(upper, known))


def _nearest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]
    return f"did you mean {close}? Otherwise unset it"


def invalid_values(error: ValidationError) -> Iterator[Problem]:
    """The settings whose values pydantic refused, and the overrides that are not settings."""
    for details in error.errors(include_url=False):
        # A default that is computed from a refused value is not a second problem.
        if details["type"] != "default_factory_not_called":
            yield _invalid_value(details)


def _invalid_value(details: ErrorDetails) -> Problem:
    given = str(details["loc"][0])
    name = "schema_name" if given == SCHEMA_VARIABLE else given
    field = Settings.model_fields.get(name)
    if field is None:
        return Problem(given, None, "no such setting", "see `jobsworth doctor` for their names")
    default = _default_words(name, field)
    return Problem(
        env_name(name),
        "(hidden)" if name in HIDDEN else _shown(details["input"]),
        re.sub(r"^(Value error,|Input|String) ", "", details["msg"]),
        f"give {_type_words(field)}, or unset it for the default ({default})",
    )


def contradictions(settings: Settings) -> Iterator[Problem]:
    """The settings that are each within their bounds but do not go together."""
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
    if settings.embedder == "semantic":
        yield from _not_with_semantic(settings)


def _not_with_semantic(settings: Settings) -> Iterator[Problem]:
    if settings.embedder_url is not None:
        yield Problem(
            env_name("embedder"),
            "semantic",
            f"is an embedder, and {env_name('embedder_url')} names another",
            "unset one of them",
        )
    if "embedder_dimensions" in settings.model_fields_set and settings.embedder_dimensions != 384:
        yield Problem(
            env_name("embedder_dimensions"),
            str(settings.embedder_dimensions),
            f"does not fit {env_name('embedder')}=semantic, whose vectors have 384 numbers",
            "unset it",
        )


def foreign_variables(
    settings: Settings, environ: Mapping[str, str], *, embedded: bool
) -> Iterator[Problem]:
    """The PG* variables that would lead elsewhere than the settings say.

    `embedded`: the embedded database was asked for by name.
    """
    url = env_name("database_url")
    given = settings.database_url
    if given is None and not embedded:
        named = [name for name in NAMES_A_SERVER if environ.get(name)]
        if named:
            yield Problem(
                ", ".join(named),
                None,
                f"{'names' if len(named) == 1 else 'name'} a database, and {url} is not set",
                f"set {url} to postgresql:/// to use PG* variables, or to {EMBEDDED} for "
                "the embedded database, which takes nothing from them",
            )
    if given is not None and environ.get("PGHOSTADDR"):
        parts = conninfo_to_dict(given)
        if parts.get("host") and not parts.get("hostaddr"):
            yield Problem(
                "PGHOSTADDR",
                None,
                f"would send connections to another address than {url} says",
                f"unset it, or give the address as hostaddr in {url}",
            )


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    printable = "".join(c if c.isprintable() else "�" for c in text)
    if len(printable) > VALUE_CHARACTERS_MAX:
        return printable[:VALUE_CHARACTERS_MAX] + "…"
    return printable


def _type_words(field: FieldInfo) -> str:
    for extra in field.metadata:
        if isinstance(extra, Words):
            return extra.text
    types = _flat(field.annotation)
    words = [repr(t) if isinstance(t, str) else TYPE_WORDS[t] for t in types]
    return " or ".join(words) + _bound_words(field)


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
    if name in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[name]
    default: object = field.get_default()
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
