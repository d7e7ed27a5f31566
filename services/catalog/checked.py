"""Requests to the catalog, read strictly: values that a store can take, or InvalidFields is raised."""

import re
from collections.abc import Iterable
from datetime import datetime

from hauberk.protos.shop.catalog.v1 import catalog_pb2
from hauberk.services.catalog.store import Line, Product
from hauberk.services.fields import Fields
from hauberk.services.money import CURRENCY, Money

SKU = re.compile(r"[A-Z0-9-]{1,64}")
SKU_RULE = "must be 1 to 64 of A-Z, 0-9 and -"
LINES_MOST = 100
QUANTITY_MOST = 10_000
# 100 lines of 10,000 at this price are 10^18 minor units, which 64 bits hold.
PRICE_MOST = 10**12
STOCK_MOST = 10**12
WATCHED_MOST = 1000


def sku_of(request: catalog_pb2.GetProductRequest) -> str:
    fields = Fields()
    sku = fields.matching("sku", request.sku, SKU, SKU_RULE)
    fields.settle()
    return sku


def watched(request: catalog_pb2.WatchProductsRequest) -> frozenset[str]:
    """Empty: all."""
    fields = Fields()
    if len(request.skus) > WATCHED_MOST:
        fields.wrong("skus", f"must be at most {WATCHED_MOST}; none watches all")
        fields.settle()
    for index, sku in enumerate(request.skus):
        fields.matching(f"skus[{index}]", sku, SKU, SKU_RULE)
    fields.settle()
    return frozenset(request.skus)


def product(request: catalog_pb2.ImportProductsRequest, *, index: int, now: datetime) -> Product:
    """The product of the stream's message number `index`, from 0."""
    fields = Fields()
    given = request.product
    at = f"requests[{index}].product"
    fields.matching(f"{at}.sku", given.sku, SKU, SKU_RULE)
    fields.text(f"{at}.name", given.name, longest=200)
    fields.matching(f"{at}.price.currency", given.price.currency, CURRENCY, "must be three capitals")
    fields.number(f"{at}.price.minor_units", given.price.minor_units, least=1, most=PRICE_MOST)
    fields.number(f"{at}.stock", given.stock, least=0, most=STOCK_MOST)
    fields.settle()
    return Product(
        sku=given.sku,
        name=given.name,
        price=Money(currency=given.price.currency, minor_units=given.price.minor_units),
        stock=given.stock,
        updated_at=now,
    )


def once_each(products: Iterable[Product]) -> None:
    """Raises InvalidFields if a stream brings one product twice: which of the two would hold?"""
    fields = Fields()
    seen = set()
    for index, each in enumerate(products):
        if each.sku in seen:
            fields.wrong(f"requests[{index}].product.sku", "must be in one message only")
        seen.add(each.sku)
    fields.settle()


def reservation_id(request: catalog_pb2.ReleaseStockRequest) -> str:
    fields = Fields()
    fields.text("reservation_id", request.reservation_id, longest=64)
    fields.settle()
    return request.reservation_id


def reservation(request: catalog_pb2.ReserveStockRequest) -> tuple[str, tuple[Line, ...]]:
    fields = Fields()
    fields.text("reservation_id", request.reservation_id, longest=64)
    if not 1 <= len(request.lines) <= LINES_MOST:
        fields.wrong("lines", f"must be 1 to {LINES_MOST}")
        fields.settle()
    lines = tuple(_lines(fields, request.lines))
    fields.settle()
    return request.reservation_id, lines


def _lines(fields: Fields, given: Iterable[catalog_pb2.Line]) -> Iterable[Line]:
    seen = set()
    for index, line in enumerate(given):
        fields.matching(f"lines[{index}].sku", line.sku, SKU, SKU_RULE)
        fields.number(f"lines[{index}].quantity", line.quantity, least=1, most=QUANTITY_MOST)
        if line.sku in seen:
            fields.wrong(f"lines[{index}].sku", "must be in one line only")
        seen.add(line.sku)
        yield Line(line.sku, line.quantity)
