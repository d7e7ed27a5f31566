"""The payments over gRPC: their contract, as the orders and the gateway meet it."""

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.protos.shop.payments.v1.payments_pb2_grpc import PaymentsStub
from tests.shop.said import fields, reason, refused
from tests.shop.stage import NewShop, Shop

if TYPE_CHECKING:
    from hauberk.protos.shop.payments.v1.payments_pb2_grpc import PaymentsAsyncStub

WITHIN_S = 5
AUTHORISED = payments_pb2.PAYMENT_STATE_AUTHORISED
CAPTURED = payments_pb2.PAYMENT_STATE_CAPTURED
REFUNDED = payments_pb2.PAYMENT_STATE_REFUNDED
DECLINED = payments_pb2.PAYMENT_STATE_DECLINED


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    shop = new_shop()
    await shop.start()
    return shop


@pytest.fixture
def as_orders(shop: Shop) -> "PaymentsAsyncStub":
    return PaymentsStub(shop.street.channel("orders"))


def euros(cents: int) -> money_pb2.Money:
    return money_pb2.Money(currency="EUR", minor_units=cents)


def authorise(payment_id: str = "p1", **changes: Any) -> payments_pb2.AuthoriseRequest:
    given = {"payment_id": payment_id, "customer": "ann", "amount": euros(1000), **changes}
    return payments_pb2.AuthoriseRequest(**given)


async def test_money_is_set_aside_taken_and_given_back(as_orders: "PaymentsAsyncStub") -> None:
    payment = await as_orders.Authorise(authorise(), timeout=WITHIN_S)
    assert (payment.state, payment.amount, payment.customer) == (AUTHORISED, euros(1000), "ann")
    capture = payments_pb2.CaptureRequest(payment_id="p1")
    assert (await as_orders.Capture(capture, timeout=WITHIN_S)).state == CAPTURED
    refund = payments_pb2.RefundRequest(payment_id="p1")
    assert (await as_orders.Refund(refund, timeout=WITHIN_S)).state == REFUNDED
    error = await refused(as_orders.Capture(capture, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "GIVEN_BACK")


async def test_a_customer_without_money_is_declined_each_time(as_orders: "PaymentsAsyncStub") -> None:
    for _ in range(2):
        error = await refused(as_orders.Authorise(authorise(customer="broke-ann"), timeout=WITHIN_S))
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "PAYMENT_DECLINED")
        assert "does not cover 1000 minor units of EUR" in (error.details() or "")
    asked = payments_pb2.GetPaymentRequest(payment_id="p1")
    assert (await as_orders.GetPayment(asked, timeout=WITHIN_S)).state == DECLINED


async def test_a_payment_of_another_amount_already_exists(as_orders: "PaymentsAsyncStub") -> None:
    await as_orders.Authorise(authorise(), timeout=WITHIN_S)
    error = await refused(as_orders.Authorise(authorise(amount=euros(999)), timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "PAYMENT_DIFFERS")


async def test_capturing_what_nobody_authorised_is_refused(as_orders: "PaymentsAsyncStub") -> None:
    call = as_orders.Capture(payments_pb2.CaptureRequest(payment_id="p1"), timeout=WITHIN_S)
    error = await refused(call)
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_AUTHORISED")


async def test_a_refund_of_an_unknown_payment_is_not_found_and_bars_it(
    as_orders: "PaymentsAsyncStub",
) -> None:
    error = await refused(as_orders.Refund(payments_pb2.RefundRequest(payment_id="p1"), timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "PAYMENT_UNKNOWN")
    error = await refused(as_orders.Authorise(authorise(), timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "GIVEN_BACK")


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (authorise(""), ["payment_id"]),
        (authorise("x" * 65), ["payment_id"]),
        (authorise("nul\0"), ["payment_id"]),
        (authorise(customer=""), ["customer"]),
        (authorise(customer="Ann"), ["customer"]),
        (authorise(amount=euros(0)), ["amount"]),
        (authorise(amount=euros(-1)), ["amount", "amount.minor_units"]),
        (authorise(amount=None), ["amount"]),
        (authorise(amount=money_pb2.Money(currency="EURO", minor_units=1)), ["amount.currency"]),
    ],
)
async def test_an_authorisation_outside_the_contract_is_refused(
    as_orders: "PaymentsAsyncStub", request_: payments_pb2.AuthoriseRequest, wrong: list[str]
) -> None:
    error = await refused(as_orders.Authorise(request_, timeout=WITHIN_S))
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, wrong)


async def test_the_gateway_looks_at_payments_and_makes_none(shop: Shop) -> None:
    error = await refused(shop.payments.Authorise(authorise(), timeout=WITHIN_S))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    asked = payments_pb2.GetPaymentRequest(payment_id="p1")
    error = await refused(shop.payments.GetPayment(asked, timeout=WITHIN_S))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "PAYMENT_UNKNOWN")


async def test_reconciling_answers_each_belief_in_turn(shop: Shop, as_orders: "PaymentsAsyncStub") -> None:
    await as_orders.Authorise(authorise("paid"), timeout=WITHIN_S)
    await as_orders.Capture(payments_pb2.CaptureRequest(payment_id="paid"), timeout=WITHIN_S)
    beliefs = [
        (payments_pb2.ReconcileRequest(payment_id="paid", amount=euros(1000), state=CAPTURED), True),
        (payments_pb2.ReconcileRequest(payment_id="paid", amount=euros(999), state=CAPTURED), False),
        (payments_pb2.ReconcileRequest(payment_id="paid", amount=euros(1000), state=REFUNDED), False),
        (payments_pb2.ReconcileRequest(payment_id="none", amount=euros(1000), state=CAPTURED), False),
    ]
    call = shop.payments.Reconcile(timeout=WITHIN_S)
    for belief, agrees in beliefs:
        await call.write(belief)
        answer = await call.read()
        assert isinstance(answer, payments_pb2.ReconcileResponse)
        assert (answer.payment_id, answer.agrees) == (belief.payment_id, agrees)
        assert answer.HasField("ours") == (belief.payment_id == "paid")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_reconciling_stops_at_an_unreadable_belief(shop: Shop) -> None:
    call = shop.payments.Reconcile(iter([payments_pb2.ReconcileRequest(payment_id="")]), timeout=WITHIN_S)
    error = await refused(call.read())
    assert (error.code(), fields(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["payment_id"])
