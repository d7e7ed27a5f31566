"""A small mesh that does not run, to be saved and restored: its CA, a real store, one workload's database."""

import contextlib
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from click.testing import CliRunner, Result

from hauberk.certs import join
from hauberk.certs.clock import utc_now
from hauberk.certs.identity import SpiffeId
from hauberk.cli import CIPHER_VARIABLE, SILENT, TLS_1_3_ONLY, VERBOSITY_VARIABLE, authority, main
from hauberk.cli.state import State
from hauberk.services.control.store import Revocation, Store

HOUR = timedelta(hours=1)
TRUST_DOMAIN = "saved.test"
MESH = f"""
trust_domain = "{TRUST_DOMAIN}"
[workloads.idle]
command = ["sleep", "600"]
serves = ["idle.v1.Idle"]
"""


@dataclass(frozen=True)
class Saved:
    """One mesh in its folder."""

    state: State

    @classmethod
    def make(cls, folder: Path, text: str = MESH) -> "Saved":
        folder.mkdir(exist_ok=True)
        (folder / "mesh.toml").write_text(text)
        made = cls(State.beside(folder / "mesh.toml"))
        ca = authority.create(made.state, made.state.mesh())
        with contextlib.closing(made.store()) as store:
            store.claim(ca.mesh_id, ca.trust_domain, new=True)
        made.state.had_a_store.write_text(f"{ca.mesh_id}\n")
        made.state.had_a_store.chmod(0o600)
        made.state.control_ports.write_text('{"mesh":2,"enrolment":1}')
        made.write("first")
        return made

    @property
    def folder(self) -> Path:
        return self.state.mesh_file.parent

    @property
    def idle(self) -> Path:
        return self.state.databases / "idle.db"

    def store(self) -> Store:
        return Store.open(f"sqlite:///{self.state.control_database}")

    def revoke(self, name: str) -> None:
        revocation = Revocation(
            spiffe_id=SpiffeId.of(TRUST_DOMAIN, name), reason="", revoked_by="", revoked_at=utc_now()
        )
        with contextlib.closing(self.store()) as store:
            store.revoke(revocation)

    def invite(self, name: str, store: Store | None = None) -> bytes:
        """The digest of a token that admits `name`, kept in the mesh's own store or another."""
        who = SpiffeId.of(TRUST_DOMAIN, name)
        _, record = join.mint(who, serves=["idle.v1.Idle"], ttl=timedelta(minutes=5), now=utc_now())
        with contextlib.ExitStack() as stack:
            store = store or stack.enter_context(contextlib.closing(self.store()))
            store.invite(record, keep_bindings=False, now=utc_now())
        return record.digest

    def write(self, text: str) -> None:
        write(self.idle, text)

    def read(self) -> list[str]:
        return read(self.idle)

    def run(self, *arguments: str) -> Result:
        """One command of the CLI, for this mesh."""
        ours = {CIPHER_VARIABLE: TLS_1_3_ONLY, VERBOSITY_VARIABLE: SILENT}  # else it sets them for good
        return CliRunner(env={"HAUBERK_MESH": str(self.state.mesh_file), **ours}).invoke(main, arguments)

    def backup(self, *arguments: str) -> Path:
        """A new backup, beside the mesh's folder."""
        file = self.folder.with_suffix(".hauberk")
        done = self.run("backup", str(file), *(arguments or ("--plain-keys",)))
        assert done.exit_code == 0, done.output
        return file

    def fingerprints(self) -> list[str]:
        opened = authority.load(self.state, self.state.mesh())
        return [root.fingerprint for root in opened.roots(utc_now())]


def write(path: Path, text: str) -> None:
    """One more row, committed; as a service writes, with a write-ahead log."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS said (text)")
        database.execute("INSERT INTO said VALUES (?)", (text,))


def read(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [text for (text,) in database.execute("SELECT text FROM said ORDER BY rowid")]


def refused(done: Result, what: str, next_step: str = "") -> None:
    """The command said in one line why, and in one what to do; nothing else but how far it came."""
    assert done.exit_code == 1, done.output
    lines = [line for line in done.stderr.splitlines() if not line.startswith("hauberk | ")]
    assert lines[0].startswith("hauberk: "), done.stderr
    assert what in lines[0]
    assert all(line.startswith("  next: ") for line in lines[1:])
    assert len(lines) <= 2
    assert next_step in "".join(lines[1:])
