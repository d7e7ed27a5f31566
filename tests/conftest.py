"""What tests of several areas share."""

import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.postgresql import postgresql
from tests.turns import Turns

pytest_plugins = ["hauberk.pytest_plugin"]

REPOSITORY = Path(__file__).resolve().parents[1]
TURNS = pytest.StashKey[Turns]()

# What an example may take says nothing about us on a machine that others use too.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


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


def pytest_configure(config: pytest.Config) -> None:
    """What xdist calls basetemp is this worker's folder in the one of the run."""
    if hasattr(config, "workerinput"):
        config.stash[TURNS] = Turns(Path(config.option.basetemp).parent)


class ByFile(LoadScopeScheduling):
    """A worker for each file, and one for all tests of faults: they load the machine one after the other.

    Not `--dist loadgroup`: the names of pytest 9.2 no longer carry what xdist 3.8 writes into them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/faults" if file.startswith("tests/faults/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile | None:
    """Ours for `--dist loadfile`, which `make test` asks for."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults come first, as they take longest; what is alone comes last in its file, or among the faults."""
    files = list(dict.fromkeys(item.path for item in items))

    def place(item: pytest.Item) -> tuple[bool, int, bool]:
        faults = item.path.parent.name == "faults"
        return not faults, 0 if faults else files.index(item.path), is_alone(item)

    items.sort(key=place)


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Around all else, the clock of pytest-timeout too: a wait for a turn is nobody's time."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    turns.enter(alone=is_alone(item))
    try:
        return (yield)
    finally:
        turns.leave(stays=nextitem is not None and is_alone(nextitem))


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
    """Children heed Ctrl-C and the end of a terminal even where we were told to ignore them (by nohup, say).

    What a process ignores its children ignore too; what it handles, they do not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # we ourselves outlive our terminal as before
