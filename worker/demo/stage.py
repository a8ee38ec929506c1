"""The demo's own folder and database.

In: the settings. Out: a migrated, empty installation, and a folder for everything the demo makes.
Invariant: nothing that existed before is touched; unless the caller keeps it, everything the demo
made is removed when the block ends, however it ends.
"""

import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from db.errors import InvalidInput
from db.migrate import migrate
from db.server.embedded import start
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Stage:
    """The demo's installation; `embedded`: its database is a server of its own, in its folder."""

    folder: Path
    url: str
    schema: str
    embedded: bool

    @property
    def releases_dir(self) -> Path:
        return self.folder / "releases"

    @property
    def reading_log(self) -> Path:
        """The file in which the `digest` jobs log the chapters they read."""
        return self.folder / "reading.log"

    @property
    def diary(self) -> Path:
        """The file in which the other jobs log what they did."""
        return self.folder / "diary.log"

    @property
    def wanted(self) -> Path:
        """The file in which the `order` job finds how many crates are wanted."""
        return self.folder / "wanted.txt"

    @property
    def how_to_look(self) -> str:
        """The setting with which the other commands see what was kept."""
        if self.embedded:
            return f"JOBSWORTH_DATA_DIR={self.folder}"
        return f"JOBSWORTH_SCHEMA={self.schema}"


@asynccontextmanager
async def open_stage(settings: Settings, keep: bool) -> AsyncGenerator[Stage]:
    """Make an installation for one demo. Raises `InvalidInput` and errors of the database."""
    name = secrets.token_hex(4)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder(settings.data_dir / "demo" / name, keep))
        if settings.database_url is None:
            url = await stack.enter_async_context(_own_server(folder))
            schema = settings.schema_name
            await anyio.to_thread.run_sync(migrate, url, schema)
            yield Stage(folder, url, schema, embedded=True)
        else:
            schema = f"jobsworth_demo_{name}"
            await stack.enter_async_context(_own_schema(settings.database_url, schema, keep))
            yield Stage(folder, settings.database_url, schema, embedded=False)


@contextmanager
def _folder(folder: Path, keep: bool) -> Generator[Path]:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InvalidInput(
            f"the demo's folder {folder} cannot be made: {error.strerror or error}",
            "set JOBSWORTH_DATA_DIR to a directory of your own",
        ) from error
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_if_empty(folder.parent)


def _remove_if_empty(folder: Path) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        return


@asynccontextmanager
async def _own_server(folder: Path) -> AsyncGenerator[str]:
    server = await anyio.to_thread.run_sync(start, folder)
    try:
        yield server.url
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.close)


@asynccontextmanager
async def _own_schema(url: str, schema: str, keep: bool) -> AsyncGenerator[None]:
    try:
        await anyio.to_thread.run_sync(migrate, url, schema)
        yield
    finally:
        if not keep:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(migrate, url, schema, "base")
