"""How codes are distributed over items: entropies, utilisation, concentration and the shape of the prefix tree.

Notation: ``N`` items, ``L`` positions, ``K_p`` codes at position p, ``n_p(k)`` items with code k at position p,
``q_p(k) = n_p(k) / sum_k n_p(k)``. All entropies are plug-in estimates in nats. PAD (any negative code) is never a
code of the position; only ``pad_as_code=True`` counts it as one more class, and prefixes keep it as a symbol, since
"ends here" distinguishes items.

A position that no item uses (PAD everywhere) carries no information: entropy, perplexity share, utilisation, Gini
and top share are 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidbench.datasets.foundation.errors import InputError


def check_codes(codes: np.ndarray, sizes: np.ndarray | Sequence[int]) -> None:
    """Raise ``InputError`` unless ``codes`` is a non-empty integer ``[N, L]`` table within ``sizes`` ``[L]``."""
    if codes.ndim != 2 or codes.shape[0] == 0 or codes.shape[1] == 0:
        raise InputError("codes", got=f"shape {codes.shape}", wanted="(items, positions), both at least 1")
    if codes.shape[1] != len(sizes):
        raise InputError(
            "codebook sizes", got=f"{len(sizes)} sizes for {codes.shape[1]} positions", wanted="one size per position"
        )
    if (codes >= np.asarray(sizes)[None, :]).any():
        raise InputError("codes", got=f"maximum {codes.max(axis=0).tolist()}", wanted=f"below {list(sizes)}")


def code_counts(codes: np.ndarray, sizes: np.ndarray, weights: np.ndarray | None = None) -> list[np.ndarray]:
    """``n_p(k)`` as one float64 ``[K_p]`` array per position, PAD excluded.

    codes: int ``[N, L]``; sizes: int ``[L]``; weights: ``[N]`` non-negative (traffic), default 1 per item.
    """
    check_codes(codes, sizes)
    counts = []
    for p, size in enumerate(sizes):
        used = codes[:, p] >= 0
        share = None if weights is None else weights[used]
        counts.append(np.bincount(codes[used, p], weights=share, minlength=int(size)).astype(np.float64))
    return counts


def entropy_nats(counts: np.ndarray) -> float:
    """``-sum_k q(k) ln q(k)`` with ``q = counts / sum(counts)``, ``0 ln 0 = 0``; 0 when all counts are 0."""
    positive = counts[counts > 0].astype(np.float64)
    if len(positive) == 0:
        return 0.0
    q = positive / positive.sum()
    return max(0.0, float(-(q * np.log(q)).sum()))


def position_entropies(
    codes: np.ndarray, sizes: np.ndarray, weights: np.ndarray | None = None, pad_as_code: bool = False
) -> np.ndarray:
    """``H_p`` float64 ``[L]`` in nats.

    ``weights`` ``[N]`` gives the traffic-weighted entropy: the distribution of codes as they occur in training
    sequences. ``pad_as_code`` counts PAD as one more class (the ADA-SID convention behind ``entropy_pad``).
    """
    counts = code_counts(codes, sizes, weights)
    if pad_as_code:
        per_item = np.ones(len(codes)) if weights is None else weights
        counts = [np.append(n, per_item[codes[:, p] < 0].sum()) for p, n in enumerate(counts)]
    return np.array([entropy_nats(n) for n in counts])


def perplexity_shares(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``exp(H_p) / K_p`` float64 ``[L]``: the share of the codebook that is effectively used, comparable across K."""
    counts = code_counts(codes, sizes)
    return np.array([np.exp(entropy_nats(n)) / len(n) if n.any() else 0.0 for n in counts])


def utilisations(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``|{k : n_p(k) > 0}| / K_p`` float64 ``[L]``. Saturates near 1 for N >> K: read beside the perplexity share."""
    return np.array([np.count_nonzero(n) / len(n) for n in code_counts(codes, sizes)])


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of code counts, unused codes included as zeros (Hourglass paper, arXiv 2407.21488).

    ``(sum_j (2j - K - 1) n_(j)) / (K sum_j n_(j))`` over ascending ``n_(1) <= ... <= n_(K)``; equal counts give 0,
    one used code gives ``1 - 1/K``; 0 when all counts are 0.
    """
    size, total = len(counts), float(counts.sum())
    if total == 0:
        return 0.0
    rank = np.arange(1, size + 1)
    return float(((2 * rank - size - 1) * np.sort(counts)).sum() / (size * total))


def top_share(counts: np.ndarray) -> float:
    """Share of items held by the ``ceil(K/100)`` most frequent codes; 0 when all counts are 0."""
    total = float(counts.sum())
    head = -(-len(counts) // 100)
    return float(np.sort(counts)[-head:].sum() / total) if total else 0.0


def count_spreads(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``std_k n_p(k)`` float64 ``[L]``: population standard deviation of code counts, unused codes included."""
    return np.array([n.std() for n in code_counts(codes, sizes)])


def prefix_ids(codes: np.ndarray) -> list[np.ndarray]:
    """Dense int64 ``[N]`` ids of the prefixes ``(c_1..c_p)`` for p = 1..L; PAD is a symbol of its own.

    The last entry numbers whole SIDs in lexicographic order.
    """
    ids, current = [], np.zeros(len(codes), np.int64)
    for p in range(codes.shape[1]):
        symbol = codes[:, p].astype(np.int64) + 1
        # Dense ids are < N, so the product stays far below 2**63 for any codebook.
        current = np.unique(current * (symbol.max() + 1) + symbol, return_inverse=True)[1].reshape(-1)
        ids.append(current)
    return ids


def prefix_counts(codes: np.ndarray) -> np.ndarray:
    """``prefixes_p`` int64 ``[L]``: distinct ``(c_1..c_p)``."""
    return np.array([int(ids.max()) + 1 for ids in prefix_ids(codes)], dtype=np.int64)


def branching(codes: np.ndarray) -> np.ndarray:
    """``prefixes_p / prefixes_{p-1}`` float64 ``[L]`` with ``prefixes_0 = 1``."""
    prefixes = prefix_counts(codes)
    return prefixes / np.concatenate([[1], prefixes[:-1]])


def path_densities(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``prefixes_p / min(N, K_1 ... K_p)`` float64 ``[L]``; a position with PAD offers one symbol more."""
    symbols = np.asarray(sizes, np.float64) + (codes < 0).any(axis=0)
    return prefix_counts(codes) / np.minimum(len(codes), np.cumprod(symbols))


def joint_entropy(codes: np.ndarray) -> float:
    """``H(s)`` of whole SIDs in nats; at most ``ln N``, reached without collisions."""
    return entropy_nats(np.bincount(prefix_ids(codes)[-1]))


def conditional_entropies(codes: np.ndarray, miller_madow: bool = False) -> np.ndarray:
    """``H(c_p | c_<p) = H(c_1..c_p) - H(c_1..c_{p-1})`` float64 ``[L]`` in nats, PAD as a symbol.

    The plug-in bias of an entropy with m used symbols is about ``-(m - 1) / (2N)``: negligible for ``H_p`` (-.004 at
    K=100, N=12,101) but dominant for deep conditionals, where almost every prefix holds one item. ``miller_madow`` adds
    ``(m - 1) / (2N)`` to each joint entropy; a large gap between the two says that neither is trustworthy.
    """
    joint = []
    for ids in prefix_ids(codes):
        counts = np.bincount(ids)
        joint.append(entropy_nats(counts) + ((len(counts) - 1) / (2 * len(codes)) if miller_madow else 0.0))
    return np.diff(np.concatenate([[0.0], joint]))


def hourglass_index(entropies: np.ndarray) -> float | None:
    """``mean(H_1, H_L) - min_{1<p<L} H_p``; positive = waist. ``None`` for fewer than three positions.

    For L = 3 this is ``(H_1 + H_3) / 2 - H_2``. Meaningful for ordered SIDs only.
    """
    if len(entropies) < 3:
        return None
    return float((entropies[0] + entropies[-1]) / 2 - entropies[1:-1].min())
