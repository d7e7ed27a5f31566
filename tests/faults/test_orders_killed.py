"""The shop loses nothing: SIGKILL at every step of the saga, and the sums of money and stock stay exact.

Two replicas each of orders, catalog and payments, under customers of whom some ask again and some walk away.
Every replica is killed at its points one after the other (doomed.py), whatever the others are at; then
recovery alone brings every order to its end.
"""

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hauberk.services.catalog.store import CatalogStore, Product
from hauberk.services.database import open_database, upgrade
from hauberk.services.money import Money
from hauberk.services.orders.lease import LEASE
from tests.faults.buyers import RARE, SKUS, Buyers
from tests.faults.doomed import POINTS
from tests.mesh.books import Books
from tests.mesh.fleet import Fleet, eventually, fleet
from tests.postgresql import new_database

DOOMED = (sys.executable, str(Path(__file__).with_name("doomed.py")))
SERVICES = ("catalog", "payments", "orders")
CONTRACTS = {"catalog": "Catalog", "payments": "Payments", "orders": "Orders"}
REPLICAS = (1, 2)
DIES_S = 60.0
SETTLED_S = 30.0
RECOVERED_S = LEASE.total_seconds() + 5.0
"""From a kill until the twin has settled all: the lease, a look (1.5 s at most), the work itself."""
RATE = 8.0
RARE_STOCK = 5


@dataclass(frozen=True, slots=True)
class Death:
    """One SIGKILL: of which process, where, at which order ("unknown" before it had one), when."""

    process: str
    point: str
    order: str
    at: float


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The databases on PostgreSQL by service; none on SQLite, where `up` names them."""
    if request.param == "sqlite":
        return {}
    server = request.getfixturevalue("postgresql_server")
    return {service: new_database(server) for service in SERVICES}


@pytest.mark.soak
@pytest.mark.timeout(280)
async def test_no_order_is_lost_doubled_or_half_done(
    tmp_path: Path, urls: Mapping[str, str], soaking: bool
) -> None:
    async with fleet(tmp_path, shop_of_two(urls), start=[]) as mesh:
        stocked = stock(urls or {name: mesh.state.database_url(name) for name in SERVICES})
        caller = await mesh.member("gateway")
        customers = Buyers(caller.channel)
        plan = plan_of(soaking, on_postgresql=bool(urls))
        wanted = 200 if soaking else 40
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            dying = [group.create_task(die_at(mesh, name, points)) for name, points in plan.items()]
            await mesh.serving()  # nobody dies while nobody asks for anything
            await customers.come_while(
                lambda: len(customers.ids) < wanted or not all(task.done() for task in dying), rate=RATE
            )
        took = time.monotonic() - began
        await mesh.serving()
        await all_settled(mesh, urls)
        found = books(mesh, urls)
        exact(found, customers, stocked)
        deaths = deaths_of(mesh)
        assert {(each.process, each.point) for each in deaths} == {
            (name, point) for name, points in plan.items() for point in points
        }
        await same_for_all_who_ask_again(customers, found)
        exact(books(mesh, urls), customers, stocked)
        report(customers, found, deaths, took)
        assert len(found.orders) >= wanted
        if soaking or not urls:
            await a_twin_alone_recovers(mesh, urls, customers, stocked)
        if soaking:
            await who_was_frozen_wakes_too_late(mesh, urls, customers, stocked)


def plan_of(soaking: bool, on_postgresql: bool) -> Mapping[str, Sequence[str]]:
    """The points of each process: all of its service; in the short version every fourth.

    Then the two replicas on the two engines have each point once between them.
    """
    plan = {}
    for service in SERVICES:
        points = list(POINTS[service])
        for replica in REPLICAS:
            first = replica - 1 + len(REPLICAS) * on_postgresql
            plan[f"{service}-{replica}"] = points if soaking else points[first :: 2 * len(REPLICAS)]
    return plan


async def die_at(mesh: Fleet, name: str, points: Sequence[str]) -> None:
    """Start the process once for each point, where it kills itself, and once more to live."""
    for point in points:
        mesh.before[name] = [*DOOMED, "KILL", point]
        await mesh.start(name)
        code = await mesh.ended(name, within=DIES_S)
        assert code == -signal.SIGKILL, f"{name} ended with {code}, and not at {point}"
    del mesh.before[name]
    await mesh.start(name)


async def a_twin_alone_recovers(
    mesh: Fleet, urls: Mapping[str, str], customers: Buyers, stocked: Mapping[str, int]
) -> None:
    """From a kill in the middle of several orders until none is unsettled; nobody is restarted."""
    assert await mesh.stop("orders-1") == 0
    mesh.before["orders-1"] = [*DOOMED, "KILL", "money-captured"]
    await mesh.start("orders-1")
    dying = asyncio.ensure_future(mesh.ended("orders-1", within=DIES_S))
    before = len(customers.purchases)
    await customers.come_while(lambda: not dying.done(), rate=4 * RATE)
    killed = deaths_of(mesh)[-1].at
    await all_settled(mesh, urls)
    found = books(mesh, urls)
    exact(found, customers, stocked)
    took = max(order.updated_at.timestamp() for order in found.orders.values()) - killed
    print(
        f"killed in the middle of {len(customers.purchases) - before} orders; all settled after {took:.2f} s"
    )
    assert took < RECOVERED_S


async def who_was_frozen_wakes_too_late(
    mesh: Fleet, urls: Mapping[str, str], customers: Buyers, stocked: Mapping[str, int]
) -> None:
    """A replica that stands still between a step and its record finds its orders settled by its twin."""
    mesh.before["orders-1"] = [*DOOMED, "STOP", "goods-reserved"]
    known = len(deaths_of(mesh))
    await mesh.start("orders-1")
    await customers.come_while(lambda: len(deaths_of(mesh)) == known, rate=4 * RATE)
    await all_settled(mesh, urls)
    mesh.thaw("orders-1")
    await eventually(lambda: bool(mesh.said("orders-1", "claimed by another")), within=SETTLED_S)
    await all_settled(mesh, urls)
    exact(books(mesh, urls), customers, stocked)


def exact(found: Books, customers: Buyers, stocked: Mapping[str, int]) -> None:
    """Nothing lost, nothing doubled, nothing half done; and nobody was told anything else."""
    assert found.wrongs(stocked=stocked, acknowledged=list(customers.placed.values())) == []
    assert {key: ids for key, ids in customers.ids.items() if len(ids) > 1} == {}
    assert {key for key, order in customers.failed.items() if found.orders[order].stage != "failed"} == set()
    reasons = {order.failure_reason for order in found.orders.values()}
    assert reasons <= {None, "GAVE_UP", "OUT_OF_STOCK", "PAYMENT_DECLINED"}


async def same_for_all_who_ask_again(customers: Buyers, found: Books) -> None:
    """Every key that has an order gets just that order, told as it is recorded."""
    recorded = {order.idempotency_key: order for order in found.orders.values()}
    again = [purchase for purchase in customers.purchases if purchase.key in recorded]
    customers.placed.clear()
    customers.failed.clear()
    for purchase in again:
        await customers.buy(purchase, tries=1)
    told = {key: ("placed", order) for key, order in customers.placed.items()}
    told |= {key: ("failed", order) for key, order in customers.failed.items()}
    assert told == {key: (order.stage, order.order_id) for key, order in recorded.items()}


async def all_settled(mesh: Fleet, urls: Mapping[str, str]) -> None:
    await eventually(lambda: not books(mesh, urls).unsettled, within=SETTLED_S, pause=0.2)


def deaths_of(mesh: Fleet) -> list[Death]:
    said = [line.split(" | doomed: ") for line in mesh.output if " | doomed: " in line]
    deaths = []
    for process, words in said:
        point, order, at = words.split()
        deaths.append(Death(process, point, order, float(at)))
    return deaths


def report(customers: Buyers, found: Books, deaths: Sequence[Death], took: float) -> None:
    """In words, for whoever runs this with -s."""
    after = sorted(
        found.orders[each.order].updated_at.timestamp() - each.at
        for each in deaths
        if each.order in found.orders and found.orders[each.order].updated_at.timestamp() > each.at
    )
    stages = [order.stage for order in found.orders.values()]
    last = max(order.updated_at.timestamp() for order in found.orders.values()) - deaths[-1].at
    assert min(stages.count("placed"), stages.count("failed")) >= 10, "both ends have to be seen"
    print(
        f"\n{len(customers.purchases)} customers, {len(stages)} orders ({stages.count('placed')} placed, "
        f"{stages.count('failed')} failed), {customers.unsettled} answers in the dark, "
        f"{len(deaths)} kills in {took:.1f} s; the order at which a process was killed was settled after "
        f"{statistics.median(after):.2f} s (median), {after[-1]:.2f} s (longest of {len(after)}); "
        f"all were {last:.2f} s after the last kill"
    )


def books(mesh: Fleet, urls: Mapping[str, str]) -> Books:
    if not urls:
        return Books.of(mesh.state)
    return Books.read(catalog=urls["catalog"], orders_url=urls["orders"], payments_url=urls["payments"])


def stock(urls: Mapping[str, str]) -> Mapping[str, int]:
    """Bring the rare product to the new shop; what there is of each that is sold."""
    engine = open_database(urls["catalog"])
    upgrade(engine, "hauberk.services.catalog")
    store = CatalogStore(engine)
    price = Money(currency="EUR", minor_units=7)
    rare = Product(sku=RARE, name="Rare", price=price, stock=RARE_STOCK, updated_at=datetime.now(UTC))
    store.import_products([rare])
    stocked = {product.sku: product.stock for product in store.products([*SKUS, RARE])}
    engine.dispose()
    return stocked


def shop_of_two(urls: Mapping[str, str]) -> str:
    """A mesh.toml of the shop, two replicas each."""
    text = 'trust_domain = "shop.test"\n'
    for service in SERVICES:
        text += (
            f"[workloads.{service}]\n"
            f'command = ["python", "-m", "hauberk.services.{service}.main"]\n'
            f'serves = ["shop.{service}.v1.{CONTRACTS[service]}"]\n'
            f"replicas = {len(REPLICAS)}\n"
        )
        if service in urls:
            text += f'env = {{ DATABASE_URL = "{urls[service]}" }}\n'
    return text
