"""Signatures of webhooks, as https://www.standardwebhooks.com describes them.

In: one secret, or two with a comma between: while secrets are changed, the new one and the one
before. Out: headers that carry a signature by each of them, and whether a request is signed by any.

Invariant: whoever knows one of the two believes what is sent, so no delivery is lost while those
who listen are told the new one, each in its own time.
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from uuid import UUID

SECRET_PREFIX = "whsec_"
SECRETS_MAX = 2
KEY_BYTES = 32
KEY_BYTES_MIN, KEY_BYTES_MAX = 24, 64
CLOCKS_APART_SECONDS_MAX = 300


def new_secret() -> str:
    """A secret as good as any."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(KEY_BYTES)).decode()


def keys(secret: str) -> list[bytes]:
    """The keys in one or two secrets. Raises `ValueError`, whose text repeats nothing of them."""
    found = [_key(one.strip()) for one in secret.split(",")]
    if len(found) > SECRETS_MAX:
        raise ValueError("is more than two secrets: the new one, and the one before")
    return found


def signature(secret: str, message_id: UUID | str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over `id.timestamp.body` in base64, by each key
    of `secret`, with spaces between.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        for key in keys(secret)
    )


def is_signed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether this request was signed lately, by a key of `secret`.

    `headers` finds names in lower case, as those of aiohttp, httpx and starlette do.
    """
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    # isdecimal alone is also true of digits of other scripts, of any length.
    if not (sent_at.isascii() and sent_at.isdecimal() and len(sent_at) <= len("9999999999")):
        return False
    if abs(time.time() - int(sent_at)) > CLOCKS_APART_SECONDS_MAX:
        return False
    expected = signature(secret, message_id, int(sent_at), body).split()
    given = headers.get("webhook-signature", "").split()
    return any(
        hmac.compare_digest(ours.encode(), theirs.encode(errors="replace"))
        for ours in expected
        for theirs in given
    )


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        # Without its cause, which would show a piece of it.
        raise ValueError("is not whsec_ and 24 to 64 bytes in base64") from None
    return key
