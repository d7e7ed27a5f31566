"""What tests of several areas share."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, as users install it."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [REPOSITORY / "scripts" / "wheel.sh", folder],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    assert sys.version_info >= (3, 11)
    return wheel
