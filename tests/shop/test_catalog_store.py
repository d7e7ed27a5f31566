"""What the catalog's books promise, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from hauberk.services.catalog.errors import (
    CurrenciesMixed,
    OutOfStock,
    ProductUnknown,
    ReservationDiffers,
    ReservationReleased,
    TotalTooLarge,
)
from hauberk.services.catalog.store import CatalogStore, Line, Product, State, metadata
from hauberk.services.money import LARGEST, Money
from tests.shop.stage import OpenEngine

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


@pytest.fixture
def engine(engine_of: OpenEngine) -> Engine:
    return engine_of("catalog")


@pytest.fixture
def store(engine: Engine) -> CatalogStore:
    store = CatalogStore(engine)
    store.import_products([product("T-HELM", 5000, stock=10), product("T-GLOVE", 1250, stock=4)])
    return store


def product(sku: str, price: int, *, stock: int, currency: str = "EUR") -> Product:
    return Product(
        sku=sku,
        name=sku.title(),
        price=Money(currency=currency, minor_units=price),
        stock=stock,
        updated_at=NOW,
    )


def stock(store: CatalogStore, sku: str) -> int:
    return store.product(sku).stock


def test_the_migrations_make_the_tables_the_store_uses(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "catalog_alembic_version"})
        assert compare_metadata(context, metadata) == []


def test_a_new_shop_has_something_to_sell(engine: Engine) -> None:
    assortment = CatalogStore(engine).page(after="", limit=100)
    assert len(assortment) >= 5
    assert all(each.stock >= 100_000 and each.price.currency == "EUR" for each in assortment)


def test_a_product_comes_back_as_it_was_imported(store: CatalogStore) -> None:
    assert store.product("T-HELM") == product("T-HELM", 5000, stock=10)


def test_an_unknown_product_is_refused_by_name(store: CatalogStore) -> None:
    with pytest.raises(ProductUnknown, match="NO-SUCH"):
        store.product("NO-SUCH")


def test_pages_hold_every_product_once_in_order(store: CatalogStore) -> None:
    store.import_products([product(f"P-{n:03}", 100, stock=1) for n in range(25)])
    paged: list[Product] = []
    while page := store.page(after=paged[-1].sku if paged else "", limit=7):
        paged += page
    assert [each.sku for each in paged] == sorted({each.sku for each in paged})
    assert paged == store.page(after="", limit=1000)


def test_an_import_tells_what_it_added_and_what_it_replaced(store: CatalogStore) -> None:
    assert store.import_products([product("T-HELM", 5500, stock=3), product("T-BOOT", 900, stock=1)]) == (
        1,
        1,
    )
    assert store.product("T-HELM") == product("T-HELM", 5500, stock=3)


def test_reserved_goods_leave_the_stock_and_cost_what_they_are_priced(store: CatalogStore) -> None:
    held = store.reserve("r1", [Line("T-HELM", 2), Line("T-GLOVE", 3)], now=LATER)
    assert (held.state, held.total) == (State.HELD, Money(currency="EUR", minor_units=13_750))
    assert (stock(store, "T-HELM"), stock(store, "T-GLOVE")) == (8, 1)
    assert store.product("T-HELM").updated_at == LATER


def test_a_repeated_reservation_is_the_same_and_takes_nothing_more(store: CatalogStore) -> None:
    first = store.reserve("r1", [Line("T-HELM", 2), Line("T-GLOVE", 1)], now=NOW)
    store.import_products([product("T-HELM", 9999, stock=8)])
    assert store.reserve("r1", [Line("T-GLOVE", 1), Line("T-HELM", 2)], now=LATER) == first
    assert stock(store, "T-HELM") == 8


def test_a_reservation_of_other_goods_under_the_same_id_is_refused(store: CatalogStore) -> None:
    store.reserve("r1", [Line("T-HELM", 2)], now=NOW)
    with pytest.raises(ReservationDiffers):
        store.reserve("r1", [Line("T-HELM", 3)], now=NOW)
    assert stock(store, "T-HELM") == 8


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        ([Line("T-GLOVE", 1), Line("T-HELM", 11)], OutOfStock),
        ([Line("T-GLOVE", 1), Line("T-NONE", 1)], ProductUnknown),
        ([Line("T-GLOVE", 1), Line("T-YEN", 1)], CurrenciesMixed),
        ([Line("T-GLOVE", 1), Line("T-GOLD", 3)], TotalTooLarge),
    ],
)
def test_what_cannot_be_held_whole_takes_nothing_and_may_be_asked_again(
    store: CatalogStore, lines: list[Line], refusal: type[Exception]
) -> None:
    gold = product("T-GOLD", LARGEST // 2, stock=9)
    store.import_products([product("T-YEN", 700, stock=9, currency="JPY"), gold])
    with pytest.raises(refusal):
        store.reserve("r1", lines, now=NOW)
    assert stock(store, "T-GLOVE") == 4
    assert store.reserve("r1", [Line("T-GLOVE", 1)], now=NOW).state is State.HELD


def test_released_goods_are_back_once(store: CatalogStore) -> None:
    held = store.reserve("r1", [Line("T-HELM", 2), Line("T-GLOVE", 3)], now=NOW)
    released = store.release("r1", now=LATER)
    assert (released.state, released.lines, released.total) == (State.RELEASED, held.lines, held.total)
    assert store.release("r1", now=LATER) == released
    assert (stock(store, "T-HELM"), stock(store, "T-GLOVE")) == (10, 4)


def test_a_released_reservation_cannot_be_made_again(store: CatalogStore) -> None:
    store.reserve("r1", [Line("T-HELM", 2)], now=NOW)
    store.release("r1", now=NOW)
    with pytest.raises(ReservationReleased):
        store.reserve("r1", [Line("T-HELM", 2)], now=NOW)
    assert stock(store, "T-HELM") == 10


def test_a_release_that_comes_first_bars_the_reservation(store: CatalogStore) -> None:
    released = store.release("r1", now=NOW)
    assert (released.state, released.lines, released.total) == (State.RELEASED, (), None)
    with pytest.raises(ReservationReleased):
        store.reserve("r1", [Line("T-HELM", 2)], now=NOW)
    assert stock(store, "T-HELM") == 10


def test_of_a_crowd_only_as_many_get_goods_as_there_are(store: CatalogStore) -> None:
    def attempt(number: int) -> bool:
        lines = [Line("T-HELM", 1), Line("ANVIL-5KG", 1)]
        try:
            store.reserve(f"r{number}", lines if number % 2 else lines[::-1], now=NOW)
        except OutOfStock:
            return False
        return True

    anvils = stock(store, "ANVIL-5KG")
    with ThreadPoolExecutor(8) as crowd:
        got = sum(crowd.map(attempt, range(40)))
    assert got == 10
    assert stock(store, "T-HELM") == 0
    assert anvils - stock(store, "ANVIL-5KG") == 10


def test_repeats_at_the_same_time_take_the_goods_once(store: CatalogStore) -> None:
    with ThreadPoolExecutor(8) as crowd:
        held = list(crowd.map(lambda _: store.reserve("r1", [Line("T-HELM", 3)], now=NOW), range(16)))
    assert held == [held[0]] * 16
    assert stock(store, "T-HELM") == 7


def test_reserving_and_releasing_at_the_same_time_leaves_the_stock_whole(store: CatalogStore) -> None:
    def back_and_forth(number: int) -> None:
        for repeat in range(5):
            store.reserve(f"r{number}-{repeat}", [Line("T-GLOVE", 1)], now=NOW)
            store.release(f"r{number}-{repeat}", now=NOW)

    with ThreadPoolExecutor(4) as crowd:
        list(crowd.map(back_and_forth, range(4)))
    assert stock(store, "T-GLOVE") == 4
