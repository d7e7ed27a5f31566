"""Where the time of a call that came too late went, as its caller is told: hop by hop, not to everybody."""

import asyncio
import re
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from hauberk.certs.credentials import anonymous_server_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.call import Call, within_call
from hauberk.interceptors.calls_made import Telemetry
from hauberk.interceptors.client_spans import ClientSpans
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.errors import DeadlinePassed, rpc_error
from hauberk.interceptors.hops import accounted, hop, hops_behind, hops_in
from hauberk.interceptors.policy import Policy, callers
from hauberk.interceptors.spans import Spans
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.clients import KINDS, client
from tests.interceptors.stage import Shape, Stage, info, only, policy
from tests.interceptors.test_spans import attributes

SERVED_BY = ("asyncio", "threaded")
UNARY = Shape.UNARY_UNARY


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def stuck(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return request


def numbers(chain: str) -> list[int]:
    return [int(found) for found in re.findall(r" (\d+) ms", chain)]


def methods(chain: str) -> str:
    return re.sub(r" \d+ ms", "", chain)


def bound(seconds: float, *patterns: str, anonymous: bool = False) -> Policy:
    return policy("First", UNARY, *patterns, anonymous=anonymous, deadline=DeadlineRule(max_s=seconds))


class Chain:
    """First calls Second, Second calls Third, which is stuck: each at a server of its own."""

    def __init__(self, stage: Stage, kind: str) -> None:
        self._stage, self._kind = stage, kind

    async def serve(self, first: Policy) -> None:
        address = ""
        for name, behind in (("Third", None), ("Second", "Third"), ("First", "Second")):
            behaviour = stuck if behind is None else self._calling(behind, address)
            demanded = first if name == "First" else policy(name, UNARY, "*")
            credentials = anonymous(self._stage) if demanded.anonymous else None
            served = {name: (UNARY, behaviour, demanded)}
            address = await self._stage.serve(served, credentials=credentials)

    def _calling(self, name: str, address: str) -> Any:
        async def method(request: bytes, context: Any) -> bytes:
            async with client(self._kind, self._stage, "orders", address=address) as caller:
                await caller.call(UNARY, name, within=None)
            return request

        return method


def anonymous(stage: Stage) -> grpc.ServerCredentials:
    return anonymous_server_credentials(Watch(stage.credentials("server")))


async def failure(stage: Stage, within: float = 5) -> Any:
    """What a caller of First gets."""
    async with client("asyncio", stage) as caller:
        with pytest.raises(grpc.RpcError) as caught:
            await caller.call(UNARY, "First", within=within)
    return caught.value


WHOLE = ["lab.v1.Lab/First", "lab.v1.Lab/Second", "lab.v1.Lab/Third"]


async def test_caller_learns_which_hop_had_what_and_where_it_was_spent(stage: Stage, kind: str) -> None:
    """As far as word of it comes within the margin, which on a busy machine it may not."""
    await Chain(stage, kind).serve(bound(0.4, "*"))
    known = [0]
    while max(known) < len(WHOLE) and len(known) < 9:
        error = await failure(stage)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        facts = info(error).metadata
        chain, had = methods(facts["hops"]).split(" -> "), numbers(facts["hops"])
        assert chain == WHOLE[: len(chain)]
        assert had == sorted(set(had), reverse=True)
        assert had[0] == int(facts["budget_ms"]) == 400
        assert 350 < int(facts["spent_ms"]) < 1500
        if len(chain) > 1:
            assert facts["spent_in"] == chain[-1]
            assert error.details().endswith(f"contract max; spent in {chain[-1]}")
        known.append(len(chain))
    assert max(known) == 3


@only("asyncio")
async def test_call_cancelled_as_it_waited_is_known_to_have(stage: Stage) -> None:
    """Though the one behind would go on."""

    async def waits(request: bytes, context: Any) -> bytes:
        other = Call(
            method="/a.B/C",
            policy=Policy(method="/a.B/C"),
            metadata=(),
            trace=TraceContext.new(),
            started=0.0,
            time_left_s=None,
            auth_context={},
            address="",
        )
        async with client("asyncio", stage, "orders", address=behind) as caller:
            with within_call(other):  # so that nothing is kept back
                await caller.call(UNARY, "Second", within=5)
        return request

    behind = await stage.serve({"Second": (UNARY, stuck, policy("Second", UNARY, "*"))})
    await stage.serve({"First": (UNARY, waits, bound(0.2, "*"))})
    facts = info(await failure(stage)).metadata
    assert facts["hops"] == "lab.v1.Lab/First 200 ms -> lab.v1.Lab/Second 5000 ms"


async def test_call_that_waited_for_no_other_is_the_one_hop(stage: Stage) -> None:
    await stage.serve({"First": (UNARY, stuck, bound(0.1, "*"))})
    facts = info(await failure(stage)).metadata
    assert facts["hops"] == "lab.v1.Lab/First 100 ms"
    assert "spent_in" not in facts


async def test_who_shows_no_certificate_learns_of_its_own_call_alone(stage: Stage, kind: str) -> None:
    await Chain(stage, kind).serve(bound(0.3, anonymous=True))
    channel: Any = stage.channel(credentials=grpc.ssl_channel_credentials(stage.authority.bundle.pem()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/lab.v1.Lab/First")(b"", timeout=5)
    facts = info(caught.value).metadata
    assert facts["budget_ms"] == "300"
    assert not {"hops", "spent_in"} & facts.keys()
    assert "Second" not in str(caught.value.trailing_metadata())
    assert "Second" not in str(caught.value.details())


async def test_span_of_the_caller_tells_the_hops(stage: Stage) -> None:
    await Chain(stage, "asyncio").serve(bound(0.3, "*"))
    spans = Spans()
    records = stage.keeping(made=[ClientSpans(spans)])
    async with client("asyncio", stage, telemetry=Telemetry(keep=records.keep, spans=True)) as caller:
        with pytest.raises(grpc.RpcError):
            await caller.call(UNARY, "First", within=5)
    records.flush()
    (span,) = spans.next(10)
    chain = methods(attributes(span)["hauberk.hops"]).split(" -> ")
    assert chain == WHOLE[: len(chain)]


def late(domain: str | None, *patterns: str, behind: str = "", method: str = "/a.B/C") -> DeadlinePassed:
    """What a caller of this trust domain is told."""
    call = Call(
        method=method,
        policy=Policy(method=method, callers=callers(*patterns), anonymous=not patterns),
        metadata=(),
        trace=TraceContext.new(),
        started=0.0,
        time_left_s=2.0,
        auth_context={},
        address="",
    )
    call.deadline = Deadline(2.0, "caller")
    if domain is not None:
        peer: Any = type("Peer", (), {"spiffe_id": SpiffeId.of(domain, "gateway")})
        call.peer = peer
    refusal = call.deadline.passed()
    refusal.behind = behind
    return accounted(refusal, call)


@pytest.mark.parametrize(
    ("domain", "patterns", "told"),
    [
        ("mesh.test", ("gateway",), True),
        ("mesh.test", ("gateway", "spiffe://other.test/gateway"), True),
        ("other.test", ("gateway", "spiffe://other.test/gateway"), False),
        ("other.test", ("spiffe://other.test/*",), False),
        (None, (), False),
        ("mesh.test", (), False),
    ],
)
def test_hops_are_for_our_own_trust_domain(domain: str | None, patterns: tuple[str, ...], told: bool) -> None:
    assert ("hops" in late(domain, *patterns, behind="d.E/F 10 ms").metadata) is told


@pytest.mark.parametrize(
    "word",
    [
        "",
        "canary",
        "a.B/C 10 ms -> canary <script>",
        "a.B/C 10 ms\n",
        "a.B/C -1 ms",
        "a.B/C 10 ms -> ",
        " -> ".join(["a.B/C 10 ms"] * 30),
        f"{'a' * 199}/B 10 ms -> {'b' * 199}/C 1 ms",
    ],
)
def test_word_of_a_callee_that_is_no_chain_is_not_passed_on(word: str) -> None:
    error: Any = rpc_error(DeadlinePassed("x", metadata={"hops": word}))
    error.hop = "a.B/C 10 ms"
    assert hops_behind(error) == "a.B/C 10 ms"


@given(st.text(max_size=300))
def test_what_is_taken_for_a_chain_is_short_and_plain(word: str) -> None:
    told = hops_in(ErrorInfo(metadata={"hops": word}))
    assert told in ("", word)
    assert told.isascii()


def test_long_chain_is_told_by_its_ends_and_is_a_chain_still() -> None:
    behind = " -> ".join(hop(f"/{'x' * 50}.S{number}/M", 1.0) for number in range(4))
    chain = late("mesh.test", "*", behind=behind).metadata["hops"]
    assert (methods(chain), len(chain) <= 256) == (f"a.B/C -> ... -> {'x' * 50}.S3/M", True)
    assert hops_in(ErrorInfo(metadata={"hops": chain})) == chain


def test_call_without_a_deadline_is_no_hop() -> None:
    assert hop("/a.B/C", None) == ""
