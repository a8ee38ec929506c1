"""The spool's folder: settlements on this machine's disk, one file each.

In: how a call ended, with its answer. Out: a file that survives a crash of the process and of the
machine, and what is read back from it. Invariant: under its final name a file is whole (written
under another name, synced, renamed, and the folder synced). What cannot be read, or was not written
here, is never touched.
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
# Somebody is writing it; or, when that was long ago, was killed while doing so.
UNFINISHED = ".part"
UNFINISHED_SECONDS_MAX = 3600
_NAME = re.compile(r"(?P<job>[0-9a-f-]{36})\.(?P<call>[0-9a-f-]{36})\.json")


class SpoolUnreadable(Exception):
    """A file is torn, of another version, or not one of ours."""


class Entry(NamedTuple):
    """A file of the spool, by what its name says."""

    name: str
    job_id: UUID


class Found(NamedTuple):
    """What lies in a folder: the settlements' files, and the names of what is no such file."""

    entries: list[Entry]
    strange: list[str]


def folder_of(spool_dir: Path, database_url: str | None, data_dir: Path, schema: str) -> Path:
    """Where the answers of one installation are kept: another for each database and schema.

    Who connects as makes no difference. Without a URL it is the embedded database of `data_dir`.
    """
    if database_url is None:
        place, name = str(data_dir), "embedded"
    else:
        known = conninfo_to_dict(database_url)
        parts = [known.get(part) or "" for part in ("host", "hostaddr", "port", "dbname")]
        place, name = "\n".join(map(str, parts)), str(parts[-1] or "default")
    shown = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:40]
    digest = hashlib.sha256(f"{place}\n{schema}".encode()).hexdigest()[:12]
    return spool_dir / f"{shown}.{schema}.{digest}"


def others_of(path: Path) -> list[Path]:
    """The folders beside this one that hold files: answers for other databases or schemas."""
    with suppress(FileNotFoundError, NotADirectoryError):
        beside = [other for other in path.parent.iterdir() if other.is_dir() and other != path]
        return sorted(other for other in beside if any(other.iterdir()))
    return []


class SpoolFolder:
    """The files of one installation on this machine; several daemons may share it.

    Everything here blocks for as long as the disk takes, `find` for as long as a listing.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max

    def find(self) -> Found:
        """What is there now; a folder that is not there is empty."""
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
        """Write a settlement so that it outlives the machine's crash; returns the file's name.

        A file of the same call is replaced. Raises `OSError`, also when the disk or the bound is
        full, and `ValueError` for text that is none.
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
        """What a file says, for as long as no other daemon may take it.

        None if another has it right now, or it is gone. Raises `SpoolUnreadable`.
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
            # The lock goes with this, and with the process if it is killed.
            os.close(file)

    def remove(self, name: str) -> None:
        """Forget a settlement that is in the database; if it comes back, no harm is done."""
        with suppress(FileNotFoundError):
            os.unlink(self.path / name)

    def usable(self) -> bool:
        """Could a file be written here? Creates nothing."""
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
            # Answers are the users' content: nobody else on this machine may read them.
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
    # Whoever had it may have removed it.
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
        said: Any = orjson.loads(document)
        if said["format"] != FORMAT:
            raise SpoolUnreadable(f"it is not of format {FORMAT}")
        settlements, answers = _adapters()
        settlement = settlements.validate_python(said["settlement"])
        kept: Any = said["answer"]
        answer = answers.validate_python(kept) if kept else None
    except (ValueError, LookupError, TypeError, InvalidInput) as error:
        # Its first line only: the others quote what is in the file.
        raise SpoolUnreadable(f"it is torn or not ours: {type(error).__name__}") from error
    if f".{settlement.call_id}." not in name:
        raise SpoolUnreadable("it is of another call than its name says")
    return Paid(settlement, answer)


@cache
def _adapters() -> tuple[TypeAdapter[Settlement], TypeAdapter[PaidAnswer]]:
    return TypeAdapter(Settlement), TypeAdapter(PaidAnswer)
