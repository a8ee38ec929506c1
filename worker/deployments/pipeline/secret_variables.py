"""The secret variables of an environment, and their values.

Stage: before a deployment is begun, and for every command it runs.
In: an `Environment`, the worker's own environment. Out: the values, and the `Masker` that hides
them in everything that is stored.
Invariant: a command gets no secret that could not be masked.
"""

import os
from collections.abc import Callable, Mapping

from worker.deployments.pipeline.config import Environment
from worker.deployments.pipeline.errors import SecretMissing
from worker.masking import MASK, SECRET_CHARACTERS_MIN, SECRET_NAME, Masker


def masker_of(environment: Environment) -> Masker:
    """The masker for everything that deployments there store. Raises `SecretMissing`."""
    named = {
        value
        for name, value in environment.environment.items()
        if SECRET_NAME.search(name) and len(value) >= SECRET_CHARACTERS_MIN
    }
    return Masker(named | set(secret_variables(environment).values()))


def secret_variables(
    environment: Environment, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables listed under `secrets`, with their values from deploy.toml or the worker.

    Raises `SecretMissing` for a variable without a value, or with one too short to be masked.
    """
    values: dict[str, str] = {}
    for name in environment.secrets:
        value = environment.environment.get(name) or inherited.get(name, "")
        if len(value) < SECRET_CHARACTERS_MIN:
            raise SecretMissing(
                environment.name, name, "not set" if not value else "too short to be masked"
            )
        values[name] = value
    return values


def shown_variables(environment: Environment, mask: Callable[[str], str]) -> dict[str, str]:
    """All variables of an environment, for people; the values of secret ones are masked."""
    shown = {
        name: MASK if SECRET_NAME.search(name) else mask(value)
        for name, value in environment.environment.items()
    }
    return shown | dict.fromkeys(environment.secrets, MASK)
