"""shop.orders.v1.Orders: an order is placed once per idempotency key; its end is the same for all who ask."""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc

from hauberk.certs.clock import utc_now
from hauberk.certs.watch import Watch
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.services.look_up import look_up
from hauberk.services.orders.callees import Callees
from hauberk.services.orders.errands import Errands
from hauberk.services.orders.errors import ClaimLost, OrderFailed, OrderUnsettled
from hauberk.services.orders.saga import Saga
from hauberk.services.orders.store import Line, Order, OrderStore, Placement, Stage
from hauberk.services.refusal import Draining, answering

Context = grpc.aio.ServicerContext[Any, Any]

LONGEST_S = 5.0
"""How long placing an order may take: the contract's max."""
ANSWER_S = 0.3
"""Kept back from the caller's time, at most, to undo what was begun and still say so."""
POLL_S = 0.5
"""How long a watch takes at most to see what another process recorded."""

_log = logging.getLogger(__name__)

_STATUSES = {
    Stage.NEW: orders_pb2.ORDER_STATUS_NEW,
    Stage.RESERVED: orders_pb2.ORDER_STATUS_RESERVED,
    Stage.AUTHORISED: orders_pb2.ORDER_STATUS_RESERVED,
    Stage.CHARGED: orders_pb2.ORDER_STATUS_CHARGED,
    Stage.PLACED: orders_pb2.ORDER_STATUS_PLACED,
    Stage.FAILED: orders_pb2.ORDER_STATUS_FAILED,
}


class Orders(orders_pb2_grpc.OrdersServicer):
    """`leaving` is set when the process is about to stop: watches then end, so that they don't hold it up.

    A watch shows the status it finds when it looks; one that has passed by then is not shown.
    """

    def __init__(
        self,
        store: OrderStore,
        callees: Callees,
        errands: Errands,
        leaving: asyncio.Event,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._errands = errands
        self._leaving = leaving
        self._now = now
        self._changes = Watch(None)
        self.saga = Saga(store, callees, now=now, changed=lambda: self._changes.set(None))

    async def PlaceOrder(self, request: orders_pb2.PlaceOrderRequest, context: Context) -> orders_pb2.Order:
        async with answering(context):
            asked = _placement(request)
            until = time.monotonic() + _seconds_to_act(context.time_remaining())
            order = await self._errands.run(self._place(asked, until))
            return _message(_placed(order))

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Context) -> orders_pb2.Order:
        async with answering(context):
            return _message(await look_up(self._store.order, request.order_id))

    async def WatchOrder(  # type: ignore[override]
        self, request: orders_pb2.WatchOrderRequest, context: Context
    ) -> None:
        async with answering(context):
            sent: int | None = None
            while not self._leaving.is_set():
                seen = self._changes.version
                order = await look_up(self._store.order, request.order_id)
                if _STATUSES[order.stage] != sent:
                    await context.write(_message(order))
                    sent = _STATUSES[order.stage]
                if order.final:
                    return
                await self._next_change(seen, POLL_S)
            raise Draining

    async def _place(self, asked: Placement, until: float) -> Order:
        order, claim = await asyncio.to_thread(self._store.open, asked, now=self._now())
        if claim is not None:
            try:
                order = await self.saga.settle(order, claim, until)
            except ClaimLost as lost:
                _log.warning("%s", lost)
            else:
                if not order.final:  # so that nobody waits for the claim's end
                    await asyncio.to_thread(self._store.leave, order, claim, now=self._now())
                return order
        return await self._settled_elsewhere(order.order_id, until)

    async def _settled_elsewhere(self, order_id: str, until: float) -> Order:
        """The order when another call, here or in a twin replica, has settled it; or as it is at `until`."""
        while True:
            seen = self._changes.version
            order = await look_up(self._store.order, order_id)
            left = until - time.monotonic()
            if order.final or left <= 0:
                return order
            await self._next_change(seen, min(POLL_S, left))

    async def _next_change(self, seen: int, within: float) -> None:
        """Return when something was recorded here since version `seen`, at the latest `within` seconds on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changes.next(seen)


def _seconds_to_act(caller_s: float | None) -> float:
    """What there is for steps forward of the caller's time; the rest is for the answer."""
    given = LONGEST_S if caller_s is None else min(caller_s, LONGEST_S)
    return given - min(ANSWER_S, given * 0.15)


def _placement(request: orders_pb2.PlaceOrderRequest) -> Placement:
    lines = tuple(sorted(Line(line.sku, line.quantity) for line in request.lines))
    return Placement(idempotency_key=request.idempotency_key, customer=request.customer, lines=lines)


def _placed(order: Order) -> Order:
    """The order if it is placed; raises OrderFailed, OrderUnsettled."""
    if order.stage is Stage.PLACED:
        return order
    if order.failure is None:
        raise OrderUnsettled(order.order_id, "still being placed")
    if order.stage is not Stage.FAILED:
        raise OrderUnsettled(order.order_id, f"still being undone ({order.failure.message})")
    raise OrderFailed(order.order_id, order.failure.reason, order.failure.message)


def _message(order: Order) -> orders_pb2.Order:
    message = orders_pb2.Order(
        order_id=order.order_id,
        customer=order.placement.customer,
        lines=[orders_pb2.OrderLine(sku=line.sku, quantity=line.quantity) for line in order.placement.lines],
        total=None if order.total is None else order.total.message(),
        status=_STATUSES[order.stage],
        failure="" if order.failure is None else order.failure.message,
    )
    message.created_at.FromDatetime(order.created_at)
    message.updated_at.FromDatetime(order.updated_at)
    return message
