"""The control plane: one process that says who is who, where everybody is, and who may be found by whom."""
