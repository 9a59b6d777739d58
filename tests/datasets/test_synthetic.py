"""The planted catalogue: what it plants can be recovered, and its oracle is exact and unbeaten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score

from sidbench.datasets.base import Dataset, FileLocator, PlantedTruth, check_dataset_values
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.planted.oracle import (
    expected_auc,
    expected_metrics,
    oracle_bounds,
    oracle_ranking,
    oracle_ranks,
)
from sidbench.datasets.planted.transition_model import TransitionModel, build_transition_model
from sidbench.datasets.planted.tree import build_tree
from sidbench.datasets.splits.global_time import global_time
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.datasets.synthetic import Synthetic, SyntheticConfig


class NoFiles(FileLocator):
    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        raise AssertionError("the planted catalogue must not look for files")


def generate(config: SyntheticConfig) -> tuple[Dataset, PlantedTruth]:
    plugin = Synthetic(config)
    return plugin.load(NoFiles()), plugin.truth()


SMALL = SyntheticConfig(**Synthetic.budgets["smoke"])


@pytest.fixture(scope="module")
def default() -> tuple[Dataset, PlantedTruth]:
    return generate(SyntheticConfig())


@pytest.fixture(scope="module")
def small() -> tuple[Dataset, PlantedTruth]:
    return generate(SMALL)


@pytest.fixture(scope="module")
def law() -> TransitionModel:
    tree = build_tree(40, (3, 2), 0.7, Rng(1))
    return build_transition_model(tree, 6, transition=0.3, noise=0.1, tail_noise=0.4, rng=Rng(1))


# -- the dataset -------------------------------------------------------------------------------------------------------
def test_values_are_valid_and_counted(default: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = default
    x = check_dataset_values(dataset).interactions
    assert dataset.n_items == len(dataset.catalog.text["title"]) == len(truth.path) == 1000
    assert dataset.catalog.image_arrays is not None
    assert dataset.catalog.image_arrays.shape == (1000, 24, 24, 3)
    assert dataset.catalog.image_arrays.dtype == np.uint8
    assert list(dataset.catalog.keys) == sorted(set(dataset.catalog.keys))
    lengths = np.bincount(x.user, minlength=dataset.n_users)
    assert lengths.min() == 5
    assert lengths.mean() == pytest.approx(10.0, abs=5 * lengths.std() / np.sqrt(3000))
    assert x.rating is not None
    assert set(x.rating.tolist()) == {1, 2, 3, 4, 5}
    counts = dataset.card.counts
    assert counts["noisy_events"] == truth.noisy.sum()
    assert counts["repeated_pairs"] == len(x) - len(set(zip(x.user.tolist(), x.item.tolist(), strict=True)))
    assert all(title for title in dataset.catalog.text["title"])


def test_seed_decides_everything() -> None:
    config = replace(SMALL, n_users=50)
    hashes = {generate(config)[0].content_hash(), generate(config)[0].content_hash()}
    assert len(hashes) == 1
    assert generate(replace(config, seed=1))[0].content_hash() not in hashes


def test_truth_needs_no_load_and_agrees_with_it() -> None:
    alone, (_, after_load) = Synthetic(SMALL).truth(), generate(SMALL)
    np.testing.assert_array_equal(alone.path, after_load.path)
    np.testing.assert_array_equal(alone.noisy, after_load.noisy)


def test_targets_are_the_same_under_every_tie_rule(default: tuple[Dataset, PlantedTruth]) -> None:
    dataset, _ = default
    x = dataset.interactions
    assert np.any((np.diff(x.user) == 0) & (np.diff(x.timestamp) == 0))  # there are ties to break
    file, shuffled = (leave_last_out(x, dataset.n_users, ties, Rng(5)) for ties in ("file", "shuffled"))
    assert not np.array_equal(file.train.row, shuffled.train.row)
    np.testing.assert_array_equal(file.test.row, shuffled.test.row)
    np.testing.assert_array_equal(file.validation.row, shuffled.validation.row)
    last = np.concatenate([np.diff(file.train.user) > 0, [True]])  # what stands before each validation target
    np.testing.assert_array_equal(file.train.row[last], shuffled.train.row[last])


def test_global_split_leaves_mostly_known_users_and_items(default: tuple[Dataset, PlantedTruth]) -> None:
    split = global_time(default[0].interactions)
    assert np.mean(np.isin(split.test.user, split.train.user)) > 0.9
    assert np.mean(np.isin(split.test.item, split.train.item)) > 0.95


def test_pictures_can_be_left_out() -> None:
    dataset, _ = generate(replace(SMALL, n_users=20, picture_size=0))
    assert dataset.catalog.image_arrays is None
    assert "vision" in dataset.card.absent


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branching": (8, 8, 8)}, "512 leaves"),
        ({"branching": ()}, "branching"),
        ({"branching": (4, 1)}, "two children"),
        ({"transition": 0.6, "noise": 0.4}, "sum below 1"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Synthetic(replace(SMALL, **change)).truth()
    with pytest.raises(InputError, match="n_items"):
        SyntheticConfig(n_items=1)


@pytest.mark.parametrize("branching", [(2,), (5, 3), (2, 2, 2, 2, 2)])
def test_trees_of_other_depths_work(branching: tuple[int, ...]) -> None:
    dataset, truth = generate(replace(SMALL, branching=branching, n_users=20))
    check_dataset_values(dataset)
    assert truth.path.shape == (200, len(branching))
    assert truth.path.max(axis=0).tolist() == [b - 1 for b in branching]
    assert truth.next_item(np.arange(20), np.arange(20)).sum(axis=1) == pytest.approx(np.ones(20), abs=1e-5)


# -- the tree can be recovered -----------------------------------------------------------------------------------------
def recovered(rows: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """NMI of k-means on normalised rows with the labels, and with the clusters shuffled."""
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    clusters = KMeans(len(np.unique(labels)), n_init=3, random_state=0).fit_predict(rows)
    shuffled = np.random.default_rng(0).permutation(clusters)
    return tuple(float(normalized_mutual_info_score(labels, c)) for c in (clusters, shuffled))  # type: ignore[return-value]


def test_latents_texts_and_pictures_reveal_the_tree(small: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = small
    leaf = np.unique(truth.path, axis=0, return_inverse=True)[1].reshape(-1)
    root = truth.path[:, 0]
    catalog = dataset.catalog
    assert catalog.categories is not None
    assert catalog.image_arrays is not None
    latent = Synthetic(SMALL)._transition_model.tree.latent
    words = [" ".join((title, *path)) for title, path in zip(catalog.text["title"], catalog.categories, strict=True)]
    text = TruncatedSVD(50, random_state=0).fit_transform(TfidfVectorizer().fit_transform(words))
    titles = TruncatedSVD(50, random_state=0).fit_transform(TfidfVectorizer().fit_transform(catalog.text["title"]))
    pixels = catalog.image_arrays.reshape(len(leaf), -1) / 255.0
    for rows, labels, at_least in (
        (latent, leaf, 0.9),
        (latent, root, 0.8),
        (text, leaf, 0.85),
        (text, root, 0.7),
        (titles, leaf, 0.65),
        (pixels, root, 0.9),
        (pixels, leaf, 0.5),
    ):
        found, by_chance = recovered(rows, labels)
        assert found > at_least
        assert found > by_chance + 0.15
        assert by_chance < 0.45


def test_categories_follow_the_path(small: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = small
    names: dict[tuple[int, ...], str] = {}
    lengths = []
    for path, categories in zip(truth.path.tolist(), dataset.catalog.categories or (), strict=True):
        lengths.append(len(categories))
        for depth, name in enumerate(categories, start=1):
            assert names.setdefault(tuple(path[:depth]), name) == name
    assert len(set(names.values())) == len(names)
    assert set(lengths) == {2, 3}
    assert 0.05 < np.mean(np.array(lengths) == 2) < 0.25


# -- the law is exact --------------------------------------------------------------------------------------------------
def slow_law(law: TransitionModel, user: int, last: int) -> np.ndarray:
    """Equations (1)-(3) written out item by item."""
    tree, n = law.tree, law.tree.n_items
    path = tree.path()
    preferred = np.zeros(n)
    for leaf, weight in zip(law.interest[user], law.interest_weight[user], strict=True):
        home = path[np.flatnonzero(tree.leaf == leaf)[0]]
        for depth, blur in enumerate(law.blur, start=1):
            under = (path[:, :depth] == home[:depth]).all(axis=1)
            preferred += weight * blur * under * tree.popularity / tree.popularity[under].sum()
    follow = np.zeros(n)
    if last >= 0:
        for j, weight in zip(law.successor[last], (0.4, 0.3, 0.2, 0.1), strict=True):
            follow[j] += weight
    alpha = law.transition if last >= 0 else 0.0
    proposal = alpha * follow + (1 - alpha - law.noise) * preferred + law.noise * tree.popularity
    tail_popularity = tree.popularity * tree.tail / tree.popularity[tree.tail].sum()
    kept = proposal * np.where(tree.tail, 1 - law.tail_noise, 1)
    return kept + law.tail_noise * proposal[tree.tail].sum() * tail_popularity


def test_next_item_equals_the_equations(law: TransitionModel) -> None:
    users, last = np.array([0, 1, 2, 3, 4, 5, 0]), np.array([-1, 0, 5, 17, 39, -1, 8])
    got = law.next_item(users, last)
    assert got.dtype == np.float32
    for row, user, item in zip(got, users, last, strict=True):
        expected = slow_law(law, int(user), int(item))
        assert expected.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(row, expected, atol=1e-7)


@pytest.mark.parametrize(("user", "last"), [(0, -1), (1, 7), (4, 30)])
def test_draws_follow_the_law(law: TransitionModel, user: int, last: int) -> None:
    n = 60_000
    items, noisy = law.draw_next(np.full(n, user), np.full(n, last), Rng(9).child(user).numpy())
    expected = n * slow_law(law, user, last)
    counts = np.bincount(items, minlength=law.tree.n_items)
    statistic = np.sum((counts - expected) ** 2 / expected)
    assert statistic < chi2.ppf(1 - 1e-4, law.tree.n_items - 1)
    # the test has the power to see a wrong law: one with the tail noise switched off fails it
    wrong = n * slow_law(replace(law, tail_noise=0.0), user, last)
    assert np.sum((counts - wrong) ** 2 / wrong) > 2 * chi2.ppf(1 - 1e-4, law.tree.n_items - 1)
    in_tail = law.tree.tail[items]
    # noise in the head comes from eps alone; in the tail rho of all events is noise on top of what eps brought
    head_share = law.noise * law.tree.popularity[~law.tree.tail].sum()
    assert np.sum(noisy & ~in_tail) / n == pytest.approx(head_share, abs=5 * np.sqrt(head_share / n))
    assert noisy[in_tail].mean() > law.tail_noise


def test_generated_events_follow_the_law(default: tuple[Dataset, PlantedTruth]) -> None:
    """Drawn items have mean probability sum p^2 and a log-loss equal to the entropy, within 5 standard errors."""
    dataset, truth = default
    x = dataset.interactions
    step = np.flatnonzero(np.concatenate([[False], (np.diff(x.user) == 0) & (np.diff(x.timestamp) > 0)]))[::5]
    p = truth.next_item(x.user[step], x.item[step - 1]).astype(np.float64)
    drawn = p[np.arange(len(step)), x.item[step]]
    for value, expected in ((drawn, (p**2).sum(axis=1)), (-np.log(drawn), -(p * np.log(p)).sum(axis=1))):
        difference = value - expected
        assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(difference))


def test_tail_events_are_noisier(default: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = default
    tail = Synthetic(SyntheticConfig())._transition_model.tree.tail[dataset.interactions.item]
    assert truth.noisy[~tail].mean() == pytest.approx(0.1, abs=0.02)
    assert 0.3 < truth.noisy[tail].mean() < 0.45
    clean, clean_truth = generate(replace(SMALL, noise=0.0, tail_noise=0.0))
    assert not clean_truth.noisy.any()
    assert clean.card.counts["noisy_events"] == 0


def test_ratings_follow_the_like_probability(default: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = default
    x = dataset.interactions
    assert x.rating is not None
    liked, p = x.rating > 3, truth.like(x.user, x.item).astype(np.float64)
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        error = np.sqrt(np.sum(p[inside] * (1 - p[inside]))) / inside.sum()
        assert abs(liked[inside].mean() - p[inside].mean()) < 5 * error
    assert 0.55 < liked.mean() < 0.8
    assert roc_auc_score(liked, p) == pytest.approx(expected_auc(p, p), abs=0.015)
    assert truth.like(x.user[:0], x.item[:0]).shape == (0,)


def test_out_of_range_queries_are_refused(law: TransitionModel) -> None:
    with pytest.raises(InputError, match="user index"):
        law.next_item(np.array([6]), np.array([0]))
    with pytest.raises(InputError, match="item index"):
        law.like(np.array([0]), np.array([-1]))


# -- the oracle --------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_no_ranking_beats_the_oracle(seed: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.full(12, draw.choice([0.1, 1.0])), size=3)
    p[0] = np.round(p[0], 1) + 0.01  # some ties
    best = expected_metrics(p, oracle_ranking(p, k))
    other = expected_metrics(p, np.stack([draw.permutation(12)[:k] for _ in range(3)]))
    for name in ("recall", "ndcg"):
        assert np.all(other[name] <= best[name] + 1e-12)
    np.testing.assert_allclose(best["recall"], np.sort(p, axis=1)[:, -k:].sum(axis=1))


def test_expected_metrics_hand_worked() -> None:
    p = np.array([[0.5, 0.2, 0.3]])
    got = expected_metrics(p, np.array([[2, 0]]))
    assert got["recall"][0] == pytest.approx(0.8)
    assert got["ndcg"][0] == pytest.approx(0.3 + 0.5 / np.log2(3))
    assert oracle_ranking(p, 3).tolist() == [[0, 2, 1]]
    with pytest.raises(InputError, match="distinct"):
        expected_metrics(p, np.array([[1, 1]]))


def test_oracle_stands_at_its_bound_and_beats_popularity(default: tuple[Dataset, PlantedTruth]) -> None:
    dataset, truth = default
    split = leave_last_out(dataset.interactions, dataset.n_users, "shuffled", Rng(0))
    user, last, target = split.test.user, split.validation.item, split.test.item
    bound = oracle_bounds(truth, user, last, (10, 20))
    ranks = oracle_ranks(truth, user, last, target)
    reached = float(np.mean(ranks["better"] < 10))
    assert reached == pytest.approx(bound["recall@10"], abs=4 * np.sqrt(0.25 / len(user)))
    popular = np.argsort(-np.bincount(split.train.item, minlength=dataset.n_items))[:10]
    popularity = float(np.mean(np.isin(target, popular)))
    assert reached > 4 * popularity
    assert 0.3 < bound["recall@10"] < 0.7  # learnable, yet far from certain
    assert bound["ndcg@10"] < bound["recall@10"] < bound["recall@20"]
    assert np.all(ranks["tied"] >= 1)
    # knowing the law of somebody else's history is worth little
    stranger = oracle_ranks(truth, np.roll(user, 1), np.roll(last, 1), target)
    assert np.mean(stranger["better"] < 10) < 0.5 * reached


def test_expected_auc_against_enumeration_and_optimality() -> None:
    draw = np.random.default_rng(0)
    like, score = draw.random(40), np.round(draw.random(40), 1)
    pairs = right = 0.0
    for i in range(40):
        for j in range(40):
            if i != j:
                weight = like[i] * (1 - like[j])
                pairs += weight
                right += weight * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    assert expected_auc(score, like) == pytest.approx(right / pairs)
    assert expected_auc(np.zeros(40), like) == pytest.approx(0.5)
    best = expected_auc(like, like)
    assert all(expected_auc(draw.permutation(like), like) <= best for _ in range(50))
    assert expected_auc(-like, like) == pytest.approx(1 - best)
    with pytest.raises(InputError, match="both classes"):
        expected_auc(np.arange(3), np.ones(3))


def test_expected_auc_equals_the_mean_of_realised_aucs() -> None:
    draw = np.random.default_rng(1)
    like, score = draw.beta(2, 1, 400), draw.random(400)
    score += like
    aucs = [roc_auc_score(draw.random(400) < like, score) for _ in range(300)]
    assert np.mean(aucs) == pytest.approx(expected_auc(score, like), abs=5 * np.std(aucs) / np.sqrt(300) + 1 / 400)
