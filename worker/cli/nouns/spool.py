"""`jobsworth spool list`: paid answers on this machine's disk that are not in the database yet.

In: the settings of the worker here. Out: one row for each answer. Nothing is changed: a worker
settles these answers.
"""

from worker.cli.installation.spool_check import spool_folder
from worker.cli.terminal import options
from worker.cli.terminal.commands import Noun
from worker.cli.terminal.output import Column, emit_json, emit_table, say
from worker.settings import load_settings

COLUMNS = [Column("JOB"), Column("FILE")]

spool = Noun("spool", "The spool: paid answers on this machine that are not in the database yet.")


@spool.verb("list", "jobsworth spool")
@options.as_json
def list_answers(as_json: bool) -> None:
    """List paid answers that wait on this machine for a worker to settle them."""
    folder = spool_folder(load_settings())
    found = folder.find().entries
    if as_json:
        emit_json([{"job_id": each.job_id, "file": folder.path / each.name} for each in found])
        return
    rows = [[str(each.job_id), str(folder.path / each.name)] for each in found]
    emit_table(COLUMNS, rows, "no paid answer waits on this machine")
    if found:
        say("a worker on this machine settles them\n  → jobsworth worker")
