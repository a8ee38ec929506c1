"""The service manager's side channel: readiness, status and the watchdog, by `sd_notify`.

In: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them. Out: datagrams; none
where there is no service manager. Invariant: telling it never fails and never waits, so nothing
here can hold up a job. The protocol is that of sd_notify(3), without its library.
"""

import os
import socket


def ready() -> None:
    """The daemon works; units ordered after it may start."""
    _notify("READY=1")


def status(text: str) -> None:
    """One line for `systemctl status`."""
    _notify("STATUS=" + " ".join(text.split()))


def stopping() -> None:
    """The daemon drains; what follows is its orderly end."""
    _notify("STOPPING=1")


def watchdog() -> None:
    """The claim loop has made progress; to be sent well within the watchdog's time."""
    _notify("WATCHDOG=1")


def watchdog_interval_seconds() -> float | None:
    """How often to call `watchdog`: half the time after which we would be killed.

    None where no watchdog watches this process.
    """
    watched = os.environ.get("WATCHDOG_PID")
    limit = os.environ.get("WATCHDOG_USEC", "")
    if watched is not None and watched != str(os.getpid()):
        return None
    if not limit.isdecimal() or int(limit) == 0:
        return None
    return int(limit) / 1_000_000 / 2


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
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
