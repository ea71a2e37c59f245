"""Figures of merit of a generator: features -> statistics -> value, each with the protocol it was measured by."""
