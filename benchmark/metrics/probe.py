"""The shared ridge probe: how much of an embedding can be read linearly from the codes, for *every* tokenizer.

Features are the concatenated one-hot codes (PAD = zero block), targets the embeddings of one modality. Held-out error
in 5 folds over items; the fold of an item is chosen by its SID, so items that collide never straddle folds. The
ridge strength is chosen inside each training part by another 5-fold cross-validation of the same kind. The probe is
additive over positions, so it under-rates residual codes whose meaning is conditional on earlier ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import eigh, solve
from scipy.sparse import csr_matrix

from sidbench.benchmark.metrics.distribution import check_codes, prefix_ids
from sidbench.datasets.foundation.errors import InputError

FOLDS = 5
# Unit: items. A code with n items keeps n / (n + ridge) of its deviation; the last is the mean predictor in effect.
RIDGES = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e5)
DENSE_COLUMNS = 1_536  # above, an eigendecomposition costs more than conjugate gradients for every ridge
SELECTION_DIMS = 16  # ridge selection sees wider targets through a random projection of this width
SELECTION_TOLERANCE, FINAL_TOLERANCE = 1e-2, 1e-3  # relative residuals of conjugate gradients
CG_STEPS = 100


def one_hot(codes: np.ndarray, sizes: np.ndarray) -> csr_matrix:
    """Sparse float64 ``[N, C]`` concatenated one-hot codes; PAD gives no entry; columns nobody uses are left out."""
    check_codes(codes, sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    used = codes >= 0
    columns = (codes + offsets[None, :])[used]
    dense = np.unique(columns, return_inverse=True)[1].reshape(-1)
    indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    width = int(dense.max()) + 1 if len(dense) else 1
    return csr_matrix((np.ones(len(dense)), dense, indptr), shape=(len(codes), width))


def folds_by_group(groups: np.ndarray, n_folds: int, generator: np.random.Generator) -> np.ndarray:
    """int64 ``[N]`` fold of each row; rows of one group share a fold and folds differ little in size.

    Largest group first into the lightest fold, as scikit-learn's GroupKFold, but with equal groups in seeded order.
    With fewer groups than ``n_folds`` there are as many folds as groups.
    """
    sizes = np.bincount(groups)
    present = np.flatnonzero(sizes)
    shuffled = generator.permutation(present)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    load = [(0, f) for f in range(min(n_folds, len(present)))]
    fold_of_group = np.zeros(len(sizes), np.int64)
    for group in order.tolist():
        weight, fold = load[0]
        fold_of_group[group] = fold
        heapq.heapreplace(load, (weight + int(sizes[group]), fold))
    return fold_of_group[groups]


def _column_means(x: csr_matrix) -> np.ndarray:
    return np.asarray(x.mean(axis=0)).reshape(-1)


def _ridge_dense(x: csr_matrix, y: np.ndarray, ridges: Sequence[float]) -> list[np.ndarray]:
    """``(Z'Z + a I)^-1 Z'Y`` with ``Z`` = centred ``X`` for every ridge ``a``, from one ``Z'Z = Q diag(w) Q'``."""
    mean = _column_means(x)
    # Z'Y = X'Y because the columns of Y sum to zero.
    gram = (x.T @ x).toarray() - x.shape[0] * np.outer(mean, mean)
    if len(ridges) == 1:  # one system: Cholesky is several times cheaper than the spectrum
        gram[np.diag_indices_from(gram)] += ridges[0]
        return [solve(gram, x.T @ y, assume_a="pos", overwrite_a=True, check_finite=False)]
    w, q = eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
    rotated = q.T @ (x.T @ y)
    return [q @ (rotated / (np.maximum(w, 0.0) + a)[:, None]) for a in ridges]


def _ridge_iterative(x: csr_matrix, y: np.ndarray, ridges: Sequence[float], tolerance: float) -> list[np.ndarray]:
    """The same by conjugate gradients with Jacobi preconditioning, one column of ``y`` beside the other.

    Stops at a relative residual of ``tolerance`` (or ``CG_STEPS`` steps); warm-started from the stronger ridge.
    """
    xt, target, mean = x.T.tocsr(), np.asarray(x.T @ y), _column_means(x)[:, None]
    diagonal = x.shape[0] * mean * (1 - mean)  # of Z'Z; X holds zeros and ones

    def gram(b: np.ndarray) -> np.ndarray:
        return np.asarray(xt @ (x @ b)) - x.shape[0] * mean * (mean.T @ b)

    goal = tolerance * np.linalg.norm(target)
    solutions: dict[float, np.ndarray] = {}
    b = np.zeros_like(target)
    for a in sorted(ridges, reverse=True):
        residual = target - gram(b) - a * b
        z = residual / (diagonal + a)
        direction, rho = z.copy(), (residual * z).sum(axis=0)
        for _ in range(CG_STEPS):
            if np.linalg.norm(residual) <= goal:
                break
            image = gram(direction) + a * direction
            curvature = (direction * image).sum(axis=0)
            step = np.divide(rho, curvature, out=np.zeros_like(rho), where=curvature > 0)
            b = b + step * direction
            residual = residual - step * image
            z = residual / (diagonal + a)
            fresh = (residual * z).sum(axis=0)
            direction = z + np.divide(fresh, rho, out=np.zeros_like(rho), where=rho > 0) * direction
            rho = fresh
        solutions[a] = b
    return [solutions[a] for a in ridges]


def ridge_solutions(
    x: csr_matrix, y: np.ndarray, ridges: Sequence[float], tolerance: float = FINAL_TOLERANCE
) -> list[np.ndarray]:
    """Coefficients float64 ``[C, D]`` per ridge for centred targets ``y`` ``[M, D]``; the intercept is not penalised.

    The prediction for a row ``x`` is ``mean(y) + (x - mean(X)) @ coefficients``, so that PAD (a zero block) costs
    nothing. Exact up to ``DENSE_COLUMNS`` columns, to the relative residual ``tolerance`` beyond.
    """
    if x.shape[1] <= DENSE_COLUMNS:
        return _ridge_dense(x, y, ridges)
    return _ridge_iterative(x, y, ridges, tolerance)


def _select(
    x: csr_matrix, targets: Mapping[str, np.ndarray], groups: np.ndarray, generator: np.random.Generator
) -> dict[str, float]:
    """The ridge with the least held-out error for each target, by ``FOLDS``-fold cross-validation over groups."""
    sketch = {}
    for name, y in targets.items():
        width = y.shape[1]
        if width > SELECTION_DIMS:
            # E ||Y P||^2 = ||Y||^2: the error curve over ridges is estimated without bias at a fraction of the work.
            sketch[name] = y @ (generator.standard_normal((width, SELECTION_DIMS)) / np.sqrt(SELECTION_DIMS))
        else:
            sketch[name] = y
    folds = folds_by_group(groups, FOLDS, generator)
    errors = {name: np.zeros(len(RIDGES)) for name in targets}
    edges = np.cumsum([0] + [y.shape[1] for y in sketch.values()])
    together = np.concatenate(list(sketch.values()), axis=1)
    for f in range(int(folds.max()) + 1):
        train, held = folds != f, folds == f
        if not train.any():  # a single SID: nothing to learn from, keep the strongest ridge
            return dict.fromkeys(targets, RIDGES[-1])
        mean = together[train].mean(axis=0)
        x_train, x_held, y_held = x[train], x[held], together[held] - mean
        x_mean = _column_means(x_train)
        for j, b in enumerate(ridge_solutions(x_train, together[train] - mean, RIDGES, SELECTION_TOLERANCE)):
            squared = ((y_held - (x_held @ b - x_mean @ b)) ** 2).sum(axis=0)
            for m, name in enumerate(sketch):
                errors[name][j] += squared[edges[m] : edges[m + 1]].sum()
    # Among equal errors the strongest ridge wins: the simpler model.
    return {name: RIDGES[len(RIDGES) - 1 - int(np.argmin(e[::-1]))] for name, e in errors.items()}


def probe_nmse(
    codes: np.ndarray, sizes: np.ndarray, targets: Mapping[str, np.ndarray], generator: np.random.Generator
) -> dict[str, float]:
    """Held-out nmse of the probe per target, ``sum ||e - ê||^2 / sum ||e - mean_train||^2`` over the held-out items.

    codes: int ``[N, L]``; sizes: int ``[L]``; targets: name -> float ``[N, D_m]`` over the same items; they share the
    folds. The mean of the training folds is what no codes at all predict, so 1 = the codes say nothing (random codes
    land near 1) and 0 = the codes determine the embedding linearly. With fewer than two distinct SIDs the codes cannot
    say anything: 1. A target without variance is left out. Raises ``InputError`` when rows do not match.
    """
    for name, y in targets.items():
        if y.ndim != 2 or len(y) != len(codes):
            raise InputError(f"probe target {name}", got=f"shape {y.shape}", wanted=f"({len(codes)}, dimensions)")
    usable = {n: y.astype(np.float64) for n, y in targets.items() if len(y) and float(np.ptp(y, axis=0).max()) > 0}
    if not usable:
        return {}
    groups = prefix_ids(codes)[-1]
    if groups.max() == 0:
        return dict.fromkeys(usable, 1.0)
    x = one_hot(codes, sizes)
    folds = folds_by_group(groups, FOLDS, generator)
    error, spread = dict.fromkeys(usable, 0.0), dict.fromkeys(usable, 0.0)
    for f in range(int(folds.max()) + 1):
        train, held = folds != f, folds == f
        chosen = _select(x[train], {n: y[train] for n, y in usable.items()}, groups[train], generator)
        means = {n: y[train].mean(axis=0) for n, y in usable.items()}
        for ridge in sorted(set(chosen.values())):
            names = [n for n in usable if chosen[n] == ridge]
            centred = np.concatenate([usable[n][train] - means[n] for n in names], axis=1)
            b = ridge_solutions(x[train], centred, [ridge])[0]
            predicted = x[held] @ b - _column_means(x[train]) @ b
            start = 0
            for n in names:
                y = usable[n][held] - means[n]
                error[n] += float(((y - predicted[:, start : start + y.shape[1]]) ** 2).sum())
                spread[n] += float((y**2).sum())
                start += y.shape[1]
    return {n: error[n] / spread[n] for n in usable}
