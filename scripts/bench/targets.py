"""What is measured: ways to serve and to call, each begun as a process of its own."""

import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import msgspec
from google.protobuf.descriptor import ServiceDescriptor

from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.hints import Hints
from hauberk.interceptors.outbound import guarded
from hauberk.otlp import EVERY_S
from hauberk.recording import Recording
from hauberk.settings import Settings
from scripts.bench.contract import CLIENT, SERVICE, contract
from scripts.bench.features import Without
from scripts.bench.load import Headers
from scripts.bench.materials import TRUST_DOMAIN, Materials
from scripts.bench.processes import Process, address_of, module, started
from scripts.bench.sink import OVER_GRPC, counted
from scripts.bench.tokens import Mint

TOKENS = 64
"""Different tokens that calls bring, but for those that each bring one of their own."""
OURS, OUR_THREADS = "ours", "ours in threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to serve and to call."""

    name: str
    server: str
    """The process that serves; what several variants share is begun once."""
    kind: str = "bare"
    loop: str = "uvloop"
    methods: int = 2
    sampled: float = 0.01
    base: str = "bare"
    """The variant it is held against in tables."""
    our_channel: bool = False
    fresh: bool = False
    """Whether each call brings a token that was never seen before."""
    without: Without = frozenset()

    @property
    def ours(self) -> bool:
        return self.kind in (OURS, OUR_THREADS)


@dataclass(slots=True, kw_only=True)
class Target:
    """A variant that listens."""

    variant: Variant
    channel: grpc.aio.Channel
    processes: Sequence[Process]
    headers: Headers
    lines: "Lines | None" = None
    """Of calls; each has to leave one."""
    spans: Callable[[], int] | None = None
    """Of calls; each that is sampled has to leave `spans_each`."""
    spans_each: int = 1
    settled_s: float = 0.03
    """After the last call: until what is done a moment later is done."""
    metered: bool = False
    """Whether it tells how many calls it has served, where its log says."""


@dataclass(slots=True)
class Lines:
    """Counts the lines about calls in a log that grows."""

    log: Path
    count: int = 0
    _drawn: list[float] = field(default_factory=list)
    _offset: int = 0
    _rest: bytes = field(default=b"")

    def read(self) -> int:
        """Lines so far."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            read = log.read()
        self._offset += len(read)
        *whole, self._rest = (self._rest + read).split(b"\n")
        for line in whole:
            if line.startswith(b"{") and SERVICE.encode() in line:  # others tell of refused tokens
                self.count += 1
                trace_id = msgspec.json.decode(line).get("trace.id", "f" * 32)
                self._drawn.append(int(trace_id[16:], 16) / 2**64)
        return self.count

    def begun_sampled(self, since: int, ratio: float) -> int:
        """Of the traces of the lines after the first `since`: how many a ratio of the trace id samples."""
        return sum(drawn < ratio for drawn in self._drawn[since:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What all targets of a run have in common."""

    materials: Materials
    mint: Mint
    client: Credentials
    """Whom the tokens are bound to."""
    tokens: tuple[str, ...]
    contract: ServiceDescriptor
    stack: AsyncExitStack
    servers: dict[str, tuple[Process, str]] = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path, stack: AsyncExitStack) -> "Run":
        materials = Materials.create(folder)
        client = materials.credentials(CLIENT)
        mint = Mint.create(folder, client.svid.leaf)
        tokens = tuple(mint.token() for _ in range(TOKENS))
        return cls(
            materials=materials, mint=mint, client=client, tokens=tokens, contract=contract(), stack=stack
        )

    def headers(self, variant: Variant) -> Headers:
        dice = random.Random(5)  # noqa: S311 - which call has which token is no secret
        token = self.mint.token if variant.fresh else partial(dice.choice, self.tokens)
        return Headers(token, variant.sampled, ours=variant.our_channel)

    def server(self, variant: Variant) -> tuple[Process, str]:
        """The process that serves `variant`, begun if it is the first that asks, and where it listens."""
        if variant.server not in self.servers:
            folder = self.materials.folder
            told = (str(variant.methods), variant.loop, ",".join(sorted(variant.without)))
            command = module("servers", variant.kind, str(folder), variant.server, *told)
            process = self.stack.enter_context(started(variant.server, command, folder))
            self.servers[variant.server] = process, address_of(process, folder)
        return self.servers[variant.server]

    def target(self, variant: Variant) -> Target:
        process, address = self.server(variant)
        recording = self._recording(variant) if variant.our_channel else None
        channel = self._channel(variant, address, recording)
        self.stack.push_async_callback(channel.close)
        exports = (variant.ours and "spans" not in variant.without) or variant.kind == "usual"
        service = f"spiffe://{TRUST_DOMAIN}/{variant.server}" if variant.ours else variant.server
        writes = (variant.ours and "log" not in variant.without) or variant.kind == "usual"
        return Target(
            variant=variant,
            channel=channel,
            processes=(process,),
            headers=self.headers(variant),
            lines=Lines(process.log) if writes else None,
            spans=partial(counted, self.materials.folder, service, variant.name) if exports else None,
            spans_each=1 if recording is None else 2,
            settled_s=0.03 if recording is None else EVERY_S + 0.3,
            metered=variant.ours and "metrics" not in variant.without,
        )

    def _recording(self, variant: Variant) -> Recording:
        """What a process keeps of the calls it makes: metrics, and spans, which come from `variant.name`."""
        folder = self.materials.folder
        settings = Settings(
            name=CLIENT,
            state_dir=folder / "client.state",
            enrolment="127.0.0.1:1",
            roots=folder,
            metrics_listen="127.0.0.1:0",
            otlp_endpoint=f"http://{(folder / OVER_GRPC).read_text('ascii')}",
        )
        recording = Recording.of(settings, variant.name)
        self.stack.callback(recording.close)
        return recording

    def _channel(self, variant: Variant, address: str, recording: Recording | None) -> grpc.aio.Channel:
        server = SpiffeId.of(TRUST_DOMAIN, "server")
        if recording is not None:  # as Mesh.direct_channel makes it
            held = Watch(self.client)
            channel = DirectChannel(address, server, held, drain_s=1.0)
            hints = Hints(credentials=held, target=address, server=server)
            return guarded(
                channel,
                explain=hints.explain,
                trace_ratio=variant.sampled,
                telemetry=recording.telemetry,
                target=f"dns:///{address}",
            )
        own = ("grpc.use_local_subchannel_pool", 1)
        if variant.kind == "insecure":
            return grpc.aio.insecure_channel(address, [own])
        named = ("grpc.ssl_target_name_override", server.dns_name)
        return grpc.aio.secure_channel(address, self.client.channel_credentials(), [named, own])
