"""One cell of the matrix: a server of one row's policy, and who calls it."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from hauberk.certs.bundle import Bundle
from hauberk.certs.credentials import Credentials, server_credentials
from hauberk.certs.identity import identify_certificate
from hauberk.certs.watch import Watch
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.peer import Trust
from tests.certs import forge as certificates
from tests.certs.forge import Party, uri
from tests.interceptors.raw_http2 import RawConnection, tls_of
from tests.interceptors.ruled import messages
from tests.interceptors.stage import (
    SERVICE,
    TRUST_DOMAIN,
    Clock,
    Metadata,
    Shape,
    Stage,
    begin,
    call,
    method,
    path,
    policy,
)
from tests.interceptors.threaded_stage import ThreadedStage
from tests.interceptors.token_forge import Forge

ME = f"spiffe://{TRUST_DOMAIN}/gateway"
OTHER_DOMAIN = "other.test"
LINGER, FAIL, REFUSE = "linger", "fail", "refuse"
"""Names in a message that the method does as it is told by."""
SECRET = "hunter2"

OPTIONS = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
"""Above the guard's own limit: between its two, core refuses at random."""

Around = Callable[["Scene"], AbstractAsyncContextManager[None]]
"""What is wrong while the call is made that is to be refused."""


@cache
def kind() -> Any:
    """The messages of every method here."""
    return messages(
        """message Ask {
          string name = 1 [(buf.validate.field).string.max_len = 10];
          int32 cost = 2;
          repeated int32 items = 3;
          map<string, string> kept = 4 [(buf.validate.field).cel = {
            id: "kept.known" message: "must be known" expression: "this.size() == 0 || this['known'] != ''"
          }];
        }"""
    )("Ask")


def ask(**fields: Any) -> bytes:
    raw: bytes = kind()(**fields).SerializeToString()
    return raw


GOOD = ask(name="anna")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One call, as its caller makes it."""

    caller: str = "gateway"
    method: str = "Ask"
    asks: tuple[bytes, ...] = (GOOD,)
    silent: bool = False
    """It brings no message, and does not end either."""
    metadata: Callable[["Scene"], Metadata] = lambda scene: ()
    within: float | None = 10
    credentials: Callable[["Scene"], grpc.ChannelCredentials] | None = None
    tls_1_2: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a caller was told."""

    code: str
    info: ErrorInfo | None = None
    retry: bool = False
    text: str = ""


class Scene:
    """One server of `Ask` by a policy, `Open` that anybody may call, and `Left` that nobody has written."""

    def __init__(self, stage: Stage, folder: Path, shape: Shape) -> None:
        self.stage = stage
        self.folder = folder
        self.shape = shape
        self.threaded = isinstance(stage, ThreadedStage)
        self.clock = Clock()
        self.audit = AuditLog(folder / "audit", f"spiffe://{TRUST_DOMAIN}/server")
        self.released = asyncio.Event()
        self.ran = 0
        """How often a method has begun."""
        self.read: list[str] = []
        """What the methods have read."""
        self._channels: dict[Sent | str, grpc.aio.Channel] = {}
        self._known: dict[str, Credentials] = {}

    @property
    def forge(self) -> Forge:
        """One for all: an RSA key takes a tenth of a second."""
        return _forge()

    @cached_property
    def stranger(self) -> Party:
        """The root of another trust domain, whom our server lets in through `open_door`."""
        return certificates.ca("other", begins=datetime.now(UTC) - timedelta(hours=1), ends=tomorrow())

    async def serve(
        self, said: Mapping[str, Any], credentials: grpc.ServerCredentials | None, **more: Any
    ) -> None:
        known = {name: policy(name, self.shape, "*") for name in ("Ask", "Left")}
        policies = {
            "Ask": replace(known["Ask"], **said),
            "Open": policy("Open", self.shape, anonymous=True),
            "Left": known["Left"],
        }
        asked = self.stage.method(self._asked(), self.shape, kind().FromString)
        handlers = {"Ask": asked, "Open": asked, "Left": method(_left, self.shape)}
        self.stage.guard = self.stage.new_guard(clock=self.clock, audit=self.audit, **more)
        self.stage.guard.add(SERVICE, handlers, policies)
        await self.stage.start(self.stage.guard, credentials=credentials, options=OPTIONS)

    async def send(self, sent: Sent) -> Outcome:
        """Make this call; what its caller is told."""
        if sent.tls_1_2:
            return await self._send_by_hand(sent)
        try:
            if not sent.asks:  # as a client that streams: it need not send a message, nor end
                open_ended = None if sent.silent else ()
                await begin(
                    self.channel(sent),
                    Shape.STREAM_UNARY,
                    sent.method,
                    requests=open_ended,
                    within=sent.within,
                )
            else:
                await call(
                    self.channel(sent),
                    self.shape,
                    sent.method,
                    requests=sent.asks,
                    within=sent.within,
                    metadata=sent.metadata(self),
                )
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            assert isinstance(details, bytes)
            return told(error.code(), error.details() or "", details)
        return Outcome(code="OK")

    def channel(self, sent: Sent) -> grpc.aio.Channel:
        """One for each caller, and for each call that shows something of its own."""
        key: Sent | str = sent.caller if sent.credentials is None else sent
        if key not in self._channels:
            shown = (
                sent.credentials(self) if sent.credentials else self.known(sent.caller).channel_credentials()
            )
            self._channels[key] = self.stage.channel(credentials=shown)
        return self._channels[key]

    def known(self, name: str) -> Credentials:
        """What that caller shows, always the same."""
        if name not in self._known:
            self._known[name] = self.stage.credentials(name)
        return self._known[name]

    def thumbprint(self, name: str) -> str:
        return identify_certificate(self.known(name).svid.leaf).x5t_s256

    def trusting(self, *, stranger: bool = False, revoked: str = "") -> Trust:
        """Our own root, and that of the other trust domain too."""
        own = self.stage.authority.bundle
        both = own.merge(Bundle({OTHER_DOMAIN: (self.stranger.certificate,)})) if stranger else own
        return Trust(both, frozenset({revoked} if revoked else ()))

    def open_door(self) -> grpc.ServerCredentials:
        """Lets the stranger's certificates through the handshake: the guard is to judge what they name."""
        return server_credentials(
            Watch(Credentials(self.known("server").svid, self.trusting(stranger=True).bundle))
        )

    def shown_by_stranger(self, spiffe_id: str) -> grpc.ChannelCredentials:
        leaf = certificates.leaf(
            self.stranger,
            names=[uri(spiffe_id)],
            begins=datetime.now(UTC) - timedelta(hours=1),
            ends=tomorrow(),
        )
        return grpc.ssl_channel_credentials(self.stage.authority.bundle.pem(), leaf.key_pem, leaf.pem)

    def asked(self, name: str, **how: Any) -> Any:
        """A call that has begun, with a message of this name."""
        return begin(self.channel(Sent(**how)), self.shape, "Ask", requests=[ask(name=name)])

    async def begun(self, count: int) -> None:
        """Wait until so many methods have begun."""
        async with asyncio.timeout(5):
            while self.ran < count:  # noqa: ASYNC110 - the methods run in a server of another loop, or thread
                await asyncio.sleep(0.005)

    async def answered(self, made: Any) -> None:
        """Read all that a call is answered."""
        if self.shape.replies_stream:
            assert [reply async for reply in made]
        else:
            await made

    async def _send_by_hand(self, sent: Sent) -> Outcome:
        context = tls_of(self.folder, self.known(sent.caller).svid, version=ssl.TLSVersion.TLSv1_2)

        def sending() -> Outcome:
            with RawConnection(self.stage.address, context) as connection:
                trailers = connection.call(path(sent.method), payload=sent.asks[0])
            raw = trailers["grpc-status-details-bin"]
            details = base64.b64decode(raw + b"=" * (-len(raw) % 4))
            return told(_CODES[int(trailers["grpc-status"])], trailers["grpc-message"].decode(), details)

        return await asyncio.to_thread(sending)

    def _asked(self) -> Callable[..., Any]:
        async def read(message: Any) -> None:
            self.read.append(message.name)
            match message.name:
                case "linger":
                    await self.released.wait()
                case "fail":
                    raise ValueError(SECRET)
                case "refuse":
                    raise Refused("not today")

        async def one(request: Any, context: Any) -> bytes:
            self.ran += 1
            if self.shape.requests_stream:
                async for each in request:
                    await read(each)
            else:
                await read(request)
            return b"done"

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield await one(request, context)

        return many if self.shape.replies_stream else one


def told(code: grpc.StatusCode, text: str, details: bytes) -> Outcome:
    """What stands in a status; it has an ErrorInfo of ours, and none of core's has."""
    if not details:
        return Outcome(code=code.name, text=text)
    status, info = Status.FromString(details), ErrorInfo()
    assert (status.code, status.message) == (code.value[0], text)
    assert status.details[0].Unpack(info)
    assert info.domain == "hauberk"
    retry = any(each.TypeName() == RetryInfo.DESCRIPTOR.full_name for each in status.details)
    return Outcome(code=code.name, info=info, retry=retry, text=text)


@cache
def _forge() -> Forge:
    return Forge()


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def _left(request: Any, context: Any) -> None:
    raise NotImplementedError


_left.__module__ = "lab_pb2_grpc"  # where generated code has the methods that nobody has written
_CODES = {code.value[0]: code for code in grpc.StatusCode}
