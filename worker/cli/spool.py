"""What `jobsworth doctor` says of the spool: paid answers on this machine's disk.

In: the settings of the worker here. Out: what was found in its folder and beside it. Invariant: it
only looks; it is a worker that settles them.
"""

from typing import Literal, NamedTuple

from worker.money.spool_folder import SpoolFolder, folder_of, others_of
from worker.settings import Settings

SHOWN_MAX = 10


class Said(NamedTuple):
    """The parts of a finding."""

    mark: Literal["ok", "warning", "problem"]
    subject: str
    text: str
    remedy: str = ""


def check_spool(settings: Settings) -> list[Said]:
    """Whether answers wait here, whether they could, and what else lies there."""
    path = folder_of(
        settings.spool_dir, settings.database_url, settings.data_dir, settings.schema_name
    )
    folder = SpoolFolder(path, settings.spool_bytes_max)
    try:
        found, elsewhere = folder.find(), others_of(path)
    except OSError as error:
        remedy = "run this as the worker's user"
        return [Said("warning", "spool", f"{path} cannot be read: {error.strerror}", remedy)]
    said = [
        Said("warning", "spool", f"{path / name} is no file of the spool", "move it away")
        for name in found.strange[:SHOWN_MAX]
    ]
    said += [
        Said(
            "warning",
            "spool",
            f"{other} holds paid answers for another database or schema",
            "run a worker for it; or if it is this database under an old name, move the files to "
            f"{path}",
        )
        for other in elsewhere[:SHOWN_MAX]
    ]
    return [_answers(folder, len(found.entries)), *said]


def _answers(folder: SpoolFolder, files: int) -> Said:
    if files:
        return Said(
            "warning",
            "spool",
            f"{files} paid answer{'' if files == 1 else 's'} in {folder.path} "
            "not in the database yet",
            "run a worker here: it settles them, and its log names those it cannot use "
            "(spool.refused)",
        )
    if not folder.usable():
        return Said(
            "warning",
            "spool",
            f"{folder.path} cannot be written: a paid answer is lost if the database is away",
            "set JOBSWORTH_SPOOL_DIR to a folder that the worker can write",
        )
    return Said("ok", "spool", "no paid answer waits on this machine")
