"""The frames in which an isolated handler's process answers: a kind, a length, and the bytes.

Two processes write into the same pipe: the one that ran the handler sends an `ANSWER`; the one that
watches over it sends an `EXIT` when the first has ended.
"""

import os

ANSWER, EXIT = b"A", b"X"
HEAD_BYTES = 9


def send(to: int, kind: bytes, *parts: bytes) -> None:
    """Write one frame, waiting for its reader."""
    size = sum(map(len, parts))
    for part in (kind + size.to_bytes(HEAD_BYTES - 1, "big"), *parts):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(to, rest) :]


def head_of(received: bytes | bytearray) -> tuple[bytes, int]:
    """The kind and the length of the frame that begins here."""
    return bytes(received[:1]), int.from_bytes(received[1:HEAD_BYTES], "big")
