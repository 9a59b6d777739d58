"""Small planted inputs for tests of plugins: features in a tree, SIDs with every difficulty, histories, rows."""

from __future__ import annotations

import numpy as np

from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import RankingData, RankingRows, RetrievalData
from sidbench.tokenizers.base import PAD, SemanticIds

WIDTHS = {"text": 24, "vision": 16, "behaviour": 12}
N_ITEMS, N_USERS = 23, 40


def planted_features(n_items: int = 240, seed: int = 0, modalities: tuple[str, ...] = tuple(WIDTHS)) -> ItemFeatures:
    """Features of items in a planted tree (4 top nodes with 4 children each): text 24-d, vision 16-d, behaviour 12-d.

    A tenth of the items (none when there are fewer than 10) was never seen in training and has a behaviour vector of
    zeros. Sequences of users stay within a top node. ``categories`` hold the planted path.
    """
    draw = Rng(seed).child("planted").numpy()
    top, child = draw.integers(4, size=n_items), draw.integers(4, size=n_items)
    cold = np.zeros(n_items, bool)
    cold[: n_items // 10] = True
    embeddings, available, scales = {}, {}, {}
    for name in modalities:
        width = WIDTHS[name]
        tops, children = 2 * draw.standard_normal((4, width)), draw.standard_normal((4, 4, width))
        rows = tops[top] + children[top, child] + 0.3 * draw.standard_normal((n_items, width))
        available[name] = ~cold if name == "behaviour" else np.ones(n_items, bool)
        embeddings[name], scales[name] = scale_modality(name, rows.astype(np.float32), available[name], n_items)
    sequences = []
    for user in range(2 * n_items):
        pool = np.flatnonzero((top == user % 4) & ~cold)
        sequences.append(draw.choice(pool, size=min(6, len(pool)), replace=False) if len(pool) else pool)
    items = np.concatenate(sequences).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])])
    counts = np.bincount(items, minlength=n_items)
    return ItemFeatures(
        embeddings,
        available,
        counts,
        (counts / max(counts.max(), 1)).astype(np.float32),
        "log_count",
        Sequences(indptr, items),
        scales,
        absent={m: "not planted" for m in WIDTHS if m not in modalities},
        categories=tuple((f"top {t}", f"child {t}.{c}") for t, c in zip(top, child, strict=True)),
        item_text=tuple(f"item {i} of child {t}.{c}" for i, (t, c) in enumerate(zip(top, child, strict=True))),
        item_keys=tuple(f"item-{i}" for i in range(n_items)),
    )


def make_sids(n_items: int = N_ITEMS, pad: bool = True) -> SemanticIds:
    """SIDs of three positions (sizes 4, 3, 5), with shared SIDs and, if asked, PAD at the last position."""
    index = np.arange(n_items)
    codes = np.stack([index % 4, index % 3, (index // 4) % 5], axis=1).astype(np.int32)
    if pad:
        codes[::5, 2] = PAD
    codes[1:2] = codes[:1]
    return SemanticIds(codes, np.array([4, 3, 5], np.int32), ordered=False)


def as_sequences(rows: list[list[int]]) -> Sequences:
    """Compressed-row form of lists of items."""
    return Sequences(
        np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        np.array([i for r in rows for i in r], np.int32),
    )


def make_retrieval(n_items: int = N_ITEMS, n_users: int = N_USERS, seed: int = 0) -> RetrievalData:
    """Users who step through the catalogue by one or two, with 4 to 9 events each."""
    generator = np.random.default_rng(seed)
    full = []
    for _ in range(n_users):
        steps = generator.integers(1, 3, size=generator.integers(4, 10))
        full.append(((generator.integers(n_items) + np.cumsum(steps)) % n_items).tolist())
    return _last_two_held_out(full, n_items)


def make_chain(n_users: int, n_items: int = 30, keep: float = 0.8, steps: tuple[int, int] = (6, 6)) -> RetrievalData:
    """Users on a chain that goes to a fixed successor with probability ``keep``, else anywhere.

    steps: fewest and most steps of a user. The best possible recall at 1 is ``keep + (1 - keep) / n_items``.
    """
    generator = np.random.default_rng(0)
    successor = np.roll(generator.permutation(n_items), 1)
    full = []
    for _ in range(n_users):
        row = [int(generator.integers(n_items))]
        for _ in range(steps[0] if steps[0] == steps[1] else generator.integers(steps[0], steps[1] + 1)):
            row.append(int(successor[row[-1]]) if generator.random() < keep else int(generator.integers(n_items)))
        full.append(row)
    return _last_two_held_out(full, n_items)


def _last_two_held_out(full: list[list[int]], n_items: int) -> RetrievalData:
    users = np.arange(len(full))
    validation, test = (np.array([s[-back] for s in full], np.int32) for back in (2, 1))
    return RetrievalData(
        n_items,
        as_sequences([s[:-2] for s in full]),
        users,
        validation,
        users,
        as_sequences([s[:-1] for s in full]),
        test,
        tuple(f"article{i} kind{i % 5} brand{i % 3}" for i in range(n_items)),
    )


def make_ranking(n_rows: int = 240, n_items: int = N_ITEMS, n_users: int = N_USERS, seed: int = 0) -> RankingData:
    """Rows whose label follows the item's parity most of the time; some users are unseen, some histories empty."""
    generator = np.random.default_rng(seed)

    def rows(count: int, first: int, unseen: bool) -> RankingRows:
        item = generator.integers(n_items, size=count).astype(np.int32)
        label = ((item % 2 == 0) ^ (generator.random(count) < 0.1)).astype(np.float32)
        history = np.where(generator.random((count, 4)) < 0.6, generator.integers(n_items, size=(count, 4)), -1)
        user = generator.integers(n_users + int(unseen), size=count).astype(np.int32)
        return RankingRows(
            user,
            item,
            label,
            generator.integers(7, size=count).astype(np.int32),
            generator.integers(12, size=count).astype(np.int32),
            history.astype(np.int32),
            np.arange(first, first + count),
        )

    parts = {
        "train": rows(n_rows, 0, False),
        "validation": rows(n_rows // 4, n_rows, True),
        "test": rows(n_rows // 4, 2 * n_rows, True),
    }
    brand = (np.arange(n_items) % 3).astype(np.int32)
    return RankingData(n_users, n_items, parts, {"brand": brand}, {"brand": 3})
