"""The public face: what `import hauberk` promises, and what it costs."""

import subprocess
import sys

import pytest

import hauberk


def test_the_public_names_are_these() -> None:
    assert hauberk.__all__ == ["Mesh", "Refused", "Settings", "current_call", "join", "resume", "run"]


def test_every_public_name_is_there_and_listed() -> None:
    assert [name for name in hauberk.__all__ if not hasattr(hauberk, name)] == []
    assert set(hauberk.__all__) <= set(dir(hauberk))


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="joyn"):
        hauberk.joyn  # noqa: B018


def test_importing_hauberk_imports_no_grpc() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import hauberk, sys; print('grpc' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "False\n"
