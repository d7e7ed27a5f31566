"""The customer's account, as the sample has it: whose name begins with "broke-" has no money.

A real shop puts its payment provider here. It is asked before the payment is recorded, and its answer is
what the payment's id stands for from then on.
"""

from hauberk.services.money import Money

PENNILESS = "broke-"


def declined(customer: str, amount: Money) -> str | None:
    """Why the amount cannot be set aside; None when it can."""
    if customer.startswith(PENNILESS):
        return f"the account does not cover {amount}"
    return None
