"""The socket of `hauberk up`: whom it answers, what it refuses, and what it survives."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hauberk.cli import up_socket
from hauberk.cli.errors import CommandFailed, NotRunning
from hauberk.cli.state import State
from hauberk.cli.up_socket import AT_ONCE, LONGEST_REQUEST, Asker, Request, ask, listening

CHILDREN = Request(ask="children")


@asynccontextmanager
async def up(state: State, answer: Any = None) -> AsyncIterator[None]:
    """What listens in a running `up`; tells each request back unless given another answer."""

    async def echoes(request: Request, asker: Asker) -> None:
        await asker.tell({"asked": request.ask})

    async with asyncio.TaskGroup() as tasks, listening(state.socket, answer or echoes, tasks):
        yield


async def told(state: State) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: list(ask(state, CHILDREN, within=5)))


@pytest.fixture
def state(tmp_path: Path) -> State:
    (tmp_path / ".hauberk").mkdir(mode=0o700)
    return State.beside(tmp_path / "mesh.toml")


async def test_a_request_is_answered_line_by_line_and_the_socket_goes_with_the_block(state: State) -> None:
    async with up(state):
        assert await told(state) == [{"asked": "children"}]
    assert not state.socket.exists()
    with pytest.raises(NotRunning, match="no `hauberk up` runs"):
        await told(state)


async def test_what_a_killed_up_left_is_replaced(state: State) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state.socket))
    with pytest.raises(NotRunning):
        await told(state)
    async with up(state):
        assert await told(state) == [{"asked": "children"}]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_folder_whose_name_is_too_long_for_a_socket_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    (folder / ".hauberk").mkdir(mode=0o700, parents=True)
    state = State.beside(folder / "mesh.toml")
    async with up(state):
        assert await told(state) == [{"asked": "children"}]
    assert not state.socket.exists()


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"restart everything\n",
        b'{"ask": "shell"}\n',
        b'{"ask": "restart", "command": "x"}\n',
        b"x" * (LONGEST_REQUEST + 1),
        b'{"ask": "children"',
    ],
    ids=["empty", "no json", "unknown", "unknown field", "too long", "half"],
)
async def test_what_is_no_request_gets_no_answer_and_does_no_harm(state: State, sent: bytes) -> None:
    async with up(state):
        reader, writer = await asyncio.open_unix_connection(str(state.socket))
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(5):
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                assert len(sent) > LONGEST_REQUEST
        writer.close()
        assert await told(state) == [{"asked": "children"}]


async def test_a_request_that_does_not_come_is_not_waited_for(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up_socket, "REQUEST_S", 0.1)
    async with up(state):
        reader, writer = await asyncio.open_unix_connection(str(state.socket))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_connections_are_bounded(state: State) -> None:
    async with up(state):
        held = [await asyncio.open_unix_connection(str(state.socket)) for _ in range(AT_ONCE)]
        reader, writer = await asyncio.open_unix_connection(str(state.socket))
        async with asyncio.timeout(5):
            assert await reader.read() == b"", "one more is closed at once"
        for _, each in (*held, (reader, writer)):
            each.close()
        async with asyncio.timeout(5):
            while True:
                try:
                    if await told(state):
                        return
                except (CommandFailed, NotRunning):
                    await asyncio.sleep(0.05)


async def test_a_failure_while_answering_ends_the_answer_alone(state: State) -> None:
    async def fails(request: Request, asker: Asker) -> None:
        raise LookupError("a bug")

    async with up(state, fails):
        assert await told(state) == []
        assert await told(state) == []


async def test_who_leaves_is_noticed(state: State) -> None:
    left = asyncio.Event()

    async def waits(request: Request, asker: Asker) -> None:
        await asker.gone.wait()
        left.set()

    async with up(state, waits):
        _, writer = await asyncio.open_unix_connection(str(state.socket))
        writer.write(b'{"ask": "children"}\n')
        writer.write_eof()
        async with asyncio.timeout(5):
            await left.wait()
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a moment")
async def test_another_user_is_not_answered(state: State) -> None:
    """Should the folder's mode ever let one in."""
    code = (
        "import os, socket, sys; os.setuid(int(sys.argv[2]));"
        " s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        ' s.settimeout(5); s.sendall(b\'{"ask": "children"}\\n\'); print(s.recv(99))'
    )

    def asked_by(user: int) -> str:
        program = [sys.executable, "-I", "-S", "-c", code, str(state.socket), str(user)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout + done.stderr[-200:]

    async with up(state):
        for folder in (state.folder, *state.folder.parents):
            if folder == Path("/tmp"):
                break
            folder.chmod(0o755)
        state.socket.chmod(0o666)
        assert "asked" in await asyncio.to_thread(asked_by, 0)
        refused = await asyncio.to_thread(asked_by, 65534)
        assert "asked" not in refused
        assert "b''" in refused or "ConnectionReset" in refused or "BrokenPipe" in refused
