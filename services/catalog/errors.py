"""What the catalog refuses.

    Refusal
    +-- ProductUnknown         NOT_FOUND
    +-- OutOfStock             FAILED_PRECONDITION
    +-- CurrenciesMixed        FAILED_PRECONDITION
    +-- TotalTooLarge          FAILED_PRECONDITION
    +-- ReservationReleased    FAILED_PRECONDITION
    +-- ReservationDiffers     ALREADY_EXISTS
    +-- ImportTooLong          RESOURCE_EXHAUSTED

None of them has changed anything.
"""

from collections.abc import Mapping

import grpc

from hauberk.services.refusal import Refusal


class _AboutProduct(Refusal):
    said = ""

    def __init__(self, sku: str) -> None:
        self.sku = sku
        super().__init__(f"{self.said}: {sku}")

    @property
    def metadata(self) -> Mapping[str, str]:
        return {"sku": self.sku}


class ProductUnknown(_AboutProduct):
    code = grpc.StatusCode.NOT_FOUND
    reason = "PRODUCT_UNKNOWN"
    said = "no such product"


class OutOfStock(_AboutProduct):
    reason = "OUT_OF_STOCK"
    said = "not enough left"


class CurrenciesMixed(_AboutProduct):
    reason = "CURRENCIES_MIXED"
    said = "priced in another currency than the goods before it"


class TotalTooLarge(Refusal):
    reason = "TOTAL_TOO_LARGE"

    def __init__(self) -> None:
        super().__init__("the goods cost more than an amount can say")


class ReservationReleased(Refusal):
    reason = "RESERVATION_RELEASED"

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"released before, and not to be made again: reservation {reservation_id}")


class ReservationDiffers(Refusal):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "RESERVATION_DIFFERS"

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"holds other goods: reservation {reservation_id}")


class ImportTooLong(Refusal):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "IMPORT_TOO_LONG"

    def __init__(self, most: int) -> None:
        super().__init__(f"an import takes at most {most} products; split it")
