"""The spool's folder: settlements on this machine's disk, one file each.

In: how a call ended, with its answer. Out: a file that survives a crash of the process and of the
machine, and what is read back from it. Invariant: under its final name a file is whole (written
under another name, synced, renamed, and the folder synced). Files that cannot be read, and files
of another origin, are never touched.
"""

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from psycopg.conninfo import conninfo_to_dict
from pydantic import TypeAdapter
from pydantic_core import to_json

from db.documents import to_text
from db.errors import InvalidInput
from db.money.settlements import Settlement
from db.steps.steps import PaidAnswer
from worker.money.group_commit import Paid

FORMAT = 1
# A file that is being written; an old one is of a process that was killed meanwhile.
UNFINISHED = ".part"
UNFINISHED_SECONDS_MAX = 3600
_NAME = re.compile(r"(?P<job>[0-9a-f-]{36})\.(?P<call>[0-9a-f-]{36})\.json")


class SpoolUnreadable(Exception):
    """A file is damaged, of another format, or not one of ours."""


class Entry(NamedTuple):
    """A file of the spool, and the job that its name says."""

    name: str
    job_id: UUID


class Found(NamedTuple):
    """The files of a folder: those of settlements, and the names of all others."""

    entries: list[Entry]
    strange: list[str]


def folder_of(spool_dir: Path, database_url: str | None, data_dir: Path, schema: str) -> Path:
    """The folder of one installation: each database and schema has its own.

    The user in the URL makes no difference. Without a URL it is the embedded database's.
    """
    if database_url is None:
        place, name = str(data_dir), "embedded"
    else:
        given = conninfo_to_dict(database_url)
        parts = [given.get(part) or "" for part in ("host", "hostaddr", "port", "dbname")]
        place, name = "\n".join(map(str, parts)), str(parts[-1] or "default")
    shown = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]
    digest = hashlib.sha256(f"{place}\n{schema}".encode()).hexdigest()[:12]
    return spool_dir / f"{shown}.{schema}.{digest}"


def others_of(path: Path) -> list[Path]:
    """The folders beside this one that hold files: answers of other installations."""
    with suppress(FileNotFoundError, NotADirectoryError):
        beside = [other for other in path.parent.iterdir() if other.is_dir() and other != path]
        return sorted(other for other in beside if any(other.iterdir()))
    return []


class SpoolFolder:
    """The files of one installation on this machine; several daemons may share it.

    Every method blocks for as long as the disk takes.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max

    def find(self) -> Found:
        """The files that are there now; a missing folder is empty."""
        found = Found([], [])
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as listing:
            for file in listing:
                entry = _entry(file.name)
                if entry is not None:
                    found.entries.append(entry)
                elif not file.name.endswith(UNFINISHED) or _is_old(file):
                    found.strange.append(file.name)
        found.entries.sort()
        return found

    def write(self, job_id: UUID, paid: Paid) -> str:
        """Write a settlement so that it survives a crash of the machine; returns the file's name.

        A file of the same call is replaced. Raises `OSError`, also when the disk is full or the
        folder's bound is reached, and `ValueError` for text that is not Unicode.
        """
        document = _encode(paid)
        self._make()
        taken = sum(file.stat().st_size for file in os.scandir(self.path) if file.is_file())
        if taken + len(document) > self._bytes_max:
            raise OSError(errno.EDQUOT, f"it would hold more than {self._bytes_max:,} bytes")
        name = f"{job_id}.{paid.settlement.call_id}.json"
        unfinished = self.path / f".{name}.{os.getpid()}{UNFINISHED}"
        try:
            _write_synced(unfinished, document)
            os.replace(unfinished, self.path / name)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise
        _sync_folder(self.path)
        return name

    @contextmanager
    def taken(self, name: str) -> Generator[Paid | None]:
        """The settlement in a file, which no other daemon can take within this context.

        None if another daemon has taken it, or it is gone. Raises `SpoolUnreadable`.
        """
        try:
            file = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise SpoolUnreadable(f"it cannot be opened: {error.strerror}") from error
        try:
            yield _decode(_read(file), name) if _lock(file) else None
        finally:
            # Closing releases the lock; so does the end of a killed process.
            os.close(file)

    def remove(self, name: str) -> None:
        """Remove the file of a settlement that is in the database."""
        with suppress(FileNotFoundError):
            os.unlink(self.path / name)

    def usable(self) -> bool:
        """Whether a file could be written here. Creates nothing."""
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        return place.is_dir() and os.access(place, os.W_OK | os.X_OK)

    def _make(self) -> None:
        missing: list[Path] = []
        place = self.path
        while not place.exists():
            missing.append(place)
            place = place.parent
        for place in reversed(missing):
            # Answers are the users' content: no other account of this machine may read them.
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)
            _sync_folder(place.parent)


def _entry(name: str) -> Entry | None:
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    try:
        UUID(parts["call"])
        return Entry(name, UUID(parts["job"]))
    except ValueError:
        return None


def _is_old(file: os.DirEntry[str]) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime > UNFINISHED_SECONDS_MAX
    return False


def _write_synced(path: Path, document: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(path, flags, 0o600)
    try:
        rest = memoryview(document)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # The daemon that had the lock may have removed the file.
    return os.fstat(file).st_nlink > 0


def _read(file: int) -> bytes:
    try:
        with os.fdopen(os.dup(file), "rb") as reader:
            return reader.read()
    except OSError as error:
        raise SpoolUnreadable(f"it cannot be read: {error.strerror}") from error


def _encode(paid: Paid) -> bytes:
    settlement, answer = paid
    error = settlement.error and to_text(settlement.error)
    return to_json(
        {
            "format": FORMAT,
            "settlement": settlement._replace(error=error)._asdict(),
            "answer": answer and answer._asdict(),
        }
    )


def _decode(document: bytes, name: str) -> Paid:
    try:
        found: Any = orjson.loads(document)
        if found["format"] != FORMAT:
            raise SpoolUnreadable(f"it is not of format {FORMAT}")
        settlements, answers = _adapters()
        settlement = settlements.validate_python(found["settlement"])
        kept: Any = found["answer"]
        answer = answers.validate_python(kept) if kept else None
    except (ValueError, LookupError, TypeError, InvalidInput) as error:
        # Only the error's type: its text quotes what is in the file.
        raise SpoolUnreadable(f"it is damaged or not ours: {type(error).__name__}") from error
    if f".{settlement.call_id}." not in name:
        raise SpoolUnreadable("its content is of another call than its name")
    return Paid(settlement, answer)


@cache
def _adapters() -> tuple[TypeAdapter[Settlement], TypeAdapter[PaidAnswer]]:
    return TypeAdapter(Settlement), TypeAdapter(PaidAnswer)
