"""What `jobsworth doctor` says of the spool: paid answers on this machine's disk.

In: the settings of the worker here. Out: what was found in its folder and beside it. Nothing is
changed: a worker settles these answers.
"""

from worker.cli.installation.finding import SHOWN_MAX, Finding, ok, warning
from worker.cli.terminal.words import count
from worker.money.spool_folder import SpoolFolder, folder_of, others_of
from worker.settings import Settings


def check_spool(settings: Settings) -> list[Finding]:
    """Whether answers wait here, whether they could be written, and which files are foreign."""
    folder = spool_folder(settings)
    path = folder.path
    try:
        found, elsewhere = folder.find(), others_of(path)
    except OSError as error:
        remedy = "run this as the worker's user"
        return [warning("spool", f"{path} cannot be read: {error.strerror}", remedy)]
    findings = [
        warning("spool", f"{path / name} does not belong to the spool", "move it away")
        for name in found.strange[:SHOWN_MAX]
    ]
    findings += [
        warning(
            "spool",
            f"{other} holds paid answers for another database or schema",
            "run a worker for it; or if it is this database under an old name, move the files to "
            f"{path}",
        )
        for other in elsewhere[:SHOWN_MAX]
    ]
    return [_answers(folder, len(found.entries)), *findings]


def spool_folder(settings: Settings) -> SpoolFolder:
    """The folder of this installation on this machine."""
    path = folder_of(
        settings.spool_dir, settings.database_url, settings.data_dir, settings.schema_name
    )
    return SpoolFolder(path, settings.spool_bytes_max)


def _answers(folder: SpoolFolder, files: int) -> Finding:
    if files:
        return warning(
            "spool",
            f"{count(files, 'paid answer')} in {folder.path} not in the database yet",
            "run a worker here: it settles them, and its log names those it cannot use "
            "(spool.refused)",
        )
    if not folder.usable():
        return warning(
            "spool",
            f"{folder.path} cannot be written: a paid answer is lost if the database is away",
            "set JOBSWORTH_SPOOL_DIR to a folder that the worker can write",
        )
    return ok("spool", "no paid answer waits on this machine")
