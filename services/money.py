"""An amount of money: whole minor units of one currency, exact; never a float, never beyond 64 bits."""

import re
from dataclasses import dataclass
from typing import Self

from hauberk.protos.shop.money.v1 import money_pb2

CURRENCY = re.compile(r"[A-Z]{3}")
LARGEST = 2**63 - 1


class MoneyError(Exception):
    """Arithmetic that has no exact answer: two currencies, or more than 64 bits hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """At least zero. Two amounts of different currencies are never added, compared or converted."""

    currency: str
    minor_units: int

    def __post_init__(self) -> None:
        if CURRENCY.fullmatch(self.currency) is None:
            raise MoneyError(f"not a currency: {self.currency!r:.20}")
        if not 0 <= self.minor_units <= LARGEST:
            raise MoneyError(f"amount out of range: {self.minor_units}")

    @classmethod
    def of(cls, message: money_pb2.Money) -> Self:
        """Raises MoneyError for what the contract does not let in."""
        return cls(currency=message.currency, minor_units=message.minor_units)

    def times(self, quantity: int) -> Self:
        return type(self)(currency=self.currency, minor_units=self.minor_units * quantity)

    def plus(self, other: Self) -> Self:
        if other.currency != self.currency:
            raise MoneyError(f"two currencies in one sum: {self.currency} and {other.currency}")
        return type(self)(currency=self.currency, minor_units=self.minor_units + other.minor_units)

    def message(self) -> money_pb2.Money:
        return money_pb2.Money(currency=self.currency, minor_units=self.minor_units)

    def __str__(self) -> str:
        """For people and logs; where the point would go depends on the currency, so there is none."""
        return f"{self.minor_units} minor units of {self.currency}"
