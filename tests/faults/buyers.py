"""Buyers of a shop whose processes die: some ask again with the same key, some walk away."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

import grpc

from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.services.refusal import reason_of
from hauberk.services.shopper.purchase import ORDER_S, Purchase

SKUS = ("ANVIL-5KG", "COAL-25KG", "TONGS-FLAT")
RARE = "RARE"
"""A product there is little of, which runs out."""
TRIES = 6
PAUSE_S = 0.5
AT_ONCE = 24


class Buyers:
    """Everyone's purchase by key, and what he was told of it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._orders = orders_pb2_grpc.OrdersStub(channel)
        self.purchases: list[Purchase] = []
        self.placed: dict[str, str] = {}
        """Order by key, where its placement was acknowledged."""
        self.failed: dict[str, str] = {}
        """The same for orders that were said to have come to nothing."""
        self.ids: dict[str, set[str]] = defaultdict(set)
        """By key, every order that an answer named: never more than one."""
        self.unsettled = 0
        """Answers that left the customer in the dark."""

    async def come_while(self, go_on: Callable[[], bool], *, rate: float) -> None:
        """`rate` customers a second, AT_ONCE at a time, while `go_on` says so; every third asks only once."""
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while go_on():
                purchase = self._next()
                await places.acquire()
                tries = 1 if len(self.purchases) % 3 == 0 else TRIES
                task = group.create_task(self.buy(purchase, tries=tries))
                task.add_done_callback(lambda _: places.release())
                await asyncio.sleep(1 / rate)

    async def buy(self, purchase: Purchase, *, tries: int) -> None:
        """Ask until the answer is final, so many times at most."""
        for _ in range(tries):
            try:
                order = await self._orders.PlaceOrder(purchase.request(), timeout=ORDER_S)
            except grpc.aio.AioRpcError as error:
                if self._is_final(purchase, error):
                    return
            else:
                assert order.status == orders_pb2.ORDER_STATUS_PLACED
                self.ids[purchase.key].add(order.order_id)
                self.placed[purchase.key] = order.order_id
                return
            await asyncio.sleep(PAUSE_S)

    def _is_final(self, purchase: Purchase, error: grpc.aio.AioRpcError) -> bool:
        reason, facts = reason_of(error)
        if order_id := facts.get("order_id"):
            self.ids[purchase.key].add(order_id)
        if order_id and reason != "ORDER_UNSETTLED":
            self.failed[purchase.key] = order_id
            return True
        self.unsettled += 1
        return False

    def _next(self) -> Purchase:
        """Every fourth cannot pay, every ninth wants what runs out."""
        number = len(self.purchases)
        basket = {SKUS[number % 3]: 1 + number % 2, SKUS[(number + 1) % 3]: 1}
        if number % 9 == 4:
            basket[RARE] = 1
        customer = f"broke-{number}" if number % 4 == 1 else f"customer-{number}"
        self.purchases.append(Purchase(key=f"key-{number}", customer=customer, basket=basket))
        return self.purchases[-1]
