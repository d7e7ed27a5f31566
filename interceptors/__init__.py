"""The data path: what is checked before a method runs, and what an outgoing call carries with it."""
