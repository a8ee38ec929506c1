"""Errors as answers: `application/problem+json`, with the name, the reason and the remedy.

In: an exception that left a route. Out: a document of RFC 9457 and its status. Invariant: each
problem says what to do about it, and none shows a traceback or a secret.
"""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from db.errors import (
    Conflict,
    DatabaseError,
    InvalidInput,
    JobsworthError,
    NotFound,
    Refused,
    SchemaMismatch,
)
from worker import events
from worker.log import get_logger
from worker.masking import mask

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
ERRORS_MAX = 20
# By the beginning of PostgreSQL's code; the longest that fits counts.
REFUSED = {"28": 401, "42501": 403, "22": 422, "23": 422, "54": 422, "P0001": 422, "25006": 409}
TITLES = {
    400: "bad request",
    401: "not authenticated",
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    408: "too slow",
    409: "conflict",
    413: "too large",
    415: "not JSON",
    422: "invalid input",
    431: "header too large",
    500: "internal error",
    503: "unavailable",
}
REMEDIES = {
    404: "see the paths in openapi.json",
    405: "see the methods of this path in openapi.json",
    415: "send the header content-type: application/json",
}
CORRECT = "correct what is named in errors"
# What can be wrong with a body as a whole, by pydantic's name for it.
BODY_REMEDIES = {
    "json_invalid": "send JSON: names and texts in double quotes, no comma after the last item",
    "missing": "send a JSON object as the body, as openapi.json describes it",
    "model_attributes_type": "send a JSON object, with the header content-type: application/json",
}
UNREADABLE = "There was an error parsing the body"  # FastAPI's words
INTERNAL = "look the request id up in the log of the server, and report it"

logger = get_logger()


class Unauthorized(JobsworthError):
    """No token, or one that nobody issued, or that is revoked or expired."""


class Forbidden(JobsworthError):
    """The caller is known, and may not do this."""


class RolesMissing(JobsworthError):
    """The database has not the role in which a team's rows are all there is."""


class TooLarge(JobsworthError):
    """The body of a request is larger than the limit."""


class HeaderTooLarge(JobsworthError):
    """The headers of a request are larger than the limit."""


class TooSlow(JobsworthError):
    """The body of a request did not come in time."""


class Wrong(BaseModel):
    """One value that is not usable: where it stands, and why."""

    where: str
    reason: str


class Problem(BaseModel):
    """Why a request was not done. `remedy` says what to do about it."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    request_id: str | None = None
    errors: list[Wrong] = []


def status_of(error: JobsworthError) -> int:
    """The status of an answer to an error of ours."""
    match error:
        case Unauthorized():
            return 401
        case Forbidden():
            return 403
        case TooLarge():
            return 413
        case HeaderTooLarge():
            return 431
        case TooSlow():
            return 408
        case InvalidInput():
            return 422
        case NotFound():
            return 404
        case Conflict():
            return 409
        case SchemaMismatch() | RolesMissing():
            return 503
        case Refused(sqlstate=str() as code):
            fits = [known for known in REFUSED if code.startswith(known)]
            return REFUSED[max(fits, key=len)] if fits else 500
        case DatabaseError() if error.retriable:
            return 503
        case _:
            return 500


def problem(
    request_id: str | None, status: int, detail: str, remedy: str, errors: list[Wrong] | None = None
) -> Response:
    """The answer for a problem."""
    title = TITLES.get(status, "error")
    said = Problem(
        type=f"urn:jobsworth:{title.replace(' ', '-')}",
        title=title,
        status=status,
        detail=mask(detail),
        remedy=remedy or INTERNAL,
        request_id=request_id,
        errors=errors or [],
    )
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="jobsworth"'
    return JSONResponse(said.model_dump(), status, headers, MEDIA_TYPE)


def problem_of(request_id: str | None, error: Exception) -> Response:
    """The answer for whatever left a route."""
    if isinstance(error, JobsworthError):
        status = status_of(error)
        if status == 500:
            _report(request_id, error)
        return problem(request_id, status, error.message, error.remedy)
    if isinstance(error, RequestValidationError | ValidationError):
        found = error.errors()[:ERRORS_MAX]
        wrong = [_wrong(each) for each in found]
        said = "; ".join(f"{each.where}: {each.reason}" for each in wrong)
        remedy = next((BODY_REMEDIES[each["type"]] for each in found if _is_of_body(each)), CORRECT)
        return problem(request_id, 422, said, remedy, wrong)
    if isinstance(error, HTTPException):
        if error.detail == UNREADABLE:
            said = "the body cannot be read as JSON: it is not UTF-8, or nested too deeply"
            return problem(request_id, 400, said, "send JSON of UTF-8 text, less nested")
        remedy = REMEDIES.get(error.status_code, "see openapi.json")
        return problem(request_id, error.status_code, str(error.detail), remedy)
    _report(request_id, error)
    return problem(request_id, 500, "this request met an error of Jobsworth's own", INTERNAL)


def answer_errors(app: FastAPI) -> None:
    """Let `app` answer every error as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(request.scope.get("request_id"), error)

    for kind in (JobsworthError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI says that a route may answer with these problems, beside the usual ones."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": TITLES[status], "content": {MEDIA_TYPE: schema}}
        for status in sorted({401, 403, 422, 503, *statuses})
    }


def _is_of_body(error: Any) -> bool:
    return error["type"] == "json_invalid" or (
        error["loc"] == ("body",) and error["type"] in BODY_REMEDIES
    )


def _wrong(error: Any) -> Wrong:
    if error["type"] == "json_invalid":
        # Where it stands is a number of characters, not a name.
        reason = f"is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
        return Wrong(where="body", reason=reason)
    where = ".".join(str(part) for part in error["loc"] if part != "body") or "body"
    return Wrong(where=where, reason=str(error["msg"]).removeprefix("Value error, "))


def _report(request_id: str | None, error: Exception) -> None:
    logger.error(events.REQUEST_FAILED, request_id=request_id, error=repr(error), exc_info=error)
