"""Seeds derived by name: ``Rng(7).child("tokenizer", "level", 0)`` is the same stream on every machine.

No global seeding anywhere: a stage receives an ``Rng`` and passes children down, so that adding a random draw in
one place never shifts the draws of another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rng:
    """A node in the seed tree.

    Parameters
    ----------
    seed: the run's seed, any non-negative integer.
    path: the names that lead here; part of the derived seed.
    """

    seed: int
    path: tuple[str, ...] = ()

    def child(self, *names: str | int) -> Rng:
        """The node reached by ``names``; equal names give equal streams."""
        return Rng(self.seed, self.path + tuple(f"{type(n).__name__}:{n}" for n in names))

    def integer(self) -> int:
        """A 63-bit seed for a generator of another library (torch, scikit-learn takes it modulo 2**32)."""
        text = "\x1f".join((str(self.seed), *self.path)).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at this node; calling twice gives two equal streams."""
        return np.random.default_rng(self.integer())
