"""What tests of several areas share."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgresql import postgresql

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long versions of the tests marked soak")


@pytest.fixture(scope="session")
def soaking(request: pytest.FixtureRequest) -> bool:
    """Whether the long version of a test is asked for (`make soak`)."""
    return bool(request.config.getoption("--soak"))


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
    return wheel


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL server of this run's own: its URL."""
    with postgresql() as url:
        yield url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker for each file, and one for all tests of faults: they load the machine one after the other."""
    for item in items:
        faults = item.path.parent.name == "faults"
        item.add_marker(pytest.mark.xdist_group("faults" if faults else str(item.path)))


@pytest.fixture(autouse=True)
def uninstrumented() -> Iterator[None]:
    """Leaves grpc as it was: a mesh that is joined with OpenTelemetry at hand instruments its process."""
    yield
    instrumentation = sys.modules.get("opentelemetry.instrumentation.grpc")
    if instrumentation is None:
        return
    for kind in (instrumentation.GrpcInstrumentorClient, instrumentation.GrpcAioInstrumentorClient):
        if kind().is_instrumented_by_opentelemetry:
            kind().uninstrument()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Children heed Ctrl-C even where we were started in the background, and so told to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
