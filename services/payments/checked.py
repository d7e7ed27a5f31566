"""Requests to payments, read strictly: values that a store can take, or InvalidFields is raised."""

import re
from dataclasses import dataclass

from hauberk.protos.shop.money.v1 import money_pb2
from hauberk.protos.shop.payments.v1 import payments_pb2
from hauberk.services.fields import Fields
from hauberk.services.money import CURRENCY, LARGEST, Money

CUSTOMER = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorisation:
    payment_id: str
    customer: str
    amount: Money


def authorisation(request: payments_pb2.AuthoriseRequest) -> Authorisation:
    fields = Fields()
    _payment_id(fields, request.payment_id)
    fields.matching("customer", request.customer, CUSTOMER, "must be 1 to 64 of a-z, 0-9 and -")
    _amount(fields, request.amount)
    fields.settle()
    amount = Money(currency=request.amount.currency, minor_units=request.amount.minor_units)
    return Authorisation(payment_id=request.payment_id, customer=request.customer, amount=amount)


def payment_id(
    request: payments_pb2.CaptureRequest | payments_pb2.RefundRequest | payments_pb2.GetPaymentRequest,
) -> str:
    fields = Fields()
    _payment_id(fields, request.payment_id)
    fields.settle()
    return request.payment_id


def belief(request: payments_pb2.ReconcileRequest) -> payments_pb2.ReconcileRequest:
    """What a caller believes of a payment; any amount and state can be believed."""
    fields = Fields()
    _payment_id(fields, request.payment_id)
    fields.settle()
    return request


def _payment_id(fields: Fields, value: str) -> None:
    fields.text("payment_id", value, longest=64)


def _amount(fields: Fields, given: money_pb2.Money) -> None:
    fields.matching("amount.currency", given.currency, CURRENCY, "must be three capitals")
    fields.number("amount.minor_units", given.minor_units, least=1, most=LARGEST)
