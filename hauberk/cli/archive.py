"""A backup as one file: a tar archive that says first what is in it, and is believed only where that is so.

    manifest-SHA256.json             what follows, in this order; named after its own digest
    mesh.toml
    ca/...                           the authority's folder
    control/control.db               the control plane's store
    control/ports.json               where it listened: processes elsewhere dial that again
    databases/NAME.db                what a workload keeps, SQLite
    postgresql/NAME.dump             the same, of PostgreSQL's pg_dump

Nothing is compressed, so no part is larger than the file it comes from. The reader knows plain files only: a
link, a folder, a name with `..` or one that the manifest does not list, a byte that is not what was written,
each is refused. Digests show damage, not forgery: who can write a backup can write the CA that is in it.
Source: POSIX.1-2001, ustar; sizes over 8 GiB as GNU tar writes them.
"""

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from hauberk.certs.files import FILE_MODE, FOLDER_MODE, sync_folder
from hauberk.cli.errors import CommandFailed

FORMAT = 1
MAX_MANIFEST = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1024 * 1024
_MANIFEST = re.compile(r"manifest-([0-9a-f]{64})\.json", re.ASCII)
_PART = re.compile(
    r"mesh\.toml|control/(control\.db|ports\.json)|(databases/{0}\.db)|(postgresql/{0}\.dump)"
    r"|ca/(authority\.json|roots\.pem|store|r[0-9]{{6}}/(root|intermediate|intermediate\.key)\.pem)".format(
        "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,70}"
    ),
    re.ASCII,
)


class BackupRefused(CommandFailed):
    """A file that is no backup, or not what was once written; nothing was changed."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a backup."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup is of, and what it holds."""

    format: int
    hauberk: str
    """Which hauberk made it."""
    created: str
    """The instant that all databases are of; RFC 3339."""
    trust_domain: str
    mesh_id: str
    keys: str
    """Of the CA: "encrypted" or "plain"."""
    revoked: tuple[str, ...]
    """The SPIFFE IDs that were refused by then."""
    without: tuple[str, ...]
    """Whose databases are not in it."""
    parts: tuple[Part, ...]

    def having(self, prefix: str) -> list[Part]:
        return [part for part in self.parts if part.name.startswith(prefix)]


class _Format(msgspec.Struct):
    format: int


def is_part(name: str) -> bool:
    """Whether a file of a backup may have this name."""
    return _PART.fullmatch(name) is not None


def measured(folder: Path, name: str) -> Part:
    """The part that the file `name` below `folder` is."""
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Part(name=name, size=file.tell(), sha256=digest.hexdigest())


def write(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write a new archive of the parts, which lie below `folder`, and have it on disk."""
    raw = msgspec.json.encode(manifest)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as archive:
        archive.write(_header(f"manifest-{hashlib.sha256(raw).hexdigest()}.json", len(raw)))
        archive.write(raw + _padding(len(raw)))
        for part in manifest.parts:
            archive.write(_header(part.name, part.size))
            with (folder / part.name).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    archive.write(chunk)
            archive.write(_padding(part.size))
        archive.write(bytes(2 * _BLOCK))
        archive.flush()
        os.fsync(descriptor)


class Archive:
    """An open backup whose manifest is whole. Made by `reading`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self.manifest = self._manifest()

    def extract(self, folder: Path) -> None:
        """Write every part below `folder`, private to us, each checked against the manifest.

        Raises BackupRefused; what is in `folder` then is worth nothing.
        """
        for part in self.manifest.parts:
            name, size = self._member()
            if (name, size) != (part.name, part.size):
                raise self._damaged(f"{name!r:.99} stands where {part.name} should")
            for above in reversed(Path(name).parents):
                (folder / above).mkdir(mode=FOLDER_MODE, exist_ok=True)
            self._copy(part, folder / name)
        if self._read(2 * _BLOCK) != bytes(2 * _BLOCK) or self._file.read(1):
            raise self._damaged("something follows its last part")

    def _copy(self, part: Part, to: Path) -> None:
        descriptor = os.open(
            to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
        )
        digest, left = hashlib.sha256(), part.size
        with os.fdopen(descriptor, "wb") as file:
            while left:
                chunk = self._read(min(left, _CHUNK))
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
            file.flush()
            os.fsync(descriptor)
        sync_folder(to.parent)
        if digest.hexdigest() != part.sha256:
            raise self._damaged(f"{part.name} is not what was written")
        self._skip_padding(part.size)

    def _manifest(self) -> Manifest:
        name, size = self._member()
        named = _MANIFEST.fullmatch(name)
        if not named or size > MAX_MANIFEST:
            raise self._no_backup()
        raw = self._read(size)
        if hashlib.sha256(raw).hexdigest() != named[1]:
            raise self._damaged("its manifest is not what was written")
        self._skip_padding(size)
        try:
            found = msgspec.json.decode(raw, type=_Format).format
            if found != FORMAT:
                raise BackupRefused(
                    f"{self._path}: a backup of format {found}, this hauberk reads {FORMAT}",
                    "restore it with the hauberk that made it",
                )
            manifest = msgspec.json.decode(raw, type=Manifest)
        except msgspec.DecodeError as error:
            raise self._damaged(f"its manifest cannot be read: {error}") from None
        names = [part.name for part in manifest.parts]
        strange = [name for name in names if not is_part(name)]
        if strange or len(set(names)) != len(names):
            raise self._damaged(f"it lists what no backup holds: {(strange or names)[0]!r:.99}")
        return manifest

    def _member(self) -> tuple[str, int]:
        """Name and size of the plain file that begins here."""
        try:
            member = tarfile.TarInfo.frombuf(self._read(_BLOCK), "ascii", "strict")
        except (tarfile.HeaderError, ValueError):
            raise self._no_backup() if self._file.tell() == _BLOCK else self._damaged("a header") from None
        if member.type != tarfile.REGTYPE:
            raise self._damaged(f"{member.name!r:.99} is no plain file")
        if not 0 <= member.size <= self._size - self._file.tell():
            raise self._damaged("it is cut short")
        return member.name, member.size

    def _skip_padding(self, size: int) -> None:
        padding = _padding(size)
        if self._read(len(padding)) != padding:
            raise self._damaged("something stands between its parts")

    def _read(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) != size:
            raise self._damaged("it is cut short") if self._file.tell() > _BLOCK else self._no_backup()
        return found

    def _damaged(self, why: str) -> BackupRefused:
        return BackupRefused(
            f"{self._path}: a damaged backup: {why}", "nothing was changed; take another backup"
        )

    def _no_backup(self) -> BackupRefused:
        return BackupRefused(
            f"{self._path}: not a backup of hauberk", "nothing was changed; name one: hauberk backup"
        )


@contextmanager
def reading(path: Path) -> Iterator[Archive]:
    """The backup at `path`, open while the block runs. Raises BackupRefused."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BackupRefused(f"{path}: no plain file", "name the backup's file")
        file = path.open("rb")
    except OSError as error:
        raise BackupRefused(
            f"{path}: {(error.strerror or str(error)).lower()}", "name the backup's file"
        ) from None
    with file:
        yield Archive(path, file)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, FILE_MODE
    return member.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    """What fills the last block."""
    return bytes(-size % _BLOCK)
