"""A hash that is fixed for all time: ``h_p = mix(h_{p-1} + G (c_p + 1))`` in 64 bits.

``h_0`` is ``HASH_START``, ``G`` is ``HASH_STEP`` and ``mix`` the finaliser of SplitMix64. Rows of hashed tables and the
starts of graph walks depend on it, so that they are the same on every machine and in every version.
"""

from __future__ import annotations

import numpy as np

HASH_START, HASH_STEP = np.uint64(0x5349442D42454E43), np.uint64(0x9E3779B97F4A7C15)


def mix(state: np.ndarray) -> np.ndarray:
    """Scramble uint64 of any shape one to one: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


def prefix_hashes(codes: np.ndarray) -> np.ndarray:
    """uint64 ``[M, L]``: entry ``p`` is a hash of ``codes[:, :p + 1]`` (non-negative int ``[M, L]``)."""
    state = np.full(len(codes), HASH_START)
    hashes = np.empty(codes.shape, np.uint64)
    for position in range(codes.shape[1]):
        state = mix(state + HASH_STEP * (codes[:, position].astype(np.uint64) + np.uint64(1)))
        hashes[:, position] = state
    return hashes
