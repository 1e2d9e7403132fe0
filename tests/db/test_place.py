"""The file under the store: what is acknowledged lies where the next start looks for it."""

from pathlib import Path

import pytest

from app.errors import StorageFailed
from tests.support.database import open_numbers


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_was_removed_or_replaced_ends_the_service_before_anything_is_acknowledged(
    tmp_path: Path, replaced: bool
) -> None:
    path = tmp_path / "numbers.db"
    async with open_numbers(path) as numbers:
        await numbers.add(1)
        path.rename(tmp_path / "moved.db")
        if replaced:
            path.touch()

        with pytest.raises(StorageFailed, match="removed or replaced"):
            await numbers.add(2)

        assert len(numbers.failures) == 1
