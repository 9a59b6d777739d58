"""The ridge probe: parity with scikit-learn, folds by SID, random and perfect codes, both solvers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, PredefinedSplit

from sidbench.benchmark.metrics import probe
from sidbench.benchmark.metrics.distribution import prefix_ids
from sidbench.datasets.foundation.errors import InputError


def planted(
    n: int = 300, length: int = 3, size: int = 6, dims: int = 5, noise: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    codes = generator.integers(-1, size, (n, length)).astype(np.int32)
    sizes = np.full(length, size, np.int32)
    effect = generator.standard_normal((length, size + 1, dims))
    effect[:, -1] = 0  # PAD contributes nothing
    target = sum(effect[p, codes[:, p]] for p in range(length)) + noise * generator.standard_normal((n, dims)) + 3
    return codes, sizes, target.astype(np.float32)


def test_parity_with_scikit_learn_on_the_same_folds() -> None:
    codes, sizes, y = planted()
    value = probe.probe_nmse(codes, sizes, {"text": y}, np.random.default_rng(11))["text"]
    # The same draws: outer folds first, then inner folds per training part.
    generator, groups = np.random.default_rng(11), prefix_ids(codes)[-1]
    x = probe.one_hot(codes, sizes).toarray()
    outer = probe.folds_by_group(groups, 5, generator)
    error = spread = 0.0
    for f in range(5):
        train, held = outer != f, outer == f
        inner = probe.folds_by_group(groups[train], 5, generator)
        mean = y[train].mean(axis=0)
        # RidgeCV cannot split by the inner groups of a nested fold: choose by hand, fit by library.
        scores = []
        for ridge in probe.RIDGES:
            total = 0.0
            for a, b in PredefinedSplit(inner).split():
                model = Ridge(alpha=ridge).fit(x[train][a], y[train][a])
                total += ((y[train][b] - model.predict(x[train][b])) ** 2).sum()
            scores.append(total)
        model = Ridge(alpha=probe.RIDGES[int(np.argmin(scores))]).fit(x[train], y[train])
        error += ((y[held] - model.predict(x[held])) ** 2).sum()
        spread += ((y[held] - mean) ** 2).sum()
    assert value == pytest.approx(error / spread, rel=1e-5)


def test_close_to_ridgecv_under_groupkfold() -> None:
    codes, sizes, y = planted(n=600)
    x, groups = probe.one_hot(codes, sizes).toarray(), prefix_ids(codes)[-1]
    error = spread = 0.0
    for a, b in GroupKFold(5).split(x, groups=groups):
        mean = y[a].mean(axis=0)
        model = RidgeCV(alphas=probe.RIDGES, cv=5).fit(x[a], y[a])
        error += ((y[b] - model.predict(x[b])) ** 2).sum()
        spread += ((y[b] - mean) ** 2).sum()
    value = probe.probe_nmse(codes, sizes, {"y": y}, np.random.default_rng(0))["y"]
    assert value == pytest.approx(error / spread, abs=0.01)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 6), st.integers(0, 99))
def test_groups_never_straddle_folds(groups: list[int], n_folds: int, seed: int) -> None:
    array = np.array(groups)
    folds = probe.folds_by_group(array, n_folds, np.random.default_rng(seed))
    for group in set(groups):
        assert len(set(folds[array == group])) == 1
    load = np.bincount(folds)
    assert len(load) == min(n_folds, len(set(groups)))
    assert load.min() > 0
    if len(load) == n_folds:  # greedy: no fold exceeds the mean by more than the largest group
        assert load.max() <= len(groups) / n_folds + np.bincount(array).max()


def test_folds_are_as_even_as_groupkfold() -> None:
    groups = np.random.default_rng(2).zipf(1.7, 500) % 60
    ours = np.bincount(probe.folds_by_group(groups, 5, np.random.default_rng(0)))
    theirs = [len(b) for _, b in GroupKFold(5).split(groups, groups=groups)]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_random_codes_say_nothing(seed: int) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 20, (800, 4)).astype(np.int32)
    y = generator.standard_normal((800, 40))
    value = probe.probe_nmse(codes, np.full(4, 20, np.int32), {"y": y}, generator)["y"]
    assert 0.98 <= value <= 1.05


def test_unique_ids_cannot_generalise() -> None:
    n = 200
    y = np.random.default_rng(0).standard_normal((n, 3))
    codes = np.arange(n, dtype=np.int32)[:, None]
    assert probe.probe_nmse(codes, np.array([n], np.int32), {"y": y}, np.random.default_rng(0))["y"] == pytest.approx(1)


def test_additive_codes_determine_their_target_pad_included() -> None:
    codes, sizes, y = planted(n=1_500, noise=0.0)
    assert probe.probe_nmse(codes, sizes, {"y": y}, np.random.default_rng(0))["y"] < 1e-4


def test_a_colliding_item_does_not_leak_its_twin() -> None:
    """Pairs of items with one random SID and one embedding: folds by item would read the twin's embedding."""
    generator = np.random.default_rng(0)
    y = np.repeat(generator.standard_normal((300, 4)), 2, axis=0)
    codes = np.repeat(np.arange(300, dtype=np.int32), 2)[:, None]
    assert probe.probe_nmse(codes, np.array([300], np.int32), {"y": y}, generator)["y"] == pytest.approx(1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_both_solvers_agree(seed: int) -> None:
    generator = np.random.default_rng(seed)
    codes = generator.integers(-1, 7, (60, 3)).astype(np.int32)
    x, y = probe.one_hot(codes, np.full(3, 7, np.int32)), generator.standard_normal((60, 2))
    y -= y.mean(axis=0)
    exact = probe._ridge_dense(x, y, probe.RIDGES)
    steps = probe._ridge_iterative(x, y, probe.RIDGES, 1e-10)
    z = x.toarray() - x.toarray().mean(axis=0)
    direct = [np.linalg.solve(z.T @ z + a * np.eye(x.shape[1]), z.T @ y) for a in probe.RIDGES]
    for a, b, c in zip(exact, steps, direct, strict=True):
        assert a == pytest.approx(c, abs=1e-9)
        assert b == pytest.approx(c, abs=1e-6)


def test_wide_codebooks_take_the_iterative_path_to_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, sizes, y = planted()
    dense = probe.probe_nmse(codes, sizes, {"y": y}, np.random.default_rng(1))["y"]
    monkeypatch.setattr(probe, "DENSE_COLUMNS", 0)
    assert probe.probe_nmse(codes, sizes, {"y": y}, np.random.default_rng(1))["y"] == pytest.approx(dense, abs=1e-3)


def test_targets_share_the_call_but_not_the_result() -> None:
    codes, sizes, y = planted()
    flat = np.ones((len(y), 2))
    together = probe.probe_nmse(codes, sizes, {"a": y, "b": y * 100, "flat": flat}, np.random.default_rng(1))
    assert set(together) == {"a", "b"}
    assert together["a"] == pytest.approx(together["b"], rel=1e-4)


def test_degenerate_tables() -> None:
    y = np.random.default_rng(0).standard_normal((6, 2))
    generator = np.random.default_rng(0)
    assert probe.probe_nmse(np.zeros((6, 1), np.int32), np.array([3]), {"y": y}, generator) == {"y": 1.0}
    assert probe.probe_nmse(np.full((6, 1), -1, np.int32), np.array([3]), {"y": y}, generator) == {"y": 1.0}
    two = np.array([[0], [0], [0], [1], [1], [1]], np.int32)
    assert probe.probe_nmse(two, np.array([3]), {"y": y}, generator)["y"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="probe target y"):
        probe.probe_nmse(two, np.array([3]), {"y": y[:4]}, generator)
