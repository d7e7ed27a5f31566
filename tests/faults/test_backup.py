"""A backup taken under load brings the whole mesh back: roots, identities, every order acknowledged."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

import hauberk
from hauberk.cli.state import State
from hauberk.errors import MeshError
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2_grpc
from hauberk.services.shopper.opening import CALL_S, until_open
from hauberk.services.shopper.purchase import Purchase, place
from hauberk.settings import Settings
from tests.mesh import running
from tests.mesh.books import Books
from tests.postgresql import emptied, new_database, programs

STOCK = 1_000_000
SKU = "SAVED"
WORKERS = 4
SHOPS = ("catalog", "orders", "payments")
SETTLED_S = 60.0
"""An order that was being placed is claimed for 15 s by a process that is no more."""


@dataclass
class Trade:
    """Customers who order all the time, and what they were told when."""

    orders: "orders_pb2_grpc.OrdersAsyncStub"
    acknowledged: dict[str, float] = field(default_factory=dict)
    """By order: when its placement was told (monotonic)."""
    slowest_s: float = 0.0

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            customers = [group.create_task(self._keep_ordering()) for _ in range(WORKERS)]
            yield
            for customer in customers:
                customer.cancel()

    def acknowledged_before(self, instant: float) -> list[str]:
        return [order for order, told in self.acknowledged.items() if told < instant]

    async def _keep_ordering(self) -> None:
        while True:
            wanted = Purchase(key=secrets.token_hex(16), customer="saver", basket={SKU: 1})
            began = time.monotonic()
            with contextlib.suppress(grpc.aio.AioRpcError):
                outcome = await place(self.orders, wanted)
                if outcome.order is not None:
                    self.acknowledged[outcome.order_id] = time.monotonic()
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(0)


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_mesh_on_sqlite_comes_back_from_a_backup_taken_under_load(
    tmp_path: Path, soaking: bool
) -> None:
    (tmp_path / "mesh.toml").write_text(running.shop())
    await _lost_and_restored(tmp_path, soaking, lambda: Books.of(_state(tmp_path)), lose=lambda: None)


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_shops_on_postgresql_come_back_from_a_backup_taken_under_load(
    tmp_path: Path, soaking: bool, postgresql_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control plane's store stays SQLite: the one instant spans both kinds."""
    if not soaking:
        pytest.skip(
            "half a minute more of the same: make soak; tests/cli/test_backup_postgresql.py has the rest"
        )
    monkeypatch.setenv("PATH", f"{programs()}{os.pathsep}{os.environ['PATH']}")
    urls = {name: new_database(postgresql_server) for name in SHOPS}
    text = running.shop()
    for name, url in urls.items():
        text = text.replace(
            f"[workloads.{name}]\n", f'[workloads.{name}]\nenv = {{ DATABASE_URL = "{url}" }}\n'
        )
    (tmp_path / "mesh.toml").write_text(text)

    def books() -> Books:
        return Books.read(catalog=urls["catalog"], orders_url=urls["orders"], payments_url=urls["payments"])

    def lose() -> None:
        for url in urls.values():
            emptied(url)

    await _lost_and_restored(tmp_path, soaking, books, lose)


async def _lost_and_restored(
    folder: Path, soaking: bool, books: Callable[[], Books], lose: Callable[[], None]
) -> None:
    seconds = 6.0 if soaking else 2.0
    saved = folder.parent / f"{folder.name}.hauberk"
    async with _up(folder):
        assert running.hauberk(folder, "revoke", "former").returncode == 0
        unspent = running.hauberk(folder, "invite", "gateway").stdout
        async with _gateway(
            folder, unspent_token=running.hauberk(folder, "invite", "gateway").stdout
        ) as mesh:
            trade = await _opened(mesh)
            async with trade.going_on():
                await asyncio.sleep(seconds)
                before = _facts(folder)
                asked_at = time.monotonic()
                told = await asyncio.to_thread(
                    running.hauberk, folder, "backup", str(saved), "--plain-keys", "--json"
                )
                assert told.returncode == 0, told.stderr
                report = json.loads(told.stdout)
                await asyncio.sleep(seconds / 2)
    had = trade.acknowledged_before(asked_at)
    assert len(had) > 10
    assert len(trade.acknowledged) > len(had), "it was under load"

    shutil.rmtree(folder / ".hauberk")
    lose()
    restored = running.hauberk(folder, "restore", str(saved))
    assert restored.returncode == 0, restored.stderr
    # One instant: what is placed is paid and held, nothing is without its order, and nobody has repaired it.
    wrongs = books().wrongs(stocked={SKU: STOCK}, acknowledged=had)
    assert [wrong for wrong in wrongs if not wrong.endswith("is not settled")] == []

    async with _up(folder):
        assert _facts(folder) == before
        refused = running.hauberk(folder, "invite", "former")
        assert "revoked" in refused.stderr
        assert refused.returncode == 1
        await _refused(folder, unspent)
        async with _gateway(folder) as mesh:  # by the certificate that it had before
            await _settled(mesh, books)
            again = await _opened(mesh, stock=False)
            assert (await _placed(again)).order is not None
        assert books().wrongs(stocked={SKU: STOCK}, acknowledged=had) == []
    print(
        f"{len(had)} orders acknowledged before the backup, {len(books().orders)} restored or placed since; "
        f"writers held up {report['writers_held_ms']} ms, slowest order {1000 * trade.slowest_s:.0f} ms"
    )


@contextlib.asynccontextmanager
async def _up(folder: Path) -> AsyncIterator[None]:
    """`hauberk up`, while calls of ours go on."""
    mesh = running.running(folder)
    await asyncio.to_thread(mesh.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(mesh.__exit__, None, None, None)


@contextlib.asynccontextmanager
async def _gateway(folder: Path, unspent_token: str | None = None) -> AsyncIterator[hauberk.Mesh]:
    """A process of another machine, which keeps its state elsewhere and knows the ports it was told once."""
    elsewhere = folder.parent / f"{folder.name}-elsewhere"
    elsewhere.mkdir(mode=0o700, exist_ok=True)
    token = elsewhere / "token"
    if unspent_token is not None:
        addresses = json.loads((folder / ".hauberk" / "control" / "addresses.json").read_text())
        (elsewhere / "enrolment").write_text(addresses["enrolment"])
        shutil.copy(folder / ".hauberk" / "ca" / "roots.pem", elsewhere)
        token.write_text(unspent_token)
        token.chmod(0o600)
    settings = Settings(
        name="gateway",
        state_dir=elsewhere / "state",
        enrolment=(elsewhere / "enrolment").read_text(),
        roots=elsewhere / "roots.pem",
        join_token_file=token if unspent_token is not None else None,
    )
    async with hauberk.join(settings) as mesh:
        yield mesh


async def _refused(folder: Path, token: str) -> None:
    """A token that had not been used when the backup was taken admits nobody."""
    elsewhere = folder.parent / f"{folder.name}-late"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "token").write_text(token)
    (elsewhere / "token").chmod(0o600)
    addresses = json.loads((folder / ".hauberk" / "control" / "addresses.json").read_text())
    settings = Settings(
        name="gateway",
        state_dir=elsewhere / "state",
        enrolment=addresses["enrolment"],
        roots=folder / ".hauberk" / "ca" / "roots.pem",
        join_token_file=elsewhere / "token",
    )
    with pytest.raises(MeshError, match="not minted here"):
        async with hauberk.join(settings):
            pass


async def _opened(mesh: hauberk.Mesh, *, stock: bool = True) -> Trade:
    """The shop, with goods of ours in it once it is open."""
    catalog = catalog_pb2_grpc.CatalogStub(mesh.channel)
    price = money_pb2.Money(currency="EUR", minor_units=250)
    own = catalog_pb2.Product(sku=SKU, name="Saved goods", price=price, stock=STOCK)

    async def bring() -> Any:
        if stock:
            request = catalog_pb2.ImportProductsRequest(product=own)
            return await catalog.ImportProducts(iter([request]), timeout=CALL_S)
        return await catalog.GetProduct(catalog_pb2.GetProductRequest(sku=SKU), timeout=CALL_S)

    await until_open(bring)
    return Trade(orders_pb2_grpc.OrdersStub(mesh.channel))


async def _placed(trade: Trade) -> Any:
    wanted = Purchase(key=secrets.token_hex(16), customer="saver", basket={SKU: 1})
    return await until_open(lambda: place(trade.orders, wanted))


async def _settled(mesh: hauberk.Mesh, books: Callable[[], Books]) -> None:
    """Ask for every unfinished order again, until there is none."""
    orders = orders_pb2_grpc.OrdersStub(mesh.channel)
    async with asyncio.timeout(SETTLED_S):
        while unsettled := (found := books()).unsettled:
            for order_id in unsettled:
                order = found.orders[order_id]
                again = Purchase(
                    key=order.idempotency_key, customer=order.customer, basket=found.order_lines[order_id]
                )
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await place(orders, again)
            await asyncio.sleep(0.2)


def _facts(folder: Path) -> dict[str, Any]:
    """What makes it this mesh: roots, who serves what, who is refused, and who is there under which name."""
    shown = running.hauberk(folder, "ca", "show", "--json")
    assert shown.returncode == 0, shown.stderr
    with contextlib.closing(sqlite3.connect(_state(folder).control_database)) as store:
        bindings = store.execute("SELECT contract, spiffe_id FROM bindings ORDER BY 1").fetchall()
        revocations = store.execute("SELECT spiffe_id FROM revocations ORDER BY 1").fetchall()
        mesh_id = store.execute("SELECT mesh_id FROM mesh").fetchall()
    return {
        "roots": [root["fingerprint"] for root in json.loads(shown.stdout)["roots"]],
        "identities": sorted(row["spiffe_id"] for row in running.replicas(folder)),
        "bindings": bindings,
        "revocations": revocations,
        "mesh_id": mesh_id,
    }


def _state(folder: Path) -> State:
    return State.beside(folder / "mesh.toml")
