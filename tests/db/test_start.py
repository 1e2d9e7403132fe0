"""The start: a durable beginning before the first request, or none (design §4, fact 14)."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import CabinetError, StorageBusy, StorageFailed
from app.main import Container
from app.unit import UnitOfWork
from tests.support.house import house_settings, quiet_pipeline


def container_in(folder: Path, **changes: Any) -> Container:
    """Return a container on a file in the folder, not yet open."""
    return Container(house_settings(folder, **changes), pipeline=quiet_pipeline())


async def test_a_container_that_opened_has_committed_once(tmp_path: Path) -> None:
    container = container_in(tmp_path)

    async with container.open(works=False):
        assert container.readiness.look().is_ready


async def test_a_database_that_fails_at_its_first_checkpoint_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_raw: Any, mode: str) -> tuple[bool, int]:
        raise StorageFailed

    monkeypatch.setattr("app.db.store.checkpoint", fail)

    with pytest.raises(StorageFailed):
        async with container_in(tmp_path).open(works=False):
            pass


async def test_without_a_checkpoint_and_without_a_commit_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_work: UnitOfWork) -> None:
        raise StorageBusy

    monkeypatch.setattr("app.db.store.checkpoint", lambda _raw, _mode: (True, 1))
    monkeypatch.setattr("app.services.readiness.write_probe", fail)

    with pytest.raises(CabinetError):
        async with container_in(tmp_path).open(works=False):
            pass


async def test_the_memory_migrates_by_itself_and_leaves_no_file(tmp_path: Path) -> None:
    container = container_in(tmp_path, app_env="prod", use_sqlite=False)

    async with container.open(works=False):
        assert await container.store.read(lambda work: work.users.by_subject("alice")) is None

    assert not container.settings.db_path.exists()


async def test_administration_needs_the_schema_too(tmp_path: Path) -> None:
    container = container_in(tmp_path, app_env="prod")

    with pytest.raises(CabinetError, match="behind this version"):
        async with container.open_beside():
            pass
