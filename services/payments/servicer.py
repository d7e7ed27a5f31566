"""shop.payments.v1.Payments: each payment once, however often it is asked for."""

# ruff: noqa: N802 (the contract names the methods)

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import grpc

from hauberk.certs.clock import utc_now
from hauberk.protos.shop.payments.v1 import payments_pb2, payments_pb2_grpc
from hauberk.services.look_up import look_up
from hauberk.services.money import Money
from hauberk.services.payments.account import declined
from hauberk.services.payments.errors import PaymentUnknown
from hauberk.services.payments.store import Payment, PaymentStore, State
from hauberk.services.refusal import answering

Context = grpc.aio.ServicerContext[Any, Any]

_STATES = {
    State.AUTHORISED: payments_pb2.PAYMENT_STATE_AUTHORISED,
    State.CAPTURED: payments_pb2.PAYMENT_STATE_CAPTURED,
    State.REFUNDED: payments_pb2.PAYMENT_STATE_REFUNDED,
    State.DECLINED: payments_pb2.PAYMENT_STATE_DECLINED,
}


class Payments(payments_pb2_grpc.PaymentsServicer):
    def __init__(self, store: PaymentStore, *, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    async def Authorise(
        self, request: payments_pb2.AuthoriseRequest, context: Context
    ) -> payments_pb2.Payment:
        async with answering(context):
            amount = Money.of(request.amount)
            payment = await asyncio.to_thread(
                self._store.authorise,
                request.payment_id,
                request.customer,
                amount,
                decline=declined(request.customer, amount),
                now=self._now(),
            )
            return _message(payment)

    async def Capture(self, request: payments_pb2.CaptureRequest, context: Context) -> payments_pb2.Payment:
        async with answering(context):
            captured = await asyncio.to_thread(self._store.capture, request.payment_id, now=self._now())
            return _message(captured)

    async def Refund(self, request: payments_pb2.RefundRequest, context: Context) -> payments_pb2.Payment:
        async with answering(context):
            refunded = await asyncio.to_thread(self._store.refund, request.payment_id, now=self._now())
            return _message(refunded)

    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: Context
    ) -> payments_pb2.Payment:
        async with answering(context):
            return _message(await look_up(self._store.payment, request.payment_id))

    async def Reconcile(  # type: ignore[override]
        self, request_iterator: AsyncIterator[payments_pb2.ReconcileRequest], context: Context
    ) -> None:
        async with answering(context):
            async for request in request_iterator:
                await context.write(await self._compared(request))

    async def _compared(self, belief: payments_pb2.ReconcileRequest) -> payments_pb2.ReconcileResponse:
        try:
            ours = _message(await look_up(self._store.payment, belief.payment_id))
        except PaymentUnknown:
            return payments_pb2.ReconcileResponse(payment_id=belief.payment_id, agrees=False)
        agrees = belief.state == ours.state and belief.amount == ours.amount
        return payments_pb2.ReconcileResponse(payment_id=belief.payment_id, agrees=agrees, ours=ours)


def _message(payment: Payment) -> payments_pb2.Payment:
    message = payments_pb2.Payment(
        payment_id=payment.payment_id,
        customer=payment.customer,
        amount=payment.amount.message(),
        state=_STATES[payment.state],
    )
    message.updated_at.FromDatetime(payment.updated_at)
    return message
