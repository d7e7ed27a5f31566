"""How commands reach a server: a channel of their own over mutual TLS, and its errors as lines for people."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from hauberk.absence import was_silence
from hauberk.certs.clock import utc_now
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import StoreError, SvidError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.store import CredentialStore
from hauberk.certs.watch import Watch
from hauberk.cli.errors import BoundElsewhere, CommandFailed, NoAnswer, NotRunning
from hauberk.cli.state import State
from hauberk.hints import Hints
from hauberk.interceptors.errors import DETAILS_KEY
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.uninstrumented import aio_secure_channel
from hauberk.options import CHANNEL
from hauberk.protos.hauberk.control.v1 import admin_pb2, admin_pb2_grpc

CALL_S = 10.0
"""How long a command waits for one answer."""

BOUND_ELSEWHERE = "CONTRACT_BOUND_ELSEWHERE"
_NEXT = {
    grpc.StatusCode.UNAVAILABLE: "find out why: hauberk doctor",
    grpc.StatusCode.DEADLINE_EXCEEDED: "find out why: hauberk doctor",
    grpc.StatusCode.UNAUTHENTICATED: "find out why: hauberk doctor",
    grpc.StatusCode.PERMISSION_DENIED: "who may call it: hauberk policy show; in another name: --as NAME",
    grpc.StatusCode.UNIMPLEMENTED: "what there is: hauberk policy show",
}


def operator_credentials(state: State) -> Credentials:
    """What commands show for themselves: the operator's SVID, which the running `up` keeps fresh.

    Raises NotRunning if there is none or it has expired, CommandFailed if it is another mesh's.
    """
    try:
        credentials = CredentialStore(state.operator).load()
    except StoreError as error:
        raise CommandFailed(str(error), "or start again, which makes it anew: hauberk up") from None
    if credentials is None:
        raise NotRunning(f"no operator has enrolled in {state.folder}", "start the mesh once: hauberk up")
    check_mesh(state, credentials)
    try:
        credentials.svid.check_dates(utc_now())
    except SvidError as error:
        raise NotRunning(
            f"the operator's certificate cannot be used: {error}", "start it: hauberk up"
        ) from None
    return credentials


def check_mesh(state: State, credentials: Credentials) -> None:
    """Refuse to speak with the mesh whose credentials lie in the state folder if the mesh file is another's.

    Raises CommandFailed.
    """
    wanted, found = state.mesh().trust_domain, credentials.svid.spiffe_id.trust_domain
    if wanted != found:
        raise CommandFailed(
            f"{state.mesh_file} is mesh {wanted}, but {state.folder} beside it is of mesh {found}",
            "name the other mesh file (--mesh FILE), or give each mesh a folder of its own",
        )


@asynccontextmanager
async def dialled(target: str, server: SpiffeId, credentials: Credentials) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to host:port where `server` must answer; closed with the block. Errors carry hints."""
    hints = Hints(credentials=Watch(credentials), target=target, server=server)
    named = ("grpc.ssl_target_name_override", server.dns_name)
    async with aio_secure_channel(
        target, credentials.channel_credentials(), options=[*CHANNEL, named]
    ) as channel:
        yield guarded(channel, explain=hints.explain)


@asynccontextmanager
async def control_plane(state: State) -> AsyncIterator[Any]:
    """A stub of the running control plane's Admin service, spoken to as the operator.

    Raises NotRunning if none runs, CommandFailed for a call that fails inside the block.
    """
    addresses, credentials = state.running(), operator_credentials(state)
    control = SpiffeId.of(credentials.svid.spiffe_id.trust_domain, "control")
    with told(f"the control plane at {addresses.mesh}"):
        async with dialled(addresses.mesh, control, credentials) as channel:
            yield admin_pb2_grpc.AdminStub(channel)


async def invited(admin: Any, request: admin_pb2.InviteRequest) -> admin_pb2.InviteResponse:
    """The control plane's invitation."""
    answer: admin_pb2.InviteResponse = await admin.Invite(request, timeout=CALL_S)
    return answer


@contextmanager
def told(whom: str) -> Iterator[None]:
    """Turns a failed call to `whom` into CommandFailed, with what to do next."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise failure(error, whom) from None


def failure(error: grpc.aio.AioRpcError, whom: str) -> CommandFailed:
    """One failed call to `whom` as a line, and the next step where we know one."""
    infos = error_infos(error)
    if (error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or was_silence(error)) and not infos:
        return NoAnswer(f"{whom} did not answer in time", _NEXT[grpc.StatusCode.DEADLINE_EXCEEDED])
    for info in infos:
        if info.reason == BOUND_ELSEWHERE:
            return _bound_elsewhere(info.metadata["contract"], info.metadata["bound_to"])
    reasons = [f"{info.reason} of {info.domain}" for info in infos]
    because = f" ({', '.join(reasons)})" if reasons else ""
    return CommandFailed(f"{error.code().name}: {error.details()}{because}", _NEXT.get(error.code(), ""))


def _bound_elsewhere(contract: str, owner: str) -> BoundElsewhere:
    name = SpiffeId.parse(owner).name
    return BoundElsewhere(
        f"{contract} may be served by {name} alone",
        f"take it from there: hauberk invite {name} --serves-nothing, or --serves for each it is to keep",
        owner=name,
    )


def error_infos(error: grpc.aio.AioRpcError) -> list[ErrorInfo]:
    """The google.rpc.ErrorInfo that came with a failed call."""
    infos = []
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    infos.append(info)
    return infos
