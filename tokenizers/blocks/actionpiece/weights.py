"""How strongly two tokens are tied: the probability that they are neighbours when every state is put in random order.

For unordered pairs (arXiv 2502.13581, section 3.2), with ``M`` tokens in a state:
  inside a state                                    2 / M          (``C(M, 2)`` pairs, in total ``M - 1``)
  between neighbouring states, slot empty           1 / (M1 M2)
  between a state and the token of a slot beside it 1 / M
All are kept as integers over one denominator, so a sum does not depend on the order in which it was built up.
"""

from __future__ import annotations

import math

from sidbench.tokenizers.blocks.actionpiece.corpus import EMPTY, StateList

SHIFT = 20  # a pair (u, v), u <= v, is the key u << SHIFT | v
MASK = (1 << SHIFT) - 1


def pair_key(u: int, v: int) -> int:
    return u << SHIFT | v if u < v else v << SHIFT | u


class Factors:
    """Weights times ``denominator = lcm(1..L)^2`` for states of at most ``L`` tokens.

    inside ``[M]``, beside ``[M]`` (state and slot), across ``[M1][M2]``; index 0 is never read.
    """

    def __init__(self, most: int) -> None:
        self.denominator = math.lcm(*range(1, most + 1)) ** 2
        sizes = range(1, most + 1)
        self.beside = [0, *(self.denominator // m for m in sizes)]
        self.inside = [0, *(2 * self.denominator // m for m in sizes)]
        self.across = [[0] * (most + 1), *([0, *(self.denominator // (m * n) for n in sizes)] for m in sizes)]


def add_weights(sequence: StateList, first: int, last: int, factors: Factors, sign: int, total: dict[int, int]) -> None:
    """Add ``sign`` times the weights of all pairs inside states ``first..last`` and across the slots that touch them."""
    states, slots = sequence.states, sequence.slots
    for i in range(first, last + 1):
        state = states[i]
        m = len(state)
        if m > 1:
            x = sign * factors.inside[m]
            for a in range(m - 1):
                u = state[a]
                for b in range(a + 1, m):
                    v = state[b]
                    key = u << SHIFT | v if u < v else v << SHIFT | u
                    total[key] = total.get(key, 0) + x
    for i in range(first - 1 if first else 0, last + 1 if last < len(slots) else last):
        before, after, slot = states[i], states[i + 1], slots[i]
        if slot != EMPTY:
            for side in (before, after):
                x = sign * factors.beside[len(side)]
                for u in side:
                    key = u << SHIFT | slot if u < slot else slot << SHIFT | u
                    total[key] = total.get(key, 0) + x
        elif before and after:
            x = sign * factors.across[len(before)][len(after)]
            for u in before:
                for v in after:
                    key = u << SHIFT | v if u < v else v << SHIFT | u
                    total[key] = total.get(key, 0) + x
