"""Ids made by the client, so that a write repeated after a lost COMMIT answer is harmless."""

import os
import time
from uuid import UUID

_VERSION = 7 << 76
_VARIANT = 2 << 62
_RANDOM = (1 << 62) - 1


def uuidv7() -> UUID:
    """A UUID of version 7 (RFC 9562): milliseconds, 12 bits for their fraction, 62 random bits.

    Two successive calls are further apart than the fraction resolves (0.24 µs), so the ids of one
    process sort in the order they were made.
    """
    return UUID(int=uuidv7_int())


def uuidv7_int() -> int:
    """`uuidv7` as a number: formatted with `:032x`, it costs a third of what the object costs."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) & _RANDOM
    return milliseconds << 80 | _VERSION | fraction << 64 | _VARIANT | random
