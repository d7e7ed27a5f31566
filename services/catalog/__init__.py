"""The catalog: what the shop sells, and how much of it is left."""
