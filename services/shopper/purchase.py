"""One order, placed and judged: what was asked for, what came back, and what it should have cost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from hauberk.interceptors.tracing import TRACEPARENT, TraceContext
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.services.refusal import reason_of
from hauberk.services.shopper.errors import ShopAmiss

ORDER_S = 2.0
"""The deadline of one order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """What a customer wants: quantities by SKU, under one idempotency key."""

    key: str
    customer: str
    basket: Mapping[str, int]

    def request(self) -> orders_pb2.PlaceOrderRequest:
        lines = [orders_pb2.OrderLine(sku=sku, quantity=wanted) for sku, wanted in self.basket.items()]
        return orders_pb2.PlaceOrderRequest(idempotency_key=self.key, customer=self.customer, lines=lines)

    def cost(self, prices: Mapping[str, money_pb2.Money]) -> int:
        """Minor units; the shop prices all it sells us in one currency."""
        return sum(prices[sku].minor_units * wanted for sku, wanted in self.basket.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an order ended: placed (`order`), or refused for `reason`."""

    purchase: Purchase
    trace_id: str
    ms: float
    order_id: str
    order: orders_pb2.Order | None = None
    reason: str = ""

    def __str__(self) -> str:
        basket = ", ".join(f"{wanted} x {sku}" for sku, wanted in self.purchase.basket.items())
        if self.order is None:
            told = f"refused   {self.reason}"
        else:
            told = f"placed    {euros(self.order.total.minor_units)}"
        return f"{told}  {self.purchase.customer}: {basket}  {self.ms:.1f} ms  order {self.order_id}"


def euros(cents: int) -> str:
    """For people: 1299 is 12.99 EUR."""
    return f"{cents // 100}.{cents % 100:02} EUR"


async def place(orders: "orders_pb2_grpc.OrdersAsyncStub", purchase: Purchase) -> Outcome:
    """Place the order in a trace of its own. Raises AioRpcError unless it is placed or refused for good."""
    trace = TraceContext.new()
    metadata = ((TRACEPARENT, trace.header()),)
    began = time.perf_counter()
    try:
        order = await orders.PlaceOrder(purchase.request(), timeout=ORDER_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        reason, facts = reason_of(error)
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION or "order_id" not in facts:
            raise
        return Outcome(
            purchase=purchase,
            trace_id=trace.trace_id,
            ms=1000 * (time.perf_counter() - began),
            order_id=facts["order_id"],
            reason=reason,
        )
    return Outcome(
        purchase=purchase,
        trace_id=trace.trace_id,
        ms=1000 * (time.perf_counter() - began),
        order_id=order.order_id,
        order=order,
    )


def expect_placed(outcome: Outcome, prices: Mapping[str, money_pb2.Money]) -> orders_pb2.Order:
    """The placed order. Raises ShopAmiss if it is not placed, or costs anything else than the goods do."""
    if outcome.order is None:
        raise ShopAmiss(f"order {outcome.order_id} should have been placed, but: {outcome.reason}")
    order = outcome.order
    if order.status != orders_pb2.ORDER_STATUS_PLACED:
        status = orders_pb2.OrderStatus.Name(order.status)
        raise ShopAmiss(f"order {order.order_id} was answered with status {status}")
    if order.total.minor_units != outcome.purchase.cost(prices):
        asked, took = outcome.purchase.cost(prices), order.total.minor_units
        raise ShopAmiss(f"order {order.order_id} should cost {asked} minor units, and cost {took}")
    return order


def expect_refused(outcome: Outcome, reason: str) -> None:
    """Raises ShopAmiss unless the order was refused for that reason."""
    if outcome.order is not None:
        raise ShopAmiss(f"order {outcome.order_id} should have been refused ({reason}), and was placed")
    if outcome.reason != reason:
        raise ShopAmiss(f"order {outcome.order_id} should have been refused for {reason}: {outcome.reason}")
