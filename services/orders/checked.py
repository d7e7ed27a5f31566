"""Requests to orders, read strictly: values that a store can take, or InvalidFields is raised."""

import re
from collections.abc import Iterable

from hauberk.protos.shop.orders.v1 import orders_pb2
from hauberk.services.fields import Fields
from hauberk.services.orders.store import Line, Placement

SKU = re.compile(r"[A-Z0-9-]{1,64}")
CUSTOMER = re.compile(r"[a-z0-9-]{1,64}")
LINES_MOST = 100
QUANTITY_MOST = 10_000


def placement(request: orders_pb2.PlaceOrderRequest) -> Placement:
    fields = Fields()
    fields.text("idempotency_key", request.idempotency_key, longest=64)
    fields.matching("customer", request.customer, CUSTOMER, "must be 1 to 64 of a-z, 0-9 and -")
    if not 1 <= len(request.lines) <= LINES_MOST:
        fields.wrong("lines", f"must be 1 to {LINES_MOST}")
        fields.settle()
    lines = tuple(sorted(_lines(fields, request.lines)))
    fields.settle()
    return Placement(idempotency_key=request.idempotency_key, customer=request.customer, lines=lines)


def order_id(request: orders_pb2.GetOrderRequest | orders_pb2.WatchOrderRequest) -> str:
    fields = Fields()
    fields.text("order_id", request.order_id, longest=64)
    fields.settle()
    return request.order_id


def _lines(fields: Fields, given: Iterable[orders_pb2.OrderLine]) -> Iterable[Line]:
    seen = set()
    for index, line in enumerate(given):
        fields.matching(f"lines[{index}].sku", line.sku, SKU, "must be 1 to 64 of A-Z, 0-9 and -")
        fields.number(f"lines[{index}].quantity", line.quantity, least=1, most=QUANTITY_MOST)
        if line.sku in seen:
            fields.wrong(f"lines[{index}].sku", "must be in one line only")
        seen.add(line.sku)
        yield Line(line.sku, line.quantity)
