"""The wheel: the one package hauberk with all its files, whatever the repository's folders look like."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.layout.tree import LINKED, ROOT, sources


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run([ROOT / "scripts" / "wheel.sh", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with ZipFile(next(folder.glob("hauberk-*.whl"))) as opened:
        yield opened


def test_the_wheel_holds_one_package_and_cannot_shadow_a_users_folders(wheel: ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hauberk"}


def test_every_file_of_the_package_is_in_the_wheel(wheel: ZipFile) -> None:
    packed = {name for name in wheel.namelist() if name.startswith("hauberk/")}
    assert packed == {packed_as(path) for path in package_files()}


def test_the_wheel_brings_its_types_contracts_and_command(wheel: ZipFile) -> None:
    names = wheel.namelist()
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "hauberk/py.typed" in names
    assert "hauberk/protos/hauberk/policy/v1/policy.proto" in names
    assert "hauberk/protos/hauberk/policy/v1/policy_pb2.pyi" in names
    assert "hauberk = hauberk.cli:main" in wheel.read(entry_points).decode()


def package_files() -> list[Path]:
    """The files of the five folders that make the package; a link is left out, its target is listed."""
    folders = {"hauberk", *LINKED}
    return [path for path in sources() if path.parts[0] in folders and not (ROOT / path).is_symlink()]


def packed_as(path: Path) -> str:
    return path.as_posix() if path.parts[0] == "hauberk" else f"hauberk/{path.as_posix()}"
