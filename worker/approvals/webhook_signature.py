"""Signatures of webhooks, as https://www.standardwebhooks.com describes them.

In: one secret, or two with a comma between: the new one and the previous one, while the secret is
being changed. Out: headers with a signature by each secret, and whether a request is signed by one.

Invariant: a receiver that knows either secret can verify a delivery, so receivers can change to the
new one each at its own time, and no delivery is lost.
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
    """A new random secret."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(KEY_BYTES)).decode()


def keys(secret: str) -> list[bytes]:
    """The keys of one or two secrets. Raises `ValueError`, whose text repeats no part of them."""
    found = [_key(one.strip()) for one in secret.split(",")]
    if len(found) > SECRETS_MAX:
        raise ValueError("has more than two secrets: give the new one and the previous one")
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
    """Whether a key of `secret` signed this request, at most five minutes ago.

    `headers` must find names in lower case, as those of aiohttp, httpx and starlette do.
    """
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    # isdecimal alone also accepts the digits of other scripts, and any length.
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
        # Without the cause, which would show part of the secret.
        raise ValueError("is not whsec_ and 24 to 64 bytes in base64") from None
    return key
