"""The demo has a folder and a database of its own, and leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest

from db.migrate import current
from tests.support import connect
from worker.demo.stage import open_stage
from worker.settings import Settings


def settings(folder: Path, url: str | None = None) -> Settings:
    values: dict[str, Any] = {"data_dir": folder, "database_url": url}
    return Settings(**values)


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def schemas(url: str) -> set[str]:
    with connect(url) as connection:
        rows = connection.execute("select nspname from pg_namespace").fetchall()
    return {row["nspname"] for row in rows if row["nspname"].startswith("jobsworth")}


async def test_in_a_given_database_it_has_a_schema_of_its_own(
    empty_database_url: str, tmp_path: Path
) -> None:
    async with open_stage(settings(tmp_path, empty_database_url), keep=False) as stage:
        assert schemas(empty_database_url) == {stage.schema}
        assert stage.schema.startswith("jobsworth_demo_")
        assert current(stage.url, stage.schema) is not None
        assert stage.folder.is_dir()
    assert schemas(empty_database_url) == set()
    assert entries(tmp_path) == []


async def test_it_is_gone_after_an_error_too(empty_database_url: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="an accident"):
        async with open_stage(settings(tmp_path, empty_database_url), keep=False):
            raise RuntimeError("an accident")
    assert schemas(empty_database_url) == set()
    assert entries(tmp_path) == []


async def test_an_existing_installation_is_not_touched(database_url: str, tmp_path: Path) -> None:
    async with open_stage(settings(tmp_path, database_url), keep=False):
        pass
    assert schemas(database_url) == {"jobsworth"}
    assert current(database_url, "jobsworth") is not None


async def test_what_is_kept_stays_and_can_be_found(empty_database_url: str, tmp_path: Path) -> None:
    async with open_stage(settings(tmp_path, empty_database_url), keep=True) as stage:
        pass
    assert schemas(empty_database_url) == {stage.schema}
    assert stage.folder.is_dir()
    assert stage.how_to_look == f"JOBSWORTH_SCHEMA={stage.schema}"


async def test_without_a_database_it_starts_one_of_its_own(tmp_path: Path) -> None:
    async with open_stage(settings(tmp_path), keep=False) as stage:
        assert stage.embedded
        assert current(stage.url, stage.schema) is not None
    assert entries(tmp_path) == []
