"""A mesh on this machine: the control plane and every replica of one mesh.toml, as children of a supervisor.

Each start of a child gets a fresh join token over an inherited pipe, so nothing that could admit anybody
stands in arguments, environment or files; and a mesh whose every certificate has expired starts by nobody's
hand.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc

from hauberk.certs import join as tokens
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.cli import CIPHER_VARIABLE, SILENT, TLS_1_3_ONLY, VERBOSITY_VARIABLE
from hauberk.cli.dial import CALL_S, failure
from hauberk.cli.errors import BoundElsewhere, CommandFailed
from hauberk.cli.mesh_file import OPERATOR, MeshFile, Workload
from hauberk.cli.options import instant
from hauberk.cli.policy_apply import request_of, told
from hauberk.cli.process import Launch, pipe_holding
from hauberk.cli.state import Addresses, State
from hauberk.cli.supervisor import Child, Condition, Supervisor
from hauberk.entry import join
from hauberk.mesh import Mesh
from hauberk.protos.hauberk.control.v1 import admin_pb2, admin_pb2_grpc, registry_pb2
from hauberk.settings import Settings

CONTROL = "control"
SPARE = "spare"
"""The replica that stands in for a workload's only one while that restarts."""
TOKEN_LIFE = timedelta(minutes=10)
DRAIN_S = 10.0
GRACE_S = DRAIN_S + 5.0
"""How long a child may take to stop before it is ended."""
CONTROL_WAIT_S = 30.0
"""How long a starting child waits for a control plane that is being restarted."""
RESTORED_S = 10.0
"""How long the control plane lists what a killed run left, for whoever comes back."""
_POLL_S = 0.1
STATUS = {
    registry_pb2.SERVING_STATUS_SERVING: "serving",
    registry_pb2.SERVING_STATUS_NOT_SERVING: "not serving",
    registry_pb2.SERVING_STATUS_DRAINING: "draining",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process as the table shows it."""

    name: str
    """The child's: workload and replica."""
    identity: str
    address: str
    status: str
    pid: int | None
    expires: str
    """When its SVID ends; empty if it is not known."""

    @property
    def serves(self) -> bool:
        return self.status == "serving"


class Replica(Child):
    """One process of a workload of mesh.toml."""

    may_stand_still = False
    """It may hold a lock that its twins wait for."""

    def __init__(
        self, name: str, replica: int | str, workload: Workload, launch: Callable[[], Awaitable[Launch]]
    ) -> None:
        super().__init__(f"{name}-{replica}", launch)
        self.workload = name
        self.replica = str(replica)
        self.serves = bool(workload.serves)
        self.takes_any_port = workload.listen.endswith(":0")


class LocalMesh:
    """The processes of one mesh.toml, kept running by `supervisor`. Start them in the caller's task group."""

    def __init__(self, state: State, mesh: MeshFile, supervisor: Supervisor, *, access_log: bool) -> None:
        self._state = state
        self._mesh = mesh
        self._supervisor = supervisor
        self._access_log = access_log
        self._token = ""
        self._operator: Mesh | None = None
        self._left_behind: dict[tuple[str, str], str] = {}
        self._left_until = 0.0
        self.control = Child(CONTROL, self._launch_control)
        self.workloads = {
            f"{name}-{replica}": self._replica(name, workload, replica)
            for name, workload in mesh.workloads.items()
            for replica in range(1, workload.replicas + 1)
        }

    @property
    def names(self) -> list[str]:
        """Of every process there may be: those of mesh.toml, spare ones, the [once] command's."""
        once = [self._mesh.once.workload] if self._mesh.once else []
        return [CONTROL, *self.workloads, *(f"{name}-{SPARE}" for name in self._mesh.workloads), *once]

    async def answers(self) -> Addresses:
        """Wait until the control plane that runs now has said where it listens."""
        while True:
            addresses = self._state.addresses()
            if addresses and addresses.pid == self.control.pid:
                return addresses
            await asyncio.sleep(_POLL_S / 2)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Be the operator while the block runs: the certificate that `up` and every command speak with."""
        addresses = await self.answers()
        read_end = pipe_holding(self._token)
        settings = Settings(
            name=OPERATOR,
            state_dir=self._state.operator,
            enrolment=addresses.enrolment,
            roots=self._state.roots,
            trust_domain=self._mesh.trust_domain,
            join_token_fd=read_end,
        )
        async with join(settings) as self._operator:
            self._left_behind = {key: replica.address for key, replica in (await self._listed()).items()}
            self._left_until = time.monotonic() + RESTORED_S
            yield

    async def override(self, mesh: MeshFile) -> str:
        """Have the overrides of `mesh` enforced, and no others; what has changed, or "".

        Raises CommandFailed: one cannot be enforced, and nothing has changed.
        """
        request = request_of(mesh, self._state.mesh_file.name)
        return told(await self._admin(lambda admin: admin.ApplyOverrides(request, timeout=CALL_S)))

    @property
    def has_left(self) -> bool:
        """Whether our own membership has ended (the machine slept, perhaps): nobody can be invited now."""
        return self._operator is not None and self._operator.stopping.is_set()

    async def left(self) -> None:
        """Wait until `has_left`; for ever before we have joined."""
        await (self._operator.stopping if self._operator else asyncio.Event()).wait()

    async def rows(self) -> list[Row]:
        """Every process and what the control plane knows of it."""
        addresses = self._state.addresses()
        known = await self._listed()
        if time.monotonic() < self._left_until:
            for key, address in self._left_behind.items():
                if key in known and known[key].address == address:
                    del known[key]
        control = Row(
            name=CONTROL,
            identity=str(self._mesh.id_of(CONTROL)),
            address=addresses.mesh if addresses else "",
            status="serving" if addresses else self.control.condition,
            pid=self.control.pid,
            expires="",
        )
        return [control, *(self._row(child, known) for child in self.workloads.values())]

    async def row(self, child: Child) -> Row:
        """One process, as `rows` has it; a spare one too."""
        if not isinstance(child, Replica):
            return (await self.rows())[0]
        return self._row(child, await self._listed())

    async def all_serve(self) -> list[Row]:
        """Wait until every process that was not given up runs, and is offered to callers if it serves."""
        while True:
            rows = await self.rows()
            if all(row.serves or row.status == Condition.GIVEN_UP for row in rows):
                return rows
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Workloads in the opposite order of mesh.toml, so callers before those they call; control last."""
        for name, workload in reversed(self._mesh.workloads.items()):
            replicas = [f"{name}-{replica}" for replica in range(1, workload.replicas + 1)]
            await self._supervisor.stop(replicas, GRACE_S)

    async def stop_control(self) -> None:
        await self._supervisor.stop([CONTROL], GRACE_S)

    def once(self) -> Child:
        """The [once] command as a child; it is for the caller to run it once only."""
        once = self._mesh.once
        assert once is not None  # noqa: S101 - the caller has looked
        workload = Workload(command=once.command, env=once.env)
        return Child(once.workload, self._launching(once.workload, workload, "once"))

    def spare(self, name: str) -> Replica:
        """A process of the workload `name` beside those of mesh.toml; for the caller to run and stop."""
        return self._replica(name, self._mesh.workloads[name], SPARE)

    @property
    def credentials(self) -> Credentials:
        """The operator's, of this moment. Only once joined."""
        assert self._operator is not None  # noqa: S101 - see the docstring
        return self._operator.credentials.value

    def _replica(self, name: str, workload: Workload, replica: int | str) -> Replica:
        return Replica(name, replica, workload, self._launching(name, workload, replica))

    def _row(self, child: Replica, known: Mapping[tuple[str, str], admin_pb2.Replica]) -> Row:
        identity = str(self._mesh.id_of(child.workload))
        return _row(child, identity, known.get((identity, child.replica)))

    async def _listed(self) -> dict[tuple[str, str], admin_pb2.Replica]:
        """What is announced, by identity and replica."""
        answer = await self._admin(lambda admin: admin.ListReplicas(_LIST, timeout=CALL_S))
        return {(replica.spiffe_id, replica.replica): replica for replica in answer.replicas}

    async def _launch_control(self) -> Launch:
        self._token, _ = tokens.mint(self._mesh.id_of(OPERATOR), serves=(), ttl=TOKEN_LIFE, now=utc_now())
        return Launch(
            command=[sys.executable, "-m", "hauberk.services.control.main"],
            environment=self._environment(
                {
                    "HAUBERK_CONTROL_CONFIG": str(self._state.mesh_file),
                    "HAUBERK_CONTROL_STATE": str(self._state.folder),
                }
            ),
            folder=self._state.mesh_file.parent,
            secrets={"HAUBERK_CONTROL_OPERATOR_TOKEN_FD": self._token},
        )

    def _launching(
        self, name: str, workload: Workload, replica: int | str
    ) -> Callable[[], Awaitable[Launch]]:
        async def launch() -> Launch:
            token = await self._invite(name, workload)
            addresses = await self.answers()
            command = [sys.executable if part == "python" else part for part in workload.command[:1]]
            settings = {
                "HAUBERK_NAME": name,
                "HAUBERK_TRUST_DOMAIN": self._mesh.trust_domain,
                "HAUBERK_STATE_DIR": str(self._state.workload(name, replica)),
                "HAUBERK_ENROLMENT": addresses.enrolment,
                "HAUBERK_ROOTS": str(self._state.roots),
                "HAUBERK_REPLICA": str(replica),
                "HAUBERK_LISTEN": workload.listen,
                "HAUBERK_DRAIN_SECONDS": f"{DRAIN_S:g}",
                "DATABASE_URL": self._state.database_url(name),
            }
            if self._mesh.tokens:
                settings["HAUBERK_TOKEN_ISSUERS"] = str(self._state.mesh_file)
            return Launch(
                command=[*command, *workload.command[1:]],
                environment=self._environment(settings | workload.env),
                folder=self._state.mesh_file.parent,
                secrets={"HAUBERK_JOIN_TOKEN_FD": token},
            )

        return launch

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Ours without what was meant for other processes of a mesh, and with what a child is told."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HAUBERK_")}
        logged = {"HAUBERK_ACCESS_LOG": "1"} if self._access_log else {}
        fixed = {"PYTHONUNBUFFERED": "1", CIPHER_VARIABLE: TLS_1_3_ONLY}
        return {VERBOSITY_VARIABLE: SILENT} | inherited | fixed | logged | dict(settings)

    async def _invite(self, name: str, workload: Workload) -> str:
        """A token for one start; waits a while for a control plane that is being restarted."""
        request = admin_pb2.InviteRequest(name=name, serves=workload.serves)
        request.ttl.FromTimedelta(TOKEN_LIFE)
        try:
            invitation = await self._admin(lambda admin: admin.Invite(request, timeout=CALL_S))
        except BoundElsewhere as error:
            if error.owner in self._mesh.workloads:  # it gives the contract up as it is invited itself
                raise
            raise CommandFailed(f"{error}; {error.next_step}") from None
        return str(invitation.join_token)

    async def _admin(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """One call of the Admin service, or CommandFailed; tried again while control is being restarted."""
        assert self._operator is not None  # noqa: S101 - only used once joined
        ends = time.monotonic() + CONTROL_WAIT_S
        while True:
            try:
                return await call(admin_pb2_grpc.AdminStub(self._operator.control))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > ends:
                    raise failure(error, "the control plane") from None
            await asyncio.sleep(_POLL_S)


_LIST = admin_pb2.ListReplicasRequest()


def _row(child: Replica, identity: str, known: admin_pb2.Replica | None) -> Row:
    if known is not None and child.condition is Condition.RUNNING:
        status = STATUS.get(known.status, "unknown")
    elif child.condition is Condition.RUNNING:
        status = "starting" if child.serves else "serving"
    else:
        status = str(child.condition)
    return Row(
        name=child.name,
        identity=identity,
        address=known.address if known else "",
        status=status,
        pid=child.pid,
        expires=instant(known.svid_expires_at) if known else "",
    )
