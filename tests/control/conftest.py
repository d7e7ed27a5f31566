"""Both database engines for the control plane's store, and one control plane that really serves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.core_mesh import CoreMesh, core_mesh
from tests.postgresql import new_database, patient


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/control.db"
    patient(monkeypatch)
    return new_database(request.getfixturevalue("postgresql_server"))


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[CoreMesh]:
    async with core_mesh(tmp_path / "state") as mesh:
        yield mesh
