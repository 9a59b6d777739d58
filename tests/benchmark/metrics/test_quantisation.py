"""The whole set of numbers of one SID table: names, absence rules, n, and agreement with the parts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sidbench.benchmark.metrics.catalogue import describe
from sidbench.benchmark.metrics.quantisation import quantisation_metrics
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import SemanticIds

N = 60
ALWAYS = {
    "entropy",
    "entropy_min",
    "entropy_pad",
    "entropy_traffic",
    "perplexity_share",
    "joint_entropy",
    "utilisation",
    "collision_rate",
    "items_in_collision",
    "max_group",
    "expected_group",
    "expected_group_traffic",
    "frac_unique",
    "probe_text",
    "probe_behaviour",
    "seed_like",
    "knn_overlap_text",
    "knn_overlap_text_rare",
    "knn_overlap_behaviour",
    "knn_overlap_behaviour_rare",
    "entropy_head",
    "entropy_tail",
    "utilisation_head",
    "utilisation_tail",
    "items_in_collision_head",
    "items_in_collision_tail",
}


def features(train: bool = True) -> ItemFeatures:
    generator = np.random.default_rng(0)
    available = np.ones(N, bool)
    available[:10] = False
    behaviour = generator.standard_normal((N, 4)).astype(np.float32)
    behaviour[:10] = 0
    return ItemFeatures(
        {"text": generator.standard_normal((N, 6)).astype(np.float32), "behaviour": behaviour},
        {"text": np.ones(N, bool), "behaviour": available},
        np.arange(N) % 7 if train else np.zeros(N, np.int64),
        np.zeros(N, np.float32),
        "log_count",
        Sequences(np.array([0, 0]), np.zeros(0, np.int32)),
    )


def table(ordered: bool = True, **rest: object) -> SemanticIds:
    codes = np.random.default_rng(1).integers(0, 5, (N, 3)).astype(np.int32)
    return SemanticIds(codes, np.full(3, 5, np.int32), ordered, **rest)  # type: ignore[arg-type]


def test_names_vectors_and_n_without_reconstruction() -> None:
    metrics, vectors = quantisation_metrics(table(), features(), Rng(0))
    assert set(metrics) == ALWAYS | {"hourglass"}
    assert metrics["probe_behaviour"].n == 50
    assert metrics["probe_text"].n == metrics["entropy"].n == N
    assert all(m.low is None and np.isfinite(m.value) for m in metrics.values())
    assert all(describe(name) for name in metrics)
    assert all(len(v) == 3 for v in vectors.values())
    assert metrics["entropy"].value == pytest.approx(np.mean(vectors["entropy_by_position"]))
    assert metrics["seed_like"].value == pytest.approx((metrics["probe_text"].value + metrics["probe_behaviour"].value) / 2)


def test_unordered_sids_have_no_prefix_measures() -> None:
    metrics, vectors = quantisation_metrics(table(ordered=False), features(), Rng(0))
    assert "hourglass" not in metrics
    assert {"entropy_by_position", "utilisation_by_position", "gini_by_position"} <= set(vectors)
    assert not {"prefixes_by_position", "conditional_entropy_by_position"} & set(vectors)


def test_no_training_interaction_leaves_traffic_numbers_out() -> None:
    metrics, _ = quantisation_metrics(table(), features(train=False), Rng(0))
    stratified = {name for name in ALWAYS if name.endswith(("_head", "_tail"))}  # all items are cold: one stratum
    assert set(metrics) == (ALWAYS | {"hourglass"}) - {"entropy_traffic", "expected_group_traffic"} - stratified


def test_reconstruction_is_judged_on_available_items_only() -> None:
    f = features()
    guess = f.modalities["behaviour"].copy()
    guess[:10] = 99  # not available: must not count
    metrics, _ = quantisation_metrics(table(reconstruction={"behaviour": guess}), f, Rng(0))
    assert metrics["nmse_behaviour"].value == 0
    assert metrics["nmse_behaviour"].n == 50
    assert metrics["cos_behaviour"].value == pytest.approx(1)
    assert metrics["kendall_tau"].value == metrics["kendall_tau_behaviour"].value == pytest.approx(1)
    assert "nmse_text" not in metrics
    assert metrics["seed_like"].value == pytest.approx(metrics["probe_text"].value / 2)


def test_same_seed_same_numbers() -> None:
    first, second = (quantisation_metrics(table(), features(), Rng(3)) for _ in range(2))
    assert first == second


def test_planted_truth_and_strata_stand_on_the_record() -> None:
    planted = planted_features(seed=3)
    assert planted.categories is not None
    names = sorted(set(planted.categories))
    tops = sorted({path[0] for path in names})
    codes = np.array([[tops.index(path[0]), names.index(path)] for path in planted.categories], np.int32)
    sids = SemanticIds(codes, codes.max(axis=0) + 1, True)
    metrics, vectors = quantisation_metrics(sids, planted, Rng(0))
    assert metrics["cat_ami"].value == metrics["cat_nmi"].value == metrics["cat_ami_rare"].value == pytest.approx(1)
    assert vectors["cat_nmi_by_position"][0] < 0.9 < vectors["cat_nmi_by_position"][1]
    assert metrics["cooc_lift"].value > 3.5  # sequences stay within one of four tops
    shuffled = SemanticIds(codes[np.random.default_rng(0).permutation(len(codes))], sids.sizes, True)
    by_chance, _ = quantisation_metrics(shuffled, planted, Rng(0))
    assert metrics["knn_overlap_text"].value > 4 * by_chance["knn_overlap_text"].value
    assert metrics["knn_overlap_behaviour"].n == 216  # cold items have no behaviour
    rare = planted.train_counts <= 5
    assert metrics["knn_overlap_text_rare"].n == metrics["cat_ami_rare"].n == rare.sum()
    assert metrics["entropy_head"].n == 60
    assert all(describe(name) for name in metrics)


def test_sids_with_pad_show_their_activity() -> None:
    codes = np.random.default_rng(1).integers(0, 5, (N, 3)).astype(np.int32)
    codes[:, 2] = -1
    codes[features().train_counts < 3, 1] = -1
    weights = np.where(codes >= 0, 0.5, 0).astype(np.float32)
    metrics, vectors = quantisation_metrics(SemanticIds(codes, np.full(3, 5, np.int32), False, weights), features(), Rng(0))
    assert metrics["dead_positions"].value == pytest.approx(1 / 3)
    assert metrics["active_count_spearman"].value > 0.8
    assert len(vectors["active_codes_by_quartile"]) == 4
    assert vectors["weight_by_quartile"] == (0.5,) * 4


def test_mismatches_are_named() -> None:
    with pytest.raises(InputError, match="reconstruction of text"):
        quantisation_metrics(table(reconstruction={"text": np.zeros((N, 2), np.float32)}), features(), Rng(0))
    with pytest.raises(InputError, match="SIDs and features"):
        quantisation_metrics(table(), features().take(np.arange(5)), Rng(0))


def test_metrics_import_no_torch() -> None:
    code = (
        "import sys, sidbench.benchmark.metrics.quantisation, sidbench.benchmark.metrics.auc; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
