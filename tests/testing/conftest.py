"""What the tests of `hauberk.testing` share: the example's folder with its stubs, made by stock protoc."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, as somebody has it who has followed its two lines as far as the first."""
    folder = tmp_path_factory.mktemp("example") / "tested_service"
    shutil.copytree(REPOSITORY / "examples" / "tested_service", folder)
    include = subprocess.run(
        [Path(sys.executable).with_name("hauberk"), "protos"], check=True, capture_output=True, text=True
    ).stdout.strip()
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "-I", include]
    made = ["--python_out=.", "--grpc_python_out=.", "tickets.proto"]
    subprocess.run([*command, *made], check=True, cwd=folder)
    return folder
