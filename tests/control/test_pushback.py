"""A caller told to wait waits: core keeps to it with the retries that contracts give, and without a storm."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.demands import QuotaKey, QuotaRule
from hauberk.interceptors.errors import PUSHBACK_KEY, Draining, Refused
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.records import Records
from hauberk.services.control.xds.routes import RETRIES
from tests.control.xds_mesh import TRUST_DOMAIN, Mesh, becomes, call, contract, refusal, workload
from tests.interceptors.stage import Lines

SERVICE, PATH = "shop.catalog.v1.Catalog", "/shop.catalog.v1.Catalog/GetProduct"
OFFERED = contract(SERVICE, GetProduct=["gateway"], again=["GetProduct"])


class Catalog:
    """A method that may be repeated, refuses as it is told to, and keeps when it was asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.refuses: list[Refused] = []

    async def answer(self, request: bytes, context: Any) -> bytes:
        self.asked.append(time.monotonic())
        if self.refuses:
            raise self.refuses.pop()
        return b"catalog"


@asynccontextmanager
async def served(folder: Path, *quotas: QuotaRule) -> AsyncIterator[tuple[Catalog, grpc.aio.Channel, Lines]]:
    """A catalog behind its guard, and the channel of a caller that found it by the mesh's own routes."""
    async with Mesh(folder) as mesh:
        catalog, log = Catalog(), Lines()
        records = Records([AccessLog(log, "spiffe://shop.test/catalog")], every_s=0.02)
        guard = Guard(
            mesh.trust,
            trust_domain=TRUST_DOMAIN,
            in_flight_per_peer=1000,
            records=records,
        )
        said = dataclasses.replace(OFFERED.methods["GetProduct"], quotas=quotas)
        handler: Any = grpc.unary_unary_rpc_method_handler(catalog.answer)
        guard.add(SERVICE, {"GetProduct": handler}, {"GetProduct": said})
        address = await mesh._serve(guard, mesh.credentials("catalog"))
        mesh.show(workload("catalog", OFFERED, at=[address]))
        async with mesh.channel("gateway") as channel:
            yield catalog, channel, log
        records.close()


async def test_call_refused_for_its_quota_is_not_repeated(tmp_path: Path) -> None:
    hourly = QuotaRule(limit=1, per_s=3600, burst=1, key=QuotaKey.METHOD)
    async with served(tmp_path, hourly) as (catalog, channel, log):
        assert await call(channel, PATH) == "catalog"
        for _ in range(3):
            refused = await refusal(channel, PATH)
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(refused.trailing_metadata() or ())[PUSHBACK_KEY]) > 3_000_000
        assert len(catalog.asked) == 1
        assert len(await log.reach(4)) == 4


async def test_call_that_may_be_repeated_is_so_after_the_wait_it_was_told(tmp_path: Path) -> None:
    async with served(tmp_path) as (catalog, channel, _):
        catalog.refuses = [Draining("not now", retry_after_s=0.6) for _ in range(2)]
        assert await call(channel, PATH) == "catalog"
        first, second, third = catalog.asked
        assert 0.6 <= second - first < 1.2
        assert 0.6 <= third - second < 1.2


async def test_call_told_never_to_come_back_is_not_repeated(tmp_path: Path) -> None:
    async with served(tmp_path) as (catalog, channel, _):
        catalog.refuses = [Draining("never", retry_after_s=float("inf"))]
        assert (await refusal(channel, PATH)).code() is grpc.StatusCode.UNAVAILABLE
        assert len(catalog.asked) == 1


async def test_wait_longer_than_the_deadline_sends_nothing_more(tmp_path: Path) -> None:
    async with served(tmp_path) as (catalog, channel, _):
        catalog.refuses = [Draining("later", retry_after_s=60)]
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, PATH, timeout=1)
        assert len(catalog.asked) == 1


async def test_many_callers_that_are_told_to_wait_come_back_so_often_and_no_more(tmp_path: Path) -> None:
    async with served(tmp_path) as (catalog, channel, _):
        await call(channel, PATH)
        catalog.refuses = [Draining("not now", retry_after_s=0.5) for _ in range(1000)]
        refused = await asyncio.gather(*(refusal(channel, PATH) for _ in range(100)))
        assert {error.code() for error in refused} == {grpc.StatusCode.UNAVAILABLE}
        await becomes(lambda: len(catalog.asked), 1 + 100 * (1 + RETRIES))
        span = catalog.asked[-1] - catalog.asked[1]
        assert span >= 0.5 * RETRIES
