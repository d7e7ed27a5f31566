"""The example's own tests, run as its docstring says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_examples_tests_pass_and_leave_no_warning(example: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"],
        cwd=example,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"= 5 passed in ", ran.stdout)


@pytest.mark.parametrize(
    ("module", "not_yet"), [("hauberk.pytest_plugin", "grpc"), ("hauberk.testing", "pytest")]
)
def test_nothing_is_imported_that_is_not_needed_yet(module: str, not_yet: str) -> None:
    """A test that sets gRPC's variables, or forks, may use the plugin; who has no pytest, the mesh."""
    shown = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys; print({not_yet!r} in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "False\n"
