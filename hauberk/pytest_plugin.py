"""The fixtures, for whoever names this module: `pytest_plugins = ["hauberk.pytest_plugin"]` in conftest.py.

No entry point does that by itself: pytest would load it in every run of an environment that holds hauberk,
and, since it rewrites the asserts of all that a plugin's distribution brings, compile all of hauberk anew.
What it needs is imported with the first fixture, so a test can still set gRPC's variables, and fork.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hauberk.testing import LocalMesh


@pytest.fixture
def hauberk_mesh() -> "Iterator[LocalMesh]":
    """A mesh of this test's own. For another trust domain make a fixture of your own of LocalMesh."""
    from hauberk.testing import LocalMesh

    with LocalMesh() as mesh:
        yield mesh
