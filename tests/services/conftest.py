"""Both database engines, each test a fresh database."""

from pathlib import Path

import pytest

from tests.postgresql import new_database, patient


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/test.db"
    patient(monkeypatch)
    return new_database(request.getfixturevalue("postgresql_server"))
