"""What backup and restore must know of the control plane's SQLite file: whose it is, and whom it refuses."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hauberk.cli.errors import CommandFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlStore:
    """Facts of one store. `mesh_id` is empty in one that nobody has claimed."""

    mesh_id: str
    revoked: frozenset[str]
    """SPIFFE IDs."""

    @classmethod
    def read(cls, path: Path) -> "ControlStore":
        """Raises CommandFailed if it cannot be read, or is no store of a control plane."""
        with _opened(path) as store:
            claimed = store.execute("SELECT mesh_id FROM mesh").fetchone()
            revoked = store.execute("SELECT spiffe_id FROM revocations").fetchall()
        return cls(mesh_id=claimed[0] if claimed else "", revoked=frozenset(name for (name,) in revoked))


def forget_tokens(path: Path) -> None:
    """Take every join token out of a copy: one that was used after the copy was taken would work again."""
    with _opened(path) as store:
        store.execute("DELETE FROM join_tokens")


def carry_revocations(old: Path, new: Path) -> None:
    """Refuse in the store `new` too whom `old` refuses; such a name serves nothing, as `revoke` leaves it."""
    with _opened(old) as store:
        rows = store.execute("SELECT spiffe_id, reason, revoked_by, revoked_at FROM revocations").fetchall()
    with _opened(new) as store:
        store.execute("BEGIN IMMEDIATE")
        store.executemany(
            "INSERT OR IGNORE INTO revocations (spiffe_id, reason, revoked_by, revoked_at) "
            "VALUES (?, ?, ?, ?)",
            rows,
        )
        names = [(row[0],) for row in rows]
        store.executemany("DELETE FROM bindings WHERE spiffe_id = ?", names)
        store.executemany("DELETE FROM contracts WHERE spiffe_id = ?", names)
        store.executemany("DELETE FROM replicas WHERE spiffe_id = ?", names)
        store.execute("COMMIT")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as store:
            yield store
    except sqlite3.Error as error:
        raise CommandFailed(f"{path}: not a control plane's store: {error}") from None
