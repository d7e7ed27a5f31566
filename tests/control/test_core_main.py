"""The control plane as a process: what it says, what it exits with, what it leaves behind."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from hauberk.certs.bundle import Bundle
from hauberk.certs.clock import utc_now
from hauberk.certs.join import mint
from hauberk.enrolment import Admission, enrol
from hauberk.protos.hauberk.control.v1 import admin_pb2, admin_pb2_grpc
from tests.control.core_mesh import CONTROL_NAME, TRUST_DOMAIN, make_ca, spiffe

WAIT_S = 20.0


class Process:
    """One run of `python -m hauberk.services.control.main`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".hauberk"
        (folder / "mesh.toml").write_text(f'trust_domain = "{TRUST_DOMAIN}"\n')

    @asynccontextmanager
    async def started(self, token: str = "", **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        read_end, write_end = os.pipe()
        os.write(write_end, token.encode())
        os.close(write_end)
        environment = {
            **os.environ,
            "HAUBERK_CONTROL_CONFIG": str(self.folder / "mesh.toml"),
            "HAUBERK_CONTROL_STATE": str(self.state),
            **({"HAUBERK_CONTROL_OPERATOR_TOKEN_FD": str(read_end)} if token else {}),
            **more,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hauberk.services.control.main"),
            env=environment,
            pass_fds=[read_end],
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(read_end)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def refused(self, token: str = "", **more: str) -> tuple[int, str]:
        """Exit code, and all it said."""
        async with self.started(token, **more) as process, asyncio.timeout(WAIT_S):
            _, said = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def addresses(self, pid: int | None = None) -> dict[str, str]:
        """What addresses.json says, once it is there and of the process `pid`."""
        file = self.state / "control" / "addresses.json"
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(FileNotFoundError):
                    told: dict[str, str] = json.loads(file.read_bytes())
                    if pid is None or pid == int(told["pid"]):
                        return told
                await asyncio.sleep(0.02)

    async def enrol(self, token: str) -> Admission:
        roots = Bundle.parse(TRUST_DOMAIN, (self.state / "ca" / "roots.pem").read_bytes())
        return await enrol((await self.addresses())["enrolment"], token, roots=roots, now=utc_now)


@pytest.fixture
def process(tmp_path: Path) -> Process:
    process = Process(tmp_path)
    make_ca(process.state)
    return process


def token_of(name: str) -> str:
    token, _ = mint(spiffe(name), serves=(), ttl=timedelta(minutes=5), now=utc_now())
    return token


async def test_whoever_starts_it_becomes_its_operator(process: Process) -> None:
    token = token_of("operators/local")
    async with process.started(token) as running:
        admission = await process.enrol(token)
        assert admission.credentials.svid.spiffe_id == spiffe("operators/local")
        target = (await process.addresses())["mesh"]
        credentials = admission.credentials.channel_credentials()
        async with grpc.aio.secure_channel(target, credentials, options=CONTROL_NAME) as channel:
            response = await admin_pb2_grpc.AdminStub(channel).ListRoots(admin_pb2.ListRootsRequest())
        assert [root.state for root in response.roots] == ["active"]
        with pytest.raises(grpc.aio.AioRpcError, match="was used at"):
            await process.enrol(token)
        assert int((await process.addresses())["pid"]) == running.pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the limits of another process")
async def test_its_memory_with_the_ca_key_in_it_goes_into_no_core_file(process: Process) -> None:
    async with process.started() as running:
        await process.addresses()
        assert resource.prlimit(running.pid, resource.RLIMIT_CORE) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_cleanly_when_told(process: Process, number: signal.Signals) -> None:
    async with process.started() as running:
        await process.addresses()
        running.send_signal(number)
        async with asyncio.timeout(WAIT_S):
            _, said = await running.communicate()
    assert running.returncode == 0
    assert "Traceback" not in said.decode()
    left = sorted(path.name for path in (process.state / "control").iterdir())
    assert left == ["control.db", "lock", "ports.json"]


async def test_a_token_given_again_at_a_restart_is_no_new_one(process: Process) -> None:
    token = token_of("operators/local")
    async with process.started(token) as running:
        await process.enrol(token)
        running.terminate()
        await running.communicate()
    async with process.started(token):
        with pytest.raises(grpc.aio.AioRpcError, match="was used at"):
            await process.enrol(token)


async def test_killed_it_comes_back_with_all_it_promised(process: Process) -> None:
    token = token_of("operators/local")
    async with process.started(token) as running:
        await process.addresses()
        running.kill()
        await running.communicate()
    async with process.started() as running:
        await process.addresses(running.pid)
        assert (await process.enrol(token)).credentials.svid.spiffe_id == spiffe("operators/local")


async def test_a_bad_config_is_one_line_and_exit_2(process: Process) -> None:
    (process.folder / "mesh.toml").write_text('trust_domain = "Shop"\n')
    code, said = await process.refused()
    assert code == 2
    assert said.startswith("hauberk control: ")
    assert "trust domain is not lower-case" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("token", ["hunter2", "hbk1." + "A" * 42])
async def test_an_operator_token_that_is_none_is_not_repeated(process: Process, token: str) -> None:
    code, said = await process.refused(token)
    assert code == 2
    assert "HAUBERK_CONTROL_OPERATOR_TOKEN_FD: not a join token" in said
    assert token not in said


async def test_an_operator_token_that_cannot_be_read_is_exit_2(process: Process) -> None:
    code, said = await process.refused(HAUBERK_CONTROL_OPERATOR_TOKEN_FD="99")
    assert code == 2
    assert "HAUBERK_CONTROL_OPERATOR_TOKEN_FD: 99 cannot be read" in said


async def test_without_a_ca_it_is_one_line_and_exit_1(tmp_path: Path) -> None:
    code, said = await Process(tmp_path).refused()
    assert code == 1
    assert "hauberk ca init" in said
    assert said.count("\n") == 1


async def test_a_port_that_is_taken_is_one_line_and_exit_1(process: Process) -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    (process.folder / "mesh.toml").write_text(
        f'trust_domain = "{TRUST_DOMAIN}"\n[control]\nlisten = "127.0.0.1:{port}"\n'
    )
    code, said = await process.refused()
    taken.close()
    await taken.wait_closed()
    assert code == 1
    assert f'[control] listen = "127.0.0.1:{port}" in mesh.toml: another process' in said.splitlines()[-1]
    assert "Traceback" not in said
