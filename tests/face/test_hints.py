"""What each of core's errors means here."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from hauberk.certs.clock import SetClock
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.hints import Hints, is_refusal_of_svid, reason_of
from hauberk.interceptors.errors import Forbidden, Unidentified, rpc_error
from tests.face.town import TRUST_DOMAIN, Town, refused

UNAVAILABLE, DENIED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@pytest.fixture
def hints(town: Town) -> Hints:
    return Hints(
        credentials=Watch(town.credentials("gateway")),
        target="127.0.0.1:7",
        server=SpiffeId.of(TRUST_DOMAIN, "orders"),
    )


@pytest.mark.parametrize(
    ("code", "said", "meaning"),
    [
        (UNAVAILABLE, "No matching route found in xDS route config", "no route: callers of this method"),
        (UNAVAILABLE, "empty address list (LDS: could not find VirtualHost for mesh)", "no route"),
        (DENIED, "Fault injected", "do not include spiffe://mesh.test/gateway"),
        (UNAVAILABLE, "EDS resource x contains no localities", "nobody serves this contract at the moment"),
        (UNAVAILABLE, "no children in weighted_target policy", "nobody serves this contract at the moment"),
        (UNAVAILABLE, "circuit breaker drop", "circuit breaker is open"),
        (EXHAUSTED, "CLIENT: Received message larger than max (5242880 vs. 4194304)", "send it in parts"),
        (UNAVAILABLE, "max connection age", "reopen the stream with hauberk.resume"),
        (
            UNAVAILABLE,
            "Hostname Verification Check failed",
            "at 127.0.0.1:7 is not spiffe://mesh.test/orders",
        ),
        (
            UNAVAILABLE,
            "SANs from certificate did not match SANs from xDS",
            "is not spiffe://mesh.test/orders",
        ),
        (UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED: unable to get issuer", "that we have no root for"),
        (UNAVAILABLE, "Socket closed", "speaks no TLS: run `hauberk doctor 127.0.0.1:7`"),
        (UNAVAILABLE, "Connection reset by peer", "run `hauberk doctor 127.0.0.1:7`"),
        (UNAVAILABLE, "Handshake failed", "TLS failed at 127.0.0.1:7"),
        (UNAVAILABLE, "Stream removed (Socket closed)", "it may have been done all the same"),
        (UNAVAILABLE, "Stream removed (sendmsg: Broken pipe (32))", "ended, was killed or cannot be reached"),
        (
            UNAVAILABLE,
            "last error: Socket closed (LDS resource mesh: xDS channel for server 127.0.0.1:8: down)",
            "its clock is wrong, or it speaks no TLS",
        ),
    ],
)
def test_core_s_words_are_explained(hints: Hints, code: grpc.StatusCode, said: str, meaning: str) -> None:
    assert meaning in (hints.explain(error(code, said)) or "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (grpc.StatusCode.NOT_FOUND, "Socket closed"),
        (grpc.StatusCode.INTERNAL, "max connection age"),
        (UNAVAILABLE, "Failed to connect to remote host: Connection refused"),
        (UNAVAILABLE, "Failed to connect to remote host: getsockopt(SO_ERROR): Connection reset by peer"),
        (UNAVAILABLE, "Stream removed"),
        (UNAVAILABLE, ""),
        (DENIED, "not yours"),
    ],
)
def test_nothing_is_added_where_nothing_is_known(hints: Hints, code: grpc.StatusCode, said: str) -> None:
    assert hints.explain(error(code, said)) is None


@pytest.mark.parametrize("reason", ["SVID_EXPIRED", "SVID_NOT_YET_VALID"])
def test_a_guard_that_finds_our_svid_out_of_its_time_has_a_clock_of_its_own(
    hints: Hints, reason: str
) -> None:
    told = hints.explain(rpc_error(Unidentified("certificate is out of its time", reason=reason)))
    assert told == "our svid is good by our own clock: the clock of one of the two is wrong"


def test_a_clock_that_was_set_is_named_before_what_comes_of_it(town: Town) -> None:
    offset = timedelta(0)
    clock = SetClock(lambda: datetime.now(UTC) + offset)
    offset = timedelta(hours=5)
    clock.look()
    hints = Hints(
        credentials=Watch(town.credentials("gateway")), now=lambda: datetime.now(UTC) + offset, clock=clock
    )
    told = hints.explain(error(UNAVAILABLE, "Socket closed")) or ""
    assert told.startswith("this machine's clock was set forward by 5 h: our own svid expired")


@pytest.mark.parametrize(
    ("said", "refuses"),
    [
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:7: Socket closed",
            True,
        ),
        ("Stream removed (Socket closed)", False),
        ("Failed to connect to remote host: getsockopt(SO_ERROR): Connection reset by peer", False),
        ("Handshake read failed (recvmsg:Connection reset by peer (104))", False),
    ],
)
def test_peer_that_ended_is_not_taken_for_one_that_refuses_us(said: str, refuses: bool) -> None:
    assert is_refusal_of_svid(error(UNAVAILABLE, said)) is refuses


async def test_call_whose_server_is_killed_hears_that_it_was(town: Town) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.face.stuck_server", str(town.folder)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        channel = town.channel((await process.stdout.readline()).decode().strip())
        async with asyncio.timeout(20):
            calling = asyncio.create_task(refused(channel, within=15))
            await process.stdout.readline()
            process.kill()
            told = (await calling).details() or ""
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert "the connection was lost while the call was on its way" in told
    assert "clock" not in told


def test_a_refusal_with_details_speaks_for_itself(hints: Hints) -> None:
    refusal = rpc_error(Forbidden("Fault injected"))
    assert hints.explain(refusal) is None
    assert reason_of(refusal) == "CALLER_NOT_ALLOWED"


def test_a_status_without_details_has_no_reason() -> None:
    assert reason_of(error(DENIED, "x")) is None


def test_a_broken_detail_is_no_reason() -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    broken = grpc.aio.AioRpcError(DENIED, grpc.aio.Metadata(), trailing, details="x")
    assert reason_of(broken) is None


def test_our_own_clock_is_looked_at_first(town: Town) -> None:
    """The same words from core; what is wrong is ours."""
    credentials = Watch(town.credentials("gateway"))
    parted = error(UNAVAILABLE, "Socket closed")

    def at(offset: timedelta) -> str | None:
        return Hints(credentials=credentials, now=lambda: datetime.now(UTC) + offset).explain(parted)

    assert "speaks no TLS: run `hauberk doctor HOST:PORT`" in (at(timedelta(0)) or "")
    assert "our own svid expired 60 min ago" in (at(timedelta(hours=2)) or "")
    assert "our own svid is not valid for another 120 min" in (at(-timedelta(hours=2)) or "")
