"""One shop under `hauberk up` that tests of commands share; what ends or changes a mesh starts its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mesh.running import running, shop


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running shop."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "mesh.toml").write_text(shop())
    with running(folder):
        yield folder
