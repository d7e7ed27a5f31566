"""PostgreSQL goes away under load, dead or hung, and comes back: under the shop and control alike."""

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from hauberk import hints
from hauberk.certs.store import CredentialStore
from hauberk.protos.hauberk.control.v1 import admin_pb2
from tests.faults.customers import UNSETTLED, Customers, customers, reasons
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, fleet
from tests.mesh.running import shop
from tests.postgresql import Postgresql, new_database, postgresql_process

SHOP = ("catalog", "payments", "orders")
REPAIRED_S = 10.0
"""How long after the repair all must be well."""
QUICK_S = 1.9
"""Within this a call is refused: before its caller's two seconds are over."""


def on_postgresql(server: Postgresql, *, svid_lifetime_s: int) -> tuple[str, dict[str, str]]:
    """The shop's mesh.toml with every database on that server; the URLs of the shop's, by workload."""
    text = shop(svid_lifetime=f"{svid_lifetime_s}s")
    text, changed = re.subn(r'(?m)^database = ""$', f'database = "{new_database(server.url)}"', text)
    assert changed == 1
    urls = {name: new_database(server.url) for name in SHOP}
    for name, url in urls.items():
        section = rf"(?ms)^(\[workloads\.{name}\].*?^serves = [^\n]*)$"
        text, changed = re.subn(section, rf'\1\nenv = {{ DATABASE_URL = "{url}" }}', text)
        assert changed == 1
    return text, urls


async def until_nearly_due(mesh: Fleet, lifetime_s: int) -> None:
    """Wait until the first of the shop's certificates is about to be renewed."""
    stores = [CredentialStore(mesh.state.workload(name, 1)) for name in SHOP]
    issued = [held.svid.issued_at for store in stores if (held := store.load()) is not None]
    age = (datetime.now(UTC) - min(issued)).total_seconds()
    await asyncio.sleep(max(0.0, 0.42 * lifetime_s - age))


@pytest.mark.soak
@pytest.mark.timeout(240)
async def test_postgresql_gone_is_typed_quick_loses_nothing_and_heals(tmp_path: Path, soaking: bool) -> None:
    """Twice: its processes end, and start again; they hang, and go on."""
    gone_s, lifetime_s = (20.0, 90) if soaking else (6.0, 24)
    with postgresql_process() as server:
        toml, urls = on_postgresql(server, svid_lifetime_s=lifetime_s)
        async with fleet(tmp_path, toml) as mesh:
            gateway = await mesh.member("gateway")
            pids = {name: mesh.pid(name) for name in mesh.names}
            async with customers(gateway.channel) as load:
                await until_nearly_due(mesh, lifetime_s)
                await gone(mesh, load, gone_s, server.stop, server.start)
                renewals = [line for line in mesh.output if "renewal failed" in line]
                assert renewals
                assert all("store does not answer" in line for line in renewals), renewals
                await asyncio.sleep(1)
                await gone(mesh, load, gone_s / 2, server.freeze, server.thaw)
            await load.finish()
            assert {name: mesh.pid(name) for name in mesh.names} == pids, "nobody was started again"
        books = Books.read(catalog=urls["catalog"], orders_url=urls["orders"], payments_url=urls["payments"])
        assert books.wrongs(stocked=load.stocked, acknowledged=load.acknowledged) == []


async def gone(
    mesh: Fleet, load: Customers, seconds: float, take: Callable[[], None], give_back: Callable[[], None]
) -> None:
    """Take the server away for that long: what callers, operators and logs are told, and when all is well."""
    said_before, began = len(mesh.output), time.monotonic()
    await asyncio.to_thread(take)
    await asyncio.sleep(seconds / 2)
    await a_new_member_is_refused(mesh)
    serving = {row.name for row in await mesh.local.rows() if row.serves}
    assert serving == set(mesh.names), "what is announced needs no store"
    await asyncio.sleep(began + seconds - time.monotonic())
    back = time.monotonic()
    await asyncio.to_thread(give_back)
    well = await load.well(within=REPAIRED_S)
    typed = {("UNAVAILABLE", "STORE_UNAVAILABLE"), *UNSETTLED}
    assert [each for each in load.refused(began) if not reasons([each]) <= typed] == []
    refused = [each for each in load.refused(began) if each.reason == "STORE_UNAVAILABLE"]
    longest = max(each.took for each in refused)
    first = min(each.at + each.took for each in refused) - began
    print(
        f"{take.__name__}: refused after {first:.2f} s, {len(refused)} calls, in {longest:.2f} s at most; "
        f"well {well - back:.2f} s after {give_back.__name__}"
    )
    assert longest < QUICK_S
    said = mesh.output[said_before:]
    for name in ("orders-1", "catalog-1"):
        assert any(line.startswith(f"{name} | ") and "database does not answer" in line for line in said)
    assert len(said) < 40 + 3 * seconds, "no flood"


async def a_new_member_is_refused(mesh: Fleet) -> None:
    """Nobody can be invited while the store is away; whoever asks is told which part is."""
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.admin.Invite(admin_pb2.InviteRequest(name="late"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert hints.reason_of(caught.value) == "STORE_UNAVAILABLE"
    assert time.monotonic() - began < QUICK_S
