"""The account that the embedded server runs as, since PostgreSQL refuses to run as root.

In: the directory of the server's data. Out: the account to run as, or None for the current one;
directories that this account may reach.

Invariant: nothing changes for an ordinary user. For root, directories gain at most the right of
others to pass through (`o+x`), and the server's programs the right to be read.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

SYSTEM_USER = "pgserver"

# An account other than root: the owner of the data, else a system user.
Account = pwd.struct_passwd


class NoAccountError(Exception):
    """There is no account other than root to run the server as, and none can be made."""


def server_account(data: Path) -> Account | None:
    """The account to run the server as; None: the current one. Raises `NoAccountError`."""
    if os.geteuid() != 0:
        return None
    return _owner(data) or _find(SYSTEM_USER) or _made(SYSTEM_USER)


def let_pass(directory: Path) -> None:
    """Let every account pass through `directory` and its parents, without listing them."""
    for step in (directory, *directory.parents):
        mode = stat.S_IMODE(step.stat().st_mode)
        if not mode & stat.S_IXOTH:
            step.chmod(mode | stat.S_IXOTH)


def let_read(tree: Path) -> None:
    """Let every account read and execute what is in `tree`."""
    for path in (tree, *tree.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if mode != wanted:
            path.chmod(wanted)


def _owner(data: Path) -> Account | None:
    if not data.exists():
        return None
    try:
        owner = pwd.getpwuid(data.stat().st_uid)
    except KeyError:
        return None
    return owner if owner.pw_uid != 0 else None


def _find(name: str) -> Account | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _made(name: str) -> Account:
    useradd = shutil.which("useradd")
    if useradd is None:
        raise NoAccountError(f"there is no system user {name} and no program useradd to make one")
    command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    # Looked up even if useradd failed: another process may have made it meanwhile.
    if (account := _find(name)) is None:
        raise NoAccountError(f"system user {name} cannot be made: {done.stderr.strip()}")
    return account
