"""What tests inherit from the program that starts them, set to what a quiet terminal has.

In: this process, started by `nohup`, by a service manager, in a git hook, by a shell with settings
of its own. Out: the same process and its children, with the surroundings that the tests expect.
Invariant: no test depends on a signal, a mask, a limit or a variable that it did not set itself.
"""

from __future__ import annotations

import os
import pwd
import re
import resource
import signal
import time

# Variables that steer PostgreSQL's client, git, the SDKs, systemd, the terminal and Python.
FOREIGN = re.compile(
    r"PG[A-Z]+|GIT_(DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|PREFIX)|(OPENAI|ANTHROPIC)_\w+"
    r"|NOTIFY_SOCKET|WATCHDOG_(USEC|PID)|LISTEN_(FDS|PID|FDNAMES)"
    r"|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|CLICOLOR(_FORCE)?|TTY_(COMPATIBLE|INTERACTIVE)"
    r"|PYTHON(WARNINGS|STARTUP|UTF8|IOENCODING|INSPECT|DEVMODE|ASYNCIODEBUG)|TZ|LC_\w+|LANGUAGE"
    r"|JOBSWORTH_(?!CHAOS_|FAULT_|TEST_)\w+"
)
SIGNALS = (
    *(signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
)
OPEN_FILES = 4096


def settle() -> None:
    """Set signals, mask, umask, limits, standard input and variables; in the main thread."""
    # A shell's background job, and `nohup`, start with signals ignored or blocked, and a process
    # started from here would inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    _open_standard_input()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    for name in [name for name in os.environ if FOREIGN.fullmatch(name)]:
        del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"
    os.environ.setdefault("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    # Not the proxies themselves: the tests of the installed wheel download through them.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    time.tzset()


def _open_standard_input() -> None:
    try:
        os.fstat(0)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free
