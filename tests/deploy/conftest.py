"""Fixtures that tests on real containers share."""

from collections.abc import Iterator

import pytest

from tests.deploy.containers import Engine, build_images, open_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Containers, with the images of this checkout built."""
    with open_engine() as opened:
        build_images(opened)
        yield opened
