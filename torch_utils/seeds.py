"""Random numbers that depend only on their purpose, not on earlier draws or on the process."""

import hashlib

import numpy as np


def number_of(*parts, num_bytes=8):
    """Whole number in [0, 256 ** num_bytes): the beginning of the SHA-256 of 'part/part/...', the lowest byte first."""
    return int.from_bytes(_digest(parts)[:num_bytes], 'little')


def seed_of(*parts):
    """Seed in [0, 2 ** 63), for generators of torch."""
    return number_of(*parts) >> 1


def random_state(*parts):
    """numpy's generator, seeded with the whole digest as eight words of 32 bits."""
    return np.random.RandomState(np.frombuffer(_digest(parts), '<u4'))


def step_seed(seed, rank, cur_nimg):
    """Seed of an iteration's random numbers: a resumed run repeats what an uninterrupted one draws."""
    return seed_of(seed, rank, cur_nimg)


def _digest(parts):
    return hashlib.sha256('/'.join(str(part) for part in parts).encode()).digest()
