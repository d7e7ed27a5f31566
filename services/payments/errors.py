"""What payments refuse.

    Refusal
    +-- Declined            FAILED_PRECONDITION
    +-- NotAuthorised       FAILED_PRECONDITION
    +-- GivenBack           FAILED_PRECONDITION
    +-- PaymentDiffers      ALREADY_EXISTS
    +-- PaymentUnknown      NOT_FOUND

`Declined` is recorded; the others have changed nothing, but that a refund of an unknown payment bars its id.
"""

import grpc

from hauberk.services.refusal import Refusal


class _AboutPayment(Refusal):
    said = ""

    def __init__(self, payment_id: str) -> None:
        super().__init__(f"{self.said}: payment {payment_id}")


class Declined(Refusal):
    reason = "PAYMENT_DECLINED"

    def __init__(self, why: str) -> None:
        super().__init__(f"declined: {why}")


class NotAuthorised(_AboutPayment):
    reason = "NOT_AUTHORISED"
    said = "nothing was set aside"


class GivenBack(_AboutPayment):
    reason = "GIVEN_BACK"
    said = "given back before"


class PaymentDiffers(_AboutPayment):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "PAYMENT_DIFFERS"
    said = "of another amount or customer"


class PaymentUnknown(_AboutPayment):
    code = grpc.StatusCode.NOT_FOUND
    reason = "PAYMENT_UNKNOWN"
    said = "no such payment"
