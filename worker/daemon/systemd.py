"""The service manager's side channel: readiness, status and the watchdog, by `sd_notify`.

In: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them. Out: datagrams, if
there is a service manager. Invariant: sending never fails and never waits, so it cannot hold up a
job. The protocol is that of sd_notify(3), without its library.
"""

import os
import socket


def ready() -> None:
    """Say that the daemon works; units ordered after it may start."""
    _notify("READY=1")


def status(text: str, address: str | None = None) -> None:
    """Set the line that `systemctl status` shows; `address` as for `watchdog`."""
    _notify("STATUS=" + " ".join(text.split()), address)


def stopping() -> None:
    """Say that the daemon is about to end in order."""
    _notify("STOPPING=1")


def watchdog(address: str | None = None) -> None:
    """Say that the claim loop moves; to be sent well within the watchdog's time.

    `address` is what `notify_socket` returned at the start: a handler may change the environment.
    """
    _notify("WATCHDOG=1", address)


def notify_socket() -> str:
    """Where the service manager listens; empty if there is none."""
    return os.environ.get("NOTIFY_SOCKET", "")


def watchdog_interval_seconds() -> float | None:
    """The interval for calls of `watchdog`: half the time after which systemd kills the process.

    None if no watchdog watches this process.
    """
    watched = os.environ.get("WATCHDOG_PID")
    limit = os.environ.get("WATCHDOG_USEC", "")
    if watched is not None and watched != str(os.getpid()):
        return None
    if not limit.isdecimal() or int(limit) == 0:
        return None
    return int(limit) / 1_000_000 / 2


def _notify(message: str, address: str | None = None) -> None:
    if address is None:
        address = notify_socket()
    if not address.startswith(("/", "@")):
        return
    # A leading @ stands for the NUL byte of Linux's abstract namespace.
    path = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), path)
    except OSError:
        return
