"""What orders refuse.

Refusal
+-- OrderUnknown        NOT_FOUND
+-- KeyTaken            ALREADY_EXISTS
+-- OrderFailed         FAILED_PRECONDITION   final: the goods or the money were refused
|                       ABORTED               final: given up; a new order may fare better
|                       INTERNAL              final: a callee refused us; the cause is in our log
+-- OrderUnsettled      UNAVAILABLE           not final yet: recovery or the same key again settles it

ClaimLost               no answer: somebody else works on the order now
"""

from collections.abc import Mapping

import grpc

from hauberk.services.refusal import Refusal

GAVE_UP = "GAVE_UP"
CALLEE_FAILED = "CALLEE_FAILED"


class OrderUnknown(Refusal):
    code = grpc.StatusCode.NOT_FOUND
    reason = "ORDER_UNKNOWN"

    def __init__(self, order_id: str) -> None:
        super().__init__(f"no such order: {order_id}")


class KeyTaken(Refusal):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "KEY_TAKEN"

    def __init__(self, key: str) -> None:
        super().__init__(f"belongs to a different order: idempotency key {key}")


class OrderFailed(Refusal):
    """The recorded failure of an order, the same however often it is asked for. Nothing is kept or taken."""

    def __init__(self, order_id: str, reason: str, message: str) -> None:
        self.order_id = order_id
        self.reason = reason
        self.code = {
            GAVE_UP: grpc.StatusCode.ABORTED,
            CALLEE_FAILED: grpc.StatusCode.INTERNAL,
        }.get(reason, grpc.StatusCode.FAILED_PRECONDITION)
        hint = "; place it anew with another idempotency key" if reason == GAVE_UP else ""
        super().__init__(f"order {order_id} failed, nothing kept or taken: {message}{hint}")

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"order_id": self.order_id}


class OrderUnsettled(Refusal):
    """Time ran out while the order was placed elsewhere, or while it could not be undone."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "ORDER_UNSETTLED"

    def __init__(self, order_id: str, state: str) -> None:
        self.order_id = order_id
        super().__init__(f"order {order_id} is {state}; ask again with the same idempotency key")

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"order_id": self.order_id}


class ClaimLost(Exception):
    """The order is no longer ours to change: our claim ran out and another took it."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"claimed by another: order {order_id}")
