"""Settings: what an operator has told this Jobsworth process, read before anything else starts.

In: `JOBSWORTH_*` environment variables, and the command line's overrides. Out: one frozen
`Settings`, or a `SettingsError` that lists every problem at once, each with its remedy. Invariant:
what `load_settings` returns is complete and within bounds, and no variable that was meant for
Jobsworth has been ignored. An empty variable counts as unset.

`fields` has the settings, `checks` the types of their values, `problems` what the operator is told.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from worker.settings.checks import EMBEDDED, MODEL_PROVIDERS
from worker.settings.fields import PREFIX, Settings, env_name
from worker.settings.problems import (
    Problem,
    SettingReference,
    SettingsError,
    contradictions,
    foreign_variables,
    invalid_values,
    settings_reference,
    unknown_names,
)

__all__ = [
    "MODEL_PROVIDERS",
    "PREFIX",
    "Problem",
    "SettingReference",
    "Settings",
    "SettingsError",
    "env_name",
    "load_settings",
    "load_settings_despite_unknown_names",
    "settings_reference",
]


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; an override, named as the field, wins over its variable.

    Raises `SettingsError` with every unknown, malformed or contradictory setting.
    """
    settings, problems = _read(overrides)
    problems = [*unknown_names(os.environ), *problems]
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


def load_settings_despite_unknown_names() -> Settings | None:
    """The settings of the environment; None if one of them is malformed or contradictory."""
    settings, problems = _read({})
    return None if problems else settings


def _read(overrides: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        return None, list(invalid_values(error))
    named = os.environ.get(env_name("database_url"), "").strip().lower() == EMBEDDED
    foreign = foreign_variables(settings, os.environ, embedded=named)
    return settings, [*contradictions(settings), *foreign]
