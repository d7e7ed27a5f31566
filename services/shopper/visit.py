"""One visit to the shop, with every kind of call it has; at the end stock and money have to add up.

Its sums are about a product of its own, which it brings with it, so other customers do not disturb them.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

import grpc

from hauberk import resume
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.orders.v1 import orders_pb2, orders_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.shopper.errors import ShopAmiss
from hauberk.services.shopper.opening import CALL_S, until_open
from hauberk.services.shopper.purchase import Outcome, Purchase, euros, expect_placed, expect_refused, place

FEWEST_ORDERS = 3
STOCK = 1_000_000
SEEN_S = 5.0
"""How long a change of the stock may take to reach a watch."""

Say = Callable[[str], None]


class Visit:
    """One customer's visit; `say` gets a line for each thing done."""

    def __init__(self, channel: grpc.aio.Channel, say: Say) -> None:
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)
        self._orders = orders_pb2_grpc.OrdersStub(channel)
        self._payments = payments_pb2_grpc.PaymentsStub(channel)
        self._say = say
        self._run = secrets.token_hex(4)
        self._own = f"SHOPPER-{self._run.upper()}"
        self._prices: dict[str, money_pb2.Money] = {}

    async def buy(self, count: int) -> Outcome:
        """Place `count` orders, at least FEWEST_ORDERS; the last placed one.

        The second is declined, the last repeated. Raises ShopAmiss or AioRpcError when anything goes wrong.
        """
        await self._bring_own_product()
        await self._look_around()
        async with aclosing(self._watched()) as changes:
            await anext(changes)
            outcomes = [await self._first()]
            outcomes += [await self._order(number) for number in range(2, count + 1)]
            placed = [outcome for outcome in outcomes if outcome.order is not None]
            await self._repeat(placed[-1])
            await self._watch(placed[-1])
            left = STOCK - sum(outcome.purchase.basket[self._own] for outcome in placed)
            await _reaches(changes, left)
        await self._count_stock(left)
        await self._reconcile(outcomes)
        return placed[-1]

    async def _bring_own_product(self) -> None:
        price = money_pb2.Money(currency="EUR", minor_units=1999)
        own = catalog_pb2.Product(sku=self._own, name="Gauntlet, own make", price=price, stock=STOCK)

        async def import_it() -> catalog_pb2.ImportProductsResponse:
            return await self._catalog.ImportProducts(
                iter([catalog_pb2.ImportProductsRequest(product=own)]), timeout=CALL_S
            )

        done = await until_open(import_it)
        self._say(f"imported  {self._own}: {done.added} added, {done.replaced} replaced")

    async def _look_around(self) -> None:
        async for product in self._catalog.ListProducts(catalog_pb2.ListProductsRequest(), timeout=CALL_S):
            if product.price.currency == "EUR" and product.stock >= STOCK // 10:
                self._prices[product.sku] = product.price
        if self._own not in self._prices:
            raise ShopAmiss(f"imported, but not listed: {self._own}")
        self._say(f"listed    {len(self._prices)} products")

    def _purchase(self, number: int) -> Purchase:
        others = [sku for sku in sorted(self._prices) if not sku.startswith("SHOPPER-")]
        basket = {self._own: 1 + number % 3}
        if others and number % 4:
            basket[others[number % len(others)]] = 1 + number % 2
        customer = f"broke-{self._run}" if number == 2 else f"customer-{number}"
        return Purchase(key=secrets.token_hex(16), customer=customer, basket=basket)

    async def _first(self) -> Outcome:
        """An order the shop gave up while it was still opening is placed anew, under a new key."""
        outcome = await until_open(lambda: place(self._orders, self._purchase(1)))
        expect_placed(outcome, self._prices)
        self._say(f"order  1  {outcome}")
        return outcome

    async def _order(self, number: int) -> Outcome:
        outcome = await place(self._orders, self._purchase(number))
        if number == 2:
            expect_refused(outcome, "PAYMENT_DECLINED")
        else:
            expect_placed(outcome, self._prices)
        self._say(f"order {number:>2}  {outcome}")
        return outcome

    async def _repeat(self, before: Outcome) -> None:
        again = await place(self._orders, before.purchase)
        if again.order != before.order:
            raise ShopAmiss(f"repeated with the same key, order {before.order_id} became {again}")
        self._say(f"repeated  order {before.order_id}: the same order, placed once")

    async def _watch(self, outcome: Outcome) -> None:
        request = orders_pb2.WatchOrderRequest(order_id=outcome.order_id)
        seen = [order async for order in self._orders.WatchOrder(request, timeout=CALL_S)]
        if not seen or seen[-1] != outcome.order:
            raise ShopAmiss(f"watched order {outcome.order_id}, and it did not end as it was placed")
        self._say(f"watched   order {outcome.order_id}: {orders_pb2.OrderStatus.Name(seen[-1].status)}")

    async def _watched(self) -> AsyncGenerator[catalog_pb2.Product, None]:
        request = catalog_pb2.WatchProductsRequest(skus=[self._own])
        # Begun anew, a watch sends what is current: nothing has to be remembered of the one before.
        async for product in resume(lambda _: self._catalog.WatchProducts(request), lambda _: None):
            yield product

    async def _count_stock(self, left: int) -> None:
        request = catalog_pb2.GetProductRequest(sku=self._own)
        stock = (await self._catalog.GetProduct(request, timeout=CALL_S)).stock
        if stock != left:
            raise ShopAmiss(f"{self._own}: {left} should be left, and {stock} are")
        self._say(f"counted   {self._own}: {STOCK} less {STOCK - left} sold is {stock}")

    async def _reconcile(self, outcomes: Sequence[Outcome]) -> None:
        """Every placed order is paid, every declined one is not, and the sums agree."""
        call = self._payments.Reconcile(self._belief(outcome) for outcome in outcomes)
        answers = [answer async for answer in call]
        for outcome, answer in zip(outcomes, answers, strict=True):
            if not answer.agrees or answer.payment_id != outcome.order_id:
                raise ShopAmiss(f"the books differ on order {outcome.order_id}: {answer.ours or 'unknown'}")
        captured = sum(
            answer.ours.amount.minor_units
            for answer in answers
            if answer.ours.state == payments_pb2.PAYMENT_STATE_CAPTURED
        )
        sold = sum(outcome.order.total.minor_units for outcome in outcomes if outcome.order is not None)
        if captured != sold:
            raise ShopAmiss(f"sold for {sold} minor units, and {captured} were taken")
        self._say(f"balanced  {euros(captured)} taken for {len(answers)} orders; both books agree")

    def _belief(self, outcome: Outcome) -> payments_pb2.ReconcileRequest:
        placed = outcome.order is not None
        amount = money_pb2.Money(currency="EUR", minor_units=outcome.purchase.cost(self._prices))
        return payments_pb2.ReconcileRequest(
            payment_id=outcome.order_id,
            amount=amount,
            state=payments_pb2.PAYMENT_STATE_CAPTURED if placed else payments_pb2.PAYMENT_STATE_DECLINED,
        )


async def _reaches(changes: AsyncIterator[catalog_pb2.Product], left: int) -> None:
    """Return when the watch has shown that stock; raises ShopAmiss if it does not in time."""
    try:
        async with asyncio.timeout(SEEN_S):
            async for product in changes:
                if product.stock == left:
                    return
    except TimeoutError:
        pass
    raise ShopAmiss(f"the watch never showed a stock of {left}")
