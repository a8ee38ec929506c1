"""Traces by setting: OpenTelemetry is imported here, if `JOBSWORTH_TRACES` asks for it."""

from importlib import import_module
from typing import Any
from uuid import UUID

from db.errors import ExtraMissing


def start(traces: str, instance_id: UUID) -> Any:
    """An `Otel`; None while traces are off.

    Raises `ExtraMissing` without the extra, `InvalidInput` for a variable that cannot be used.
    """
    if traces == "off":
        return None
    try:
        otel = import_module("worker.tracing.otel")
    except ImportError as error:
        raise ExtraMissing(
            f"JOBSWORTH_TRACES={traces} needs {error.name}, which is not installed",
            "otel",
            "set JOBSWORTH_TRACES=off",
        ) from error
    return otel.Otel(traces, instance_id)
