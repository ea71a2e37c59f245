"""Compiled and recorded phases, and the largest batch that fits."""
