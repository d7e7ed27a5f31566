"""The catalog and the payments as an order sees them: each step done, refused for good, or failed.

Every call is idempotent by the order's id, which names its reservation and its payment too. What a callee
answers is read here and nowhere else: its statuses and texts never reach the customer as they are.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import grpc

from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.money import Money, MoneyError
from hauberk.services.orders.errors import CALLEE_FAILED, GAVE_UP
from hauberk.services.orders.store import Failure, Order
from hauberk.services.refusal import reason_of

_log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]

_PASSING = {
    grpc.StatusCode.UNAVAILABLE: "is not available",
    grpc.StatusCode.DEADLINE_EXCEEDED: "did not answer in time",
    grpc.StatusCode.CANCELLED: "broke the call off",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "takes no more calls now",
    grpc.StatusCode.ABORTED: "broke the call off",
}
_REFUSALS = {
    "OUT_OF_STOCK": "not enough left of {sku}",
    "PRODUCT_UNKNOWN": "no such product: {sku}",
    "CURRENCIES_MIXED": "goods of two currencies, one of them {sku}",
    "TOTAL_TOO_LARGE": "the goods cost more than an amount can say",
    "PAYMENT_DECLINED": "payment declined",
}
_FINAL = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}


class StepFailed(Exception):
    """A step that was not done, or whose outcome is not known; `failure` is what the order says of it.

    `passing`: the same call may succeed later.
    """

    def __init__(self, failure: Failure, *, passing: bool = False) -> None:
        self.failure = failure
        self.passing = passing
        super().__init__(failure.message)


class Callees:
    """`within` is seconds. Every method raises StepFailed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._catalog = catalog_pb2_grpc.CatalogStub(channel)
        self._payments = payments_pb2_grpc.PaymentsStub(channel)

    async def reserve(self, order: Order, within: float) -> Money:
        """Take the goods out of the stock; what they cost."""
        lines = [catalog_pb2.Line(sku=line.sku, quantity=line.quantity) for line in order.placement.lines]
        request = catalog_pb2.ReserveStockRequest(reservation_id=order.order_id, lines=lines)
        with _translated("catalog", order):
            held = await self._catalog.ReserveStock(request, timeout=within)
            return Money.of(held.total)

    async def authorise(self, order: Order, total: Money, within: float) -> None:
        """Set the total aside on the customer's account."""
        request = payments_pb2.AuthoriseRequest(
            payment_id=order.order_id, customer=order.placement.customer, amount=total.message()
        )
        with _translated("payments", order):
            await self._payments.Authorise(request, timeout=within)

    async def capture(self, order: Order, within: float) -> None:
        """Take what was set aside."""
        request = payments_pb2.CaptureRequest(payment_id=order.order_id)
        with _translated("payments", order):
            await self._payments.Capture(request, timeout=within)

    async def release(self, order: Order, within: float, metadata: Metadata) -> None:
        """Put the goods back, or bar the reservation if it has not come yet."""
        request = catalog_pb2.ReleaseStockRequest(reservation_id=order.order_id)
        with _translated("catalog", order):
            await self._catalog.ReleaseStock(request, timeout=within, metadata=metadata)

    async def refund(self, order: Order, within: float, metadata: Metadata) -> None:
        """Give the money back, or bar the payment if it has not come yet."""
        request = payments_pb2.RefundRequest(payment_id=order.order_id)
        with _translated("payments", order, as_done={"PAYMENT_UNKNOWN"}):
            await self._payments.Refund(request, timeout=within, metadata=metadata)


@contextmanager
def _translated(callee: str, order: Order, *, as_done: Collection[str] = ()) -> Iterator[None]:
    """Turn what a callee answered into StepFailed; the reasons in `as_done` are as good as done."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        reason, facts = reason_of(error)
        if reason not in as_done:
            raise _step_failed(callee, order, error, reason, facts) from error
    except MoneyError as error:
        _log.error("order %s: %s answered with %s", order.order_id, callee, error)
        raise StepFailed(_broken(callee)) from error


def _step_failed(
    callee: str, order: Order, error: grpc.aio.AioRpcError, reason: str, facts: Mapping[str, str]
) -> StepFailed:
    if error.code() in _PASSING:
        message = f"{callee} {_PASSING[error.code()]}"
        return StepFailed(Failure(reason=GAVE_UP, message=message), passing=True)
    if error.code() in _FINAL and reason in _REFUSALS:
        known = {line.sku for line in order.placement.lines}
        sku = facts.get("sku", "")
        message = _REFUSALS[reason].format(sku=sku if sku in known else "one of the products")
        return StepFailed(Failure(reason=reason, message=message))
    _log.error(
        "order %s: %s answered %s %s: %s", order.order_id, callee, error.code().name, reason, error.details()
    )
    return StepFailed(_broken(callee))


def _broken(callee: str) -> Failure:
    return Failure(reason=CALLEE_FAILED, message=f"{callee} could not do its part")
