"""One shop under `hauberk up` that the tests of the commands share; tests that end or change a mesh start their own."""

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
