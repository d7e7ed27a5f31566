"""A project outside the repository, with protos/ and services/ folders of its own, on the wheel alone."""

import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

GREETER_PROTO = """
syntax = "proto3";
package greeter.v1;
import "buf/validate/validate.proto";
import "hauberk/policy/v1/policy.proto";

service Greeter {
  option (hauberk.policy.v1.defaults) = {
    callers: "visitor"
    deadline { required: true max { seconds: 5 } }
  };
  rpc Hello(HelloRequest) returns (HelloResponse);
  rpc Locked(HelloRequest) returns (HelloResponse) {
    option (hauberk.policy.v1.policy) = { callers: "somebody/else" };
  }
}

message HelloRequest { string name = 1 [(buf.validate.field).string.max_len = 20]; }
message HelloResponse { string text = 1; }
"""

GREETER = """
import hauberk
from greeter.v1 import greeter_pb2, greeter_pb2_grpc


class Greeter(greeter_pb2_grpc.GreeterServicer):
    async def Hello(self, request, context):
        caller = hauberk.current_call().peer.spiffe_id
        return greeter_pb2.HelloResponse(text=f"hello {request.name}, you are {caller}")

    async def Locked(self, request, context):
        raise AssertionError("nobody we know may come here")


async def main():
    async with hauberk.join() as mesh:
        server = mesh.server()
        greeter_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
        await server.serve()


hauberk.run(main)
"""

VISITOR = """
import asyncio, grpc, hauberk, services
from greeter.v1 import greeter_pb2, greeter_pb2_grpc


async def main():
    print("services is", services.__file__)
    async with hauberk.join() as mesh:
        stub = greeter_pb2_grpc.GreeterStub(mesh.channel)
        request = greeter_pb2.HelloRequest(name="world")
        print((await stub.Hello(request, timeout=3)).text)
        try:
            await stub.Locked(request, timeout=3)
        except grpc.aio.AioRpcError as error:
            print("locked", error.code().name)
        try:
            await stub.Hello(greeter_pb2.HelloRequest(name="x" * 21), timeout=3)
        except grpc.aio.AioRpcError as error:
            print("too long", error.code().name, error.details())


hauberk.run(main)
"""

MESH = """
trust_domain = "own.test"

[workloads.greeter]
command = ["python", "-m", "services.greeter"]
serves = ["greeter.v1.Greeter"]
env = { PYTHONPATH = "stubs:." }

[once]
workload = "visitor"
command = ["python", "-m", "services.visitor"]
env = { PYTHONPATH = "stubs:." }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The user's folder, as they would have it in their own repository."""
    for name, text in {
        "protos/greeter/v1/greeter.proto": GREETER_PROTO,
        "services/__init__.py": "",
        "services/greeter.py": GREETER,
        "services/visitor.py": VISITOR,
        "mesh.toml": MESH,
    }.items():
        file = tmp_path / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return tmp_path / "project"


@pytest.fixture
def python(tmp_path: Path, wheel: Path) -> Path:
    """An interpreter with the wheel and this run's dependencies, but without our sources."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    interpreter = folder / "bin" / "python"
    site = Path(run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    run([sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-index", "--no-deps", wheel])
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HAUBERK_", "PYTHON"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_own_project_on_the_wheel_serves_and_calls(project: Path, python: Path) -> None:
    """Stock protoc's stubs, a top-level `services` package of theirs, nothing of ours on the path."""
    hauberk = python.parent / "hauberk"
    installed = run([python, "-c", "import hauberk; print(hauberk.__file__)"], cwd=project).strip()
    assert not Path(installed).is_relative_to(REPOSITORY)
    include = run([hauberk, "protos"], cwd=project).strip()
    (project / "stubs").mkdir()
    run(
        [python, "-m", "grpc_tools.protoc", "-Iprotos", f"-I{include}", f"-I{include}/third_party",
         "--python_out=stubs", "--grpc_python_out=stubs", "greeter/v1/greeter.proto",
         "buf/validate/validate.proto"],
        cwd=project,
    )  # fmt: skip
    out = run([hauberk, "up", "--once"], cwd=project)
    assert f"services is {project}/services/__init__.py" in out
    assert "hello world, you are spiffe://own.test/visitor" in out
    assert "locked PERMISSION_DENIED" in out
    assert "too long INVALID_ARGUMENT message breaks its contract: name: must be at most 20 characters" in out
