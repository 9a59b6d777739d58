"""The planted transition model of behaviour: which item a user takes next, and whether the user likes it.

With ``i`` the user's last item, a *proposal* is drawn from

    S(j | u, i) = alpha T(j | i) + (1 - alpha - eps) Q(j | u) + eps pop(j)                                       (1)
    Q(j | u)    = sum_k w_uk sum_d a_d 1[j under node_d(leaf_uk)] pop(j) / pop(node_d(leaf_uk))                  (2)

(T: sparse transitions between items; Q: the user's interests, leaves blurred towards the root, times popularity), and
a proposal in the tail ``B`` is replaced, at rate ``rho``, by a tail item drawn by popularity alone:

    P(j | u, i) = S(j)                                                            j not in B                     (3)
    P(j | u, i) = (1 - rho) S(j) + rho S(B | u, i) pop(j) / pop(B)                j in B

So exactly the share ``rho`` of tail events is replacement noise, whatever user and history. Before the first event
(``i = -1``) the weight alpha belongs to Q. Repeats are allowed: the model depends on user and last item only, so the
oracle is exact. Sampling draws a component, then a slice of the popularity table, and never forms a dense row.
Liking: P(like | u, j) = sigmoid(b + g <v_u, z_j> + q_j), with v_u = sum_k w_uk leaf_latent(leaf_uk).              (4)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.planted.tree import Tree

SUCCESSOR_WEIGHTS = (0.4, 0.3, 0.2, 0.1)
INTERESTS = 3
_BLUR = 0.6  # a_d is proportional to _BLUR ** (depth - d): the leaf itself most, the first level least
_LIKE_SLOPE, _LIKE_BIAS, _QUALITY_DEVIATION = 4.0, -0.4, 0.5


@dataclass(frozen=True)
class TransitionModel:
    """The transition model, equations (1)-(4), over ``U`` users and ``N`` items.

    interest: int32 ``[U, 3]`` leaves; interest_weight: float64 ``[U, 3]`` rows summing to 1 (w).
    successor: int32 ``[N, 4]`` items with the weights ``SUCCESSOR_WEIGHTS`` (T). quality: float32 ``[N]`` (q).
    taste: float32 ``[U, W]`` (v). transition, noise, tail_noise: alpha, eps, rho.
    """

    tree: Tree
    interest: np.ndarray
    interest_weight: np.ndarray
    successor: np.ndarray
    quality: np.ndarray
    taste: np.ndarray
    transition: float
    noise: float
    tail_noise: float

    @property
    def blur(self) -> np.ndarray:
        """float64 ``[depth]``: a_d for d = 1 .. depth."""
        weights = _BLUR ** np.arange(self.tree.depth - 1, -1, -1.0)
        return weights / weights.sum()

    def next_item(self, user: np.ndarray, last_item: np.ndarray) -> np.ndarray:
        """float32 ``[B, N]`` P(. | u, i) of equation (3), rows summing to 1; ``last_item`` -1 = no event yet.

        Dense: callers choose ``B``. Raises ``InputError`` for users or items out of range.
        """
        user, last_item = np.asarray(user), np.asarray(last_item)
        self._check(user, last_item, lowest_item=-1)
        tree, rows = self.tree, np.arange(len(user))
        started = last_item >= 0
        density = np.zeros((len(user), tree.n_items + 1))  # of Q with respect to pop, in tree order, as differences
        for k in range(INTERESTS):
            for depth, blur in enumerate(self.blur, start=1):
                begin, end = tree.places(self.interest[user, k], depth)
                height = self.interest_weight[user, k] * blur / (tree.mass[end] - tree.mass[begin])
                np.add.at(density, (rows, begin), height)
                np.add.at(density, (rows, end), -height)
        preferred = np.maximum(np.cumsum(density, axis=1)[:, :-1], 0.0)
        share = np.where(started, 1.0 - self.transition - self.noise, 1.0 - self.noise)[:, None]
        proposal = np.empty((len(user), tree.n_items))
        proposal[:, tree.order] = (share * preferred + self.noise) * tree.popularity[tree.order]
        for k, weight in enumerate(SUCCESSOR_WEIGHTS):
            np.add.at(proposal, (rows[started], self.successor[last_item[started], k]), self.transition * weight)
        in_tail = proposal[:, tree.tail].sum(axis=1, keepdims=True)
        noise = np.where(tree.tail, tree.popularity, 0.0) / tree.popularity[tree.tail].sum()
        mixed = np.where(tree.tail, (1.0 - self.tail_noise) * proposal, proposal) + self.tail_noise * in_tail * noise
        return np.asarray(mixed / mixed.sum(axis=1, keepdims=True), np.float32)

    def draw_next(
        self, user: np.ndarray, last_item: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw (item int32 ``[B]``, noisy bool ``[B]``) from the model in O(B log N).

        noisy: the item came from ``eps pop`` or replaced a tail proposal, so neither user nor history caused it.
        """
        tree = self.tree
        u_part, u_pick, u_depth, u_item, u_tail, u_noise = generator.random((6, len(user)))
        started = last_item >= 0
        follows = started & (u_part < self.transition)
        noisy = u_part >= 1.0 - self.noise
        interest = np.sum(u_pick[:, None] >= np.cumsum(self.interest_weight[user], axis=1)[:, :-1], axis=1)
        depth = 1 + np.searchsorted(np.cumsum(self.blur)[:-1], u_depth, side="right")
        begin, end = tree.places(self.interest[user, interest], np.where(noisy, 0, depth))
        item = tree.draw(begin, end, u_item)
        choice = np.searchsorted(np.cumsum(SUCCESSOR_WEIGHTS)[:-1], u_pick, side="right")
        item = np.where(follows, self.successor[np.maximum(last_item, 0), choice], item)
        replaced = tree.tail[item] & (u_tail < self.tail_noise)
        tail_items = np.flatnonzero(tree.tail)
        tail_mass = np.cumsum(tree.popularity[tail_items])
        place = np.searchsorted(tail_mass, u_noise * tail_mass[-1], side="right")
        item = np.where(replaced, tail_items[np.minimum(place, len(tail_items) - 1)], item)
        return item.astype(np.int32), noisy | replaced

    def like(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float32 ``[M]`` P(like | u, j) of equation (4), pair by pair."""
        user, item = np.asarray(user), np.asarray(item)
        self._check(user, item, lowest_item=0)
        affinity = np.einsum("mw,mw->m", self.taste[user], self.tree.latent[item], dtype=np.float64)
        return np.asarray(1.0 / (1.0 + np.exp(-(_LIKE_BIAS + _LIKE_SLOPE * affinity + self.quality[item]))), np.float32)

    def _check(self, user: np.ndarray, item: np.ndarray, lowest_item: int) -> None:
        for name, values, low, size in (
            ("user", user, 0, len(self.interest)),
            ("item", item, lowest_item, self.tree.n_items),
        ):
            if len(values) and (values.min() < low or values.max() >= size):
                raise InputError(
                    f"{name} index of the planted transition model",
                    got=f"{values.min()}..{values.max()}",
                    wanted=f"{low}..{size - 1}",
                )


def build_transition_model(
    tree: Tree, n_users: int, transition: float, noise: float, tail_noise: float, rng: Rng
) -> TransitionModel:
    """Draw interests, transitions and item quality.

    Every second successor lies near the item (same parent node), the others in a complementary leaf elsewhere in the
    tree: structure that only behaviour reveals, as texts and pictures know nothing of it.
    Raises ``InputError`` when transition and noise leave no weight for preferences.
    """
    if transition + noise >= 1.0:
        raise InputError(
            "weights of the planted transition model",
            got=f"transition {transition} + noise {noise}",
            wanted="a sum below 1, the rest being preferences",
            do="lower dataset.transition or dataset.noise",
        )
    users, items = rng.child("users").numpy(), rng.child("items").numpy()
    leaf_mass = np.diff(tree.mass[tree.first])
    interest = users.choice(tree.n_leaves, size=(n_users, INTERESTS), p=leaf_mass / leaf_mass.sum()).astype(np.int32)
    weight = users.dirichlet(np.ones(INTERESTS), size=n_users)
    complement = items.permutation(tree.n_leaves)
    successor = np.empty((tree.n_items, len(SUCCESSOR_WEIGHTS)), np.int32)
    for k in range(len(SUCCESSOR_WEIGHTS)):
        if k % 2:
            places = tree.places(tree.leaf, tree.depth - 1)
        else:
            places = tree.places(complement[tree.leaf], tree.depth)
        successor[:, k] = tree.draw(*places, items.random(tree.n_items))
    taste = np.einsum("uk,ukw->uw", weight, tree.leaf_latent[interest])
    quality = _QUALITY_DEVIATION * items.normal(size=tree.n_items)
    return TransitionModel(
        tree,
        interest,
        weight,
        successor,
        quality.astype(np.float32),
        taste.astype(np.float32),
        transition,
        noise,
        tail_noise,
    )
