"""The orders: goods reserved, money taken, the whole recorded."""
