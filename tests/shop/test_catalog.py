"""The catalog over gRPC: its contract, as the gateway and the orders meet it."""

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.protos.shop.catalog.v1.catalog_pb2_grpc import CatalogStub
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.services.catalog import servicer
from tests.shop.said import fields, reason, refused
from tests.shop.stage import NewShop, Shop

if TYPE_CHECKING:
    from hauberk.protos.shop.catalog.v1.catalog_pb2_grpc import CatalogAsyncStub

WITHIN_S = 5


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    shop = new_shop()
    await shop.start()
    shop.sell("T-HELM", 5000, 10)
    return shop


@pytest.fixture
def as_orders(shop: Shop) -> "CatalogAsyncStub":
    return CatalogStub(shop.street.channel("orders"))


def new_product(sku: str = "T-BOOT", **changes: Any) -> catalog_pb2.ImportProductsRequest:
    price = changes.pop("price", money_pb2.Money(currency="EUR", minor_units=900))
    product = catalog_pb2.Product(**{"sku": sku, "name": "Boot", "price": price, "stock": 7, **changes})
    return catalog_pb2.ImportProductsRequest(product=product)


def reserve(reservation_id: str = "r1", /, **wanted: int) -> catalog_pb2.ReserveStockRequest:
    lines = [
        catalog_pb2.Line(sku=sku.replace("_", "-"), quantity=quantity) for sku, quantity in wanted.items()
    ]
    return catalog_pb2.ReserveStockRequest(reservation_id=reservation_id, lines=lines)


async def test_a_product_is_found_by_its_sku(shop: Shop) -> None:
    product = await shop.catalog.GetProduct(catalog_pb2.GetProductRequest(sku="T-HELM"), timeout=WITHIN_S)
    assert (product.price.minor_units, product.price.currency, product.stock) == (5000, "EUR", 10)
    assert product.HasField("updated_at")


async def test_an_unknown_product_is_not_found(shop: Shop) -> None:
    error = await refused(shop.catalog.GetProduct(catalog_pb2.GetProductRequest(sku="T-NONE")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "PRODUCT_UNKNOWN")


@pytest.mark.parametrize("sku", ["", "lower", "A B", "A" * 65, "NUL\0", "A\n", "ÄRMEL"])
async def test_an_sku_outside_the_grammar_is_refused(shop: Shop, sku: str) -> None:
    error = await refused(shop.catalog.GetProduct(catalog_pb2.GetProductRequest(sku=sku)))
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["sku"])


async def test_the_list_goes_over_many_pages_in_order(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "PAGE", 3)
    listed = [each.sku async for each in shop.catalog.ListProducts(catalog_pb2.ListProductsRequest())]
    assert "T-HELM" in listed
    assert listed == [each.sku for each in shop.stock.page(after="", limit=1000)]


async def test_an_import_adds_and_replaces(shop: Shop) -> None:
    requests = [new_product("T-BOOT"), new_product("T-HELM", stock=99)]
    done = await shop.catalog.ImportProducts(iter(requests), timeout=WITHIN_S)
    assert (done.added, done.replaced) == (1, 1)
    assert (shop.left("T-BOOT"), shop.left("T-HELM")) == (7, 99)


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (new_product("bad sku"), "product.sku"),
        (new_product(name=""), "product.name"),
        (new_product(name="two\nlines"), "product.name"),
        (new_product(price=money_pb2.Money(currency="eur", minor_units=1)), "product.price.currency"),
        (new_product(price=money_pb2.Money(currency="EUR")), "product.price"),
        (new_product(stock=-1), "product.stock"),
        (new_product("T-CAPE"), "requests[1].product.sku"),
    ],
)
async def test_an_import_with_one_bad_product_imports_none(
    shop: Shop, broken: catalog_pb2.ImportProductsRequest, field: str
) -> None:
    error = await refused(shop.catalog.ImportProducts(iter([new_product("T-CAPE"), broken])))
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert shop.stock.products(["T-CAPE"]) == []


async def test_an_import_that_breaks_off_imports_none(shop: Shop) -> None:
    call = shop.catalog.ImportProducts(timeout=WITHIN_S)
    await call.write(new_product("T-CAPE"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert shop.stock.products(["T-CAPE"]) == []


async def test_an_import_is_bounded(shop: Shop) -> None:
    requests = (new_product(f"P-{number}") for number in range(servicer.IMPORT_MOST + 1))
    error = await refused(shop.catalog.ImportProducts(requests))
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "IMPORT_TOO_LONG")
    assert shop.stock.products(["P-0"]) == []


async def test_reserved_goods_come_back_when_released(shop: Shop, as_orders: "CatalogAsyncStub") -> None:
    held = await as_orders.ReserveStock(reserve(T_HELM=3), timeout=WITHIN_S)
    assert (held.state, held.total.minor_units) == (catalog_pb2.Reservation.STATE_HELD, 15_000)
    assert shop.left("T-HELM") == 7
    release = catalog_pb2.ReleaseStockRequest(reservation_id="r1")
    released = await as_orders.ReleaseStock(release, timeout=WITHIN_S)
    assert released.state == catalog_pb2.Reservation.STATE_RELEASED
    assert shop.left("T-HELM") == 10


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ({"T_HELM": 11}, grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK"),
        ({"T_NONE": 1}, grpc.StatusCode.NOT_FOUND, "PRODUCT_UNKNOWN"),
        ({"T_HELM": 1, "T_YEN": 1}, grpc.StatusCode.FAILED_PRECONDITION, "CURRENCIES_MIXED"),
    ],
)
async def test_what_cannot_be_reserved_has_its_reason(
    shop: Shop, as_orders: "CatalogAsyncStub", wanted: dict[str, int], code: grpc.StatusCode, said: str
) -> None:
    shop.sell("T-YEN", 700, 10, currency="JPY")
    error = await refused(as_orders.ReserveStock(reserve(**wanted), timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (code, said)
    assert shop.left("T-HELM") == 10


async def test_other_goods_under_the_same_reservation_already_exist(
    shop: Shop, as_orders: "CatalogAsyncStub"
) -> None:
    await as_orders.ReserveStock(reserve(T_HELM=1), timeout=WITHIN_S)
    error = await refused(as_orders.ReserveStock(reserve(T_HELM=2), timeout=WITHIN_S))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (reserve(""), ["lines"]),
        (reserve("", T_HELM=1), ["reservation_id"]),
        (reserve("x" * 65, T_HELM=1), ["reservation_id"]),
        (reserve("nul\0", T_HELM=1), ["reservation_id"]),
        (reserve(T_HELM=0), ["lines[0].quantity"]),
        (reserve(T_HELM=-1), ["lines[0].quantity"]),
        (reserve(T_HELM=10_001), ["lines[0].quantity"]),
        (reserve(**{f"P_{n}": 1 for n in range(101)}), ["lines"]),
        (
            catalog_pb2.ReserveStockRequest(
                reservation_id="r1", lines=[catalog_pb2.Line(sku="A", quantity=1)] * 2
            ),
            ["lines"],
        ),
    ],
)
async def test_a_reservation_outside_the_contract_is_refused(
    shop: Shop,
    as_orders: "CatalogAsyncStub",
    request_: catalog_pb2.ReserveStockRequest,
    wrong: list[str],
) -> None:
    error = await refused(as_orders.ReserveStock(request_, timeout=WITHIN_S))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(wrong) <= set(fields(error))


async def test_only_orders_may_reserve(shop: Shop) -> None:
    error = await refused(shop.catalog.ReserveStock(reserve(T_HELM=1), timeout=WITHIN_S))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert shop.left("T-HELM") == 10


async def test_a_watch_shows_what_is_there_and_then_each_change(
    shop: Shop, as_orders: "CatalogAsyncStub"
) -> None:
    watch = shop.catalog.WatchProducts(catalog_pb2.WatchProductsRequest(skus=["T-HELM", "T-NONE"]))
    changes = aiter(watch)
    assert (await anext(changes)).stock == 10
    await as_orders.ReserveStock(reserve(T_HELM=4), timeout=WITHIN_S)
    assert (await anext(changes)).stock == 6
    await as_orders.ReserveStock(reserve("r2", ANVIL_5KG=1), timeout=WITHIN_S)
    await as_orders.ReleaseStock(catalog_pb2.ReleaseStockRequest(reservation_id="r1"), timeout=WITHIN_S)
    assert [(each.sku, each.stock) for each in [await anext(changes)]] == [("T-HELM", 10)]
    watch.cancel()


async def test_a_watch_of_everything_begins_with_everything(shop: Shop) -> None:
    watch = shop.catalog.WatchProducts(catalog_pb2.WatchProductsRequest())
    changes = aiter(watch)
    count = len(shop.stock.page(after="", limit=1000))
    seen = [(await anext(changes)).sku for _ in range(count)]
    assert seen == sorted(seen)
    assert "T-HELM" in seen
    watch.cancel()


async def test_a_watch_sees_what_another_process_wrote(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "POLL_S", 0.05)
    watch = shop.catalog.WatchProducts(catalog_pb2.WatchProductsRequest(skus=["T-HELM"]))
    changes = aiter(watch)
    await anext(changes)
    shop.sell("T-HELM", 5000, 3)  # past the servicer, as a twin replica would
    assert (await anext(changes)).stock == 3
    watch.cancel()


async def test_watches_end_when_the_process_leaves(shop: Shop) -> None:
    watch = shop.catalog.WatchProducts(catalog_pb2.WatchProductsRequest(skus=["T-HELM"]))
    changes = aiter(watch)
    await anext(changes)
    shop.leaving.set()
    error = await refused(anext(changes))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_a_watch_of_too_many_products_is_refused(shop: Shop) -> None:
    request = catalog_pb2.WatchProductsRequest(skus=[f"P-{n}" for n in range(1001)])
    error = await refused(anext(aiter(shop.catalog.WatchProducts(request))))
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["skus"])
