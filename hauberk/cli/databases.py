"""Which databases one mesh.toml has: the control plane's, each workload's, and what earlier ones left.

A name is a workload's, or "control". Only what `hauberk up` hands over as DATABASE_URL is known here: what a
process keeps anywhere else, its own tools must save.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from hauberk.cli.archive import is_part
from hauberk.cli.errors import CommandFailed
from hauberk.cli.mesh_file import MeshFile
from hauberk.cli.state import State, flat

CONTROL = "control"


class Busy(Exception):
    """Somebody writes to a database, and it took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteFile:
    """One file, and its part's name in a backup."""

    part: str
    owners: tuple[str, ...]
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDatabase:
    """A database that a server keeps: PostgreSQL, or `engine` says what else."""

    part: str
    owners: tuple[str, ...]
    url: URL = field(repr=False)

    @property
    def engine(self) -> str:
        return self.url.get_backend_name()

    @property
    def is_postgresql(self) -> bool:
        return self.engine == "postgresql"

    def __str__(self) -> str:
        return f"the {self.engine} database of {', '.join(self.owners)}"


Database = SqliteFile | ServerDatabase


def databases_of(state: State, mesh: MeshFile) -> list[Database]:
    """All of them, each once, whether there or not, always in the same order. Raises CommandFailed."""
    found: dict[object, Database] = {}
    for name, url in _urls(state, mesh):
        database = _at(state, name, url)
        same = found.get(key := _key(database))
        if same is not None:
            database = _shared(same, name)
        found[key] = database
    taken = {database.part for database in found.values()}
    for path in sorted(state.databases.glob("*.db")):
        part = f"databases/{path.name}"
        if path not in found and part not in taken:
            found[path] = SqliteFile(part=part, owners=(path.stem,), path=path)
    for database in found.values():
        if not is_part(database.part):
            raise CommandFailed(
                f"{database.part}: a backup holds no file of that name", "rename it: letters, digits, . _ -"
            )
    return sorted(found.values(), key=lambda database: database.part)


def without(databases: Iterable[Database], names: Iterable[str]) -> list[Database]:
    """Those that are nobody's of `names`. Raises CommandFailed for a name that has no database."""
    left, names = list(databases), set(names)
    if unknown := names - {owner for database in left for owner in database.owners}:
        raise CommandFailed(
            f"--without {min(unknown)}: nobody here has that name", "name a workload, or control"
        )
    return [database for database in left if not names & set(database.owners)]


def _urls(state: State, mesh: MeshFile) -> list[tuple[str, str]]:
    control = mesh.control.database or f"sqlite:///{state.control_database}"
    workloads = {
        name: workload.env.get("DATABASE_URL") or state.database_url(name)
        for name, workload in mesh.workloads.items()
    }
    return [(CONTROL, control), *workloads.items()]


def _at(state: State, name: str, text: str) -> Database:
    place = "[control] database" if name == CONTROL else f"[workloads.{name}] env: DATABASE_URL"
    try:
        url = make_url(text)
    except ArgumentError:
        raise CommandFailed(
            f"{place} is no database url", "write sqlite:////path/to/file.db or postgresql://user@host/name"
        ) from None
    if url.get_backend_name() != "sqlite":
        return ServerDatabase(part=f"postgresql/{flat(name)}.dump", owners=(name,), url=url)
    if not url.database:
        raise CommandFailed(f"{place} names no file", "write sqlite:////path/to/file.db")
    part = "control/control.db" if name == CONTROL else f"databases/{flat(name)}.db"
    # A relative path is the process's, which `up` starts beside mesh.toml.
    return SqliteFile(part=part, owners=(name,), path=state.mesh_file.parent / url.database)


def _key(database: Database) -> object:
    """Equal for two names that share a database."""
    if isinstance(database, SqliteFile):
        return database.path
    url = database.url
    return url.get_backend_name(), url.host, url.port, url.database, *sorted(url.query.items())


def _shared(database: Database, name: str) -> Database:
    owners = (*database.owners, name)
    if isinstance(database, SqliteFile):
        return SqliteFile(part=database.part, owners=owners, path=database.path)
    return ServerDatabase(part=database.part, owners=owners, url=database.url)
