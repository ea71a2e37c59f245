"""Metrics of a generator: features -> statistics -> value, each with the protocol that it was measured by."""
