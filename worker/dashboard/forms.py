"""Forms: read, and proven to be sent by our own page.

In: a POST of a browser. Out: its fields, or `Refused`. A form counts only if its origin is this
server's and its token is the one in the cookie that the page set: either alone would do in a recent
browser. What is said after an action travels in a cookie that only the next page reads, so no
address can put words into our mouth.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import parse_qsl, urlsplit

import orjson
from fastapi import Request, Response

from db.errors import InvalidInput, Refused
from worker.dashboard.frame import Said

FORM_COOKIE = "jobsworth_form"
SAID_COOKIE = "jobsworth_said"
SAID_CHARACTERS_MAX = 1_000
FORM_BYTES_MAX = 256 * 1024
FIELDS_MAX = 50
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,60}")


def form_token(request: Request) -> str:
    """The token of this browser's forms; a new one if it has none yet."""
    known = request.cookies.get(FORM_COOKIE, "")
    return known if _TOKEN.fullmatch(known) else secrets.token_urlsafe(24)


async def read(request: Request) -> dict[str, str]:
    """The fields of our own form. Raises `Refused`, `InvalidInput`."""
    _require_same_origin(request)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise InvalidInput("the form is too long", "write less")
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError as error:
        raise InvalidInput("the form cannot be read", "go back, and send it again") from error
    sent, known = fields.pop("form", ""), request.cookies.get(FORM_COOKIE, "")
    if not (_TOKEN.fullmatch(known) and hmac.compare_digest(sent.encode(), known.encode())):
        raise Refused(
            "this form was not made for this browser, or its cookie is gone",
            "go back, load the page again, and send it then",
            "42501",
        )
    return {name: value.replace("\0", "") for name, value in fields.items()}


def way_back(fields: dict[str, str], base: str) -> str:
    """The address to go on to: one of our own pages, whatever the form says."""
    wanted = urlsplit(fields.get("back", ""))
    path = wanted.path
    inside = path == base or path.startswith(f"{base}/")
    if wanted.scheme or wanted.netloc or not inside or path.startswith("//") or "\\" in path:
        return base or "/"
    return path + (f"?{wanted.query}" if wanted.query else "")


def said(request: Request) -> Said | None:
    """What the action before this page had to say."""
    try:
        text, is_bad = orjson.loads(urlsafe_b64decode(request.cookies.get(SAID_COOKIE, "")))
        return Said(str(text), bool(is_bad))
    except (ValueError, TypeError):
        return None


def say(response: Response, words: Said, path: str, request: Request) -> None:
    """Let the next page say it."""
    value = urlsafe_b64encode(orjson.dumps([words.text[:SAID_CHARACTERS_MAX], words.is_bad]))
    set_cookie(response, SAID_COOKIE, value.decode(), path, request, seconds=30)


def set_cookie(
    response: Response,
    name: str,
    value: str,
    path: str,
    request: Request,
    *,
    seconds: int | None = None,
) -> None:
    """A cookie that scripts cannot read, and that forms of other sites do not send."""
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=path,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def _require_same_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None:
        ours = urlsplit(origin).netloc == request.headers.get("host", "") != ""
    else:
        ours = request.headers.get("sec-fetch-site") == "same-origin"
    if not ours:
        raise Refused(
            "this form comes from another site", "open the page here, and send it again", "42501"
        )
