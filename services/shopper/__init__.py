"""The shopper: buys in the shop, checks that stock and money add up, and serves as its steady load."""
