"""A backup is believed only where it is what was written; every damage and foreign thing is one line."""

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hauberk.cli import archive
from hauberk.cli.archive import BackupRefused, Manifest

CONTENT = {
    "ca/authority.json": b"{}",
    "ca/r000001/root.pem": b"r" * 600,
    "mesh.toml": b"m" * 512,
    "control/control.db": b"",
}


def manifest(folder: Path, **changes: object) -> Manifest:
    made = Manifest(
        format=1,
        hauberk="0",
        created="2026-01-01T00:00:00Z",
        trust_domain="saved.test",
        mesh_id="0" * 32,
        keys="plain",
        revoked=(),
        without=(),
        parts=tuple(archive.measured(folder, name) for name in CONTENT),
    )
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name, content in CONTENT.items():
        (tmp_path / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "parts" / name).write_bytes(content)
    return tmp_path / "parts"


@pytest.fixture
def backup(tmp_path: Path, parts: Path) -> Path:
    archive.write(tmp_path / "backup", manifest(parts), parts)
    return tmp_path / "backup"


def extract(backup: Path, to: Path) -> Manifest:
    to.mkdir(mode=0o700)
    with archive.reading(backup) as opened:
        opened.extract(to)
        return opened.manifest


def refusal(backup: Path, to: Path) -> str:
    with pytest.raises(BackupRefused) as caught:
        extract(backup, to)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_what_was_written_comes_out_private(backup: Path, parts: Path, tmp_path: Path) -> None:
    assert extract(backup, tmp_path / "out") == manifest(parts)
    out = {path.relative_to(tmp_path / "out"): path for path in (tmp_path / "out").rglob("*")}
    assert {str(name): path.read_bytes() for name, path in out.items() if path.is_file()} == CONTENT
    assert {path.stat().st_mode & 0o777 for path in out.values() if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in out.values() if path.is_dir()} == {0o700}
    assert backup.stat().st_mode & 0o777 == 0o600


def test_tar_can_read_it(backup: Path) -> None:
    with tarfile.open(backup) as opened:
        names = opened.getnames()
    assert names[1:] == list(CONTENT)


def test_no_flipped_byte_goes_unseen(backup: Path, tmp_path: Path) -> None:
    good, chance = backup.read_bytes(), random.Random(1)
    for number, at in enumerate(chance.sample(range(len(good)), 150)):
        damaged = bytearray(good)
        damaged[at] ^= 1 << chance.randrange(8)
        (tmp_path / "damaged").write_bytes(damaged)
        refusal(tmp_path / "damaged", tmp_path / f"{number}")


def test_no_shortened_or_lengthened_file_goes_unseen(backup: Path, tmp_path: Path) -> None:
    good = backup.read_bytes()
    for size in (0, 1, 511, 512, 513, 1024, *range(1500, len(good), 700), len(good) - 512, len(good) - 1):
        (tmp_path / "short").write_bytes(good[:size])
        assert (
            "cut short" in (said := refusal(tmp_path / "short", tmp_path / f"{size}"))
            or "not a backup" in said
        )
    (tmp_path / "long").write_bytes(good + b"\0")
    assert "something follows" in refusal(tmp_path / "long", tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "ca/../../evil",
        "ca/r000001/../x",
        "databases/.db",
        "databases/a/b.db",
        "x\\0y",
        "mesh.toml/",
    ],
)
def test_a_name_that_no_backup_has_is_refused(name: str, parts: Path, tmp_path: Path) -> None:
    (part, *_) = manifest(parts).parts
    strange = manifest(parts, parts=(msgspec.structs.replace(part, name=name),))
    raw = msgspec.json.encode(strange)
    _tar(tmp_path / "strange", [(_manifest_name(raw), tarfile.REGTYPE, raw), (name, tarfile.REGTYPE, b"{}")])
    assert "it lists what no backup holds" in refusal(tmp_path / "strange", tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_what_is_no_plain_file_is_refused(kind: bytes, parts: Path, tmp_path: Path) -> None:
    raw = msgspec.json.encode(manifest(parts))
    _tar(tmp_path / "linked", [(_manifest_name(raw), tarfile.REGTYPE, raw), ("ca/authority.json", kind, b"")])
    assert "is no plain file" in refusal(tmp_path / "linked", tmp_path / "out")


def test_a_part_named_twice_is_refused(parts: Path, tmp_path: Path) -> None:
    twice = manifest(parts)
    archive.write(tmp_path / "twice", manifest(parts, parts=(*twice.parts, twice.parts[0])), parts)
    assert "it lists what no backup holds" in refusal(tmp_path / "twice", tmp_path / "out")


def test_another_order_than_the_manifest_says_is_refused(parts: Path, tmp_path: Path) -> None:
    raw = msgspec.json.encode(manifest(parts))
    files = [(name, tarfile.REGTYPE, content) for name, content in reversed(CONTENT.items())]
    _tar(tmp_path / "turned", [(_manifest_name(raw), tarfile.REGTYPE, raw), *files])
    assert "stands where ca/authority.json should" in refusal(tmp_path / "turned", tmp_path / "out")


def test_a_size_beyond_the_file_is_refused_before_anything_is_read(parts: Path, tmp_path: Path) -> None:
    """Whatever a header claims: nothing is made that is larger than the file itself."""
    member = tarfile.TarInfo(f"manifest-{'0' * 64}.json")
    member.size = 1 << 50
    (tmp_path / "huge").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "cut short" in refusal(tmp_path / "huge", tmp_path / "out")


def test_another_format_is_named(parts: Path, tmp_path: Path) -> None:
    archive.write(tmp_path / "newer", manifest(parts, format=2), parts)
    assert "a backup of format 2, this hauberk reads 1" in refusal(tmp_path / "newer", tmp_path / "out")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(2000)),
        lambda path: path.write_bytes(random.Random(2).randbytes(4096)),
        lambda path: path.write_bytes(b""),
        lambda path: _tar(path, [("readme", tarfile.REGTYPE, b"some other archive")]),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: None,
    ],
    ids=["zip", "noise", "empty", "tar", "folder", "pipe", "missing"],
)
def test_what_is_no_backup_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "foreign")
    said = refusal(tmp_path / "foreign", tmp_path / "out")
    assert "foreign: " in said
    assert any(
        what in said
        for what in ("not a backup of hauberk", "no plain file", "no such file", "is a directory")
    )


def _manifest_name(raw: bytes) -> str:

    return f"manifest-{hashlib.sha256(raw).hexdigest()}.json"


def _tar(path: Path, members: list[tuple[str, bytes, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = (
                kind,
                len(content),
                "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "",
            )
            made.addfile(member, io.BytesIO(content))
