"""OPQ: orthogonality, PQ as its bound, k-means as its limit, parity with faiss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.blocks.clustering.kmeans import kmeans
from sidbench.tokenizers.opq import Opq, OpqConfig

RUNTIME = local_runtime()


def correlated(n: int = 2000, width: int = 16, seed: int = 0) -> ItemFeatures:
    """Items whose text has strongly correlated coordinates, so that a rotation helps."""
    draw = np.random.default_rng(seed)
    spectrum = 0.7 ** np.arange(width)
    mixing = np.linalg.qr(draw.standard_normal((width, width)))[0]
    rows = (draw.standard_normal((n, width)) * spectrum) @ mixing
    features = planted_features(n, modalities=("text",))
    return replace(features, modalities={"text": rows.astype(np.float32)}, train_counts=np.ones(n, np.int64))


def fit(features: ItemFeatures, **settings: object) -> tuple[Opq, SemanticIds]:
    opq = Opq(OpqConfig(**{"code_length": 4, "codebook_size": 16, "alternations": 20, **settings}))  # type: ignore[arg-type]
    opq.fit(features, Rng(0), RUNTIME)
    return opq, opq.encode(features, RUNTIME)


def error(features: ItemFeatures, sids: SemanticIds) -> float:
    return float(((features.modalities["text"] - sids.reconstruction["text"]) ** 2).sum(1).mean())


def test_rotation_is_orthogonal() -> None:
    opq, _ = fit(correlated())
    np.testing.assert_allclose(opq.rotation_.T @ opq.rotation_, np.eye(16), atol=1e-5)
    np.testing.assert_allclose(opq.basis_.T @ opq.basis_, np.eye(16), atol=1e-5)


@pytest.mark.parametrize("init", ["random", "balanced"])
def test_alternation_lowers_the_distortion_of_pq(init: str) -> None:
    features = correlated()
    plain = fit(features, init=init, alternations=0)[1]  # product quantisation with a fixed rotation
    optimised = fit(features, init=init)[1]
    assert error(features, optimised) < error(features, plain)


def test_one_sub_space_is_k_means() -> None:
    features = correlated(800)
    text = RUNTIME.tensor(features.modalities["text"])
    clusters = np.mean([kmeans(text, 16, Rng(s), RUNTIME, tolerance=0.0).inertia for s in range(4)]) / 800
    sids = fit(features, code_length=1, alternations=3, first_iterations=100)[1]
    assert error(features, sids) == pytest.approx(clusters, rel=0.03)


def test_distortion_is_no_worse_than_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    features = correlated(1500)
    x = features.modalities["text"] - features.modalities["text"].mean(0)
    rotation = faiss.OPQMatrix(16, 2, 16)
    rotation.niter = 10
    rotation.train(x)
    quantiser = faiss.ProductQuantizer(16, 2, 8)
    quantiser.train(rotation.apply(x))
    decoded = rotation.reverse_transform(quantiser.decode(quantiser.compute_codes(rotation.apply(x))))
    theirs = float(((x - decoded) ** 2).sum(1).mean())
    sids = fit(features, code_length=2, codebook_size=256, alternations=10)[1]
    assert error(features, sids) <= 1.01 * theirs


def test_reconstruction_is_the_point_of_the_codes() -> None:
    features = planted_features(200)
    sids = fit(features)[1]
    same = sids.distinct()[1]
    for rows in sids.reconstruction.values():
        assert len(np.unique(rows.round(5), axis=0)) <= len(np.unique(same))
    assert {m: e.shape for m, e in sids.reconstruction.items()} == {"text": (200, 24), "vision": (200, 16)}


def test_width_is_the_largest_multiple_of_the_code_length() -> None:
    features = planted_features(200)  # 40 content dimensions
    assert fit(features, code_length=6)[0].rotation_.shape == (36, 36)
    assert fit(features, code_length=6, reduce_dim=20)[0].rotation_.shape == (18, 18)
    with pytest.raises(InputError, match="at most 40"):
        fit(features, code_length=41)


def test_whitening_is_undone_in_the_reconstruction() -> None:
    features = correlated()
    variance = float(features.modalities["text"].var(0).sum())
    assert error(features, fit(features, whiten=True)[1]) < 0.6 * variance


@pytest.mark.parametrize("whiten", [True, False])
def test_codes_are_nearest_ones_in_the_whitened_space_or_in_that_of_the_axes(whiten: bool) -> None:
    features = correlated(600)
    opq, sids = fit(features, whiten=whiten, alternations=3)
    x = features.modalities["text"] - features.modalities["text"].mean(0)
    axes = x @ opq.basis_
    deviations = axes.std(0) if whiten else np.ones(16)
    assert axes.std(0).max() > 10 * axes.std(0).min()
    np.testing.assert_allclose(opq.scale_, deviations, rtol=1e-3)
    rotated = (axes / deviations) @ opq.rotation_
    decoded = np.zeros_like(rotated)
    for p, block in enumerate(np.split(rotated, 4, axis=1)):
        squared = ((block[:, None] - opq.centres_[p]) ** 2).sum(2)
        chosen = squared[np.arange(600), sids.codes[:, p]]
        np.testing.assert_allclose(chosen, squared.min(1), atol=1e-4)
        decoded[:, 4 * p : 4 * p + 4] = opq.centres_[p][sids.codes[:, p]]
    back = (decoded @ opq.rotation_.T * deviations) @ opq.basis_.T + features.modalities["text"].mean(0)
    np.testing.assert_allclose(sids.reconstruction["text"], back, atol=1e-3)


def test_unseen_items_are_quantised_about_as_well() -> None:
    features = correlated(2500)
    opq = Opq(OpqConfig(code_length=4, codebook_size=16, alternations=10))
    opq.fit(features.take(np.arange(2000)), Rng(0), RUNTIME)
    new = features.take(np.arange(2000, 2500))
    seen = features.take(np.arange(2000))
    assert error(new, opq.encode(new, RUNTIME)) < 1.2 * error(seen, opq.encode(seen, RUNTIME))


def test_state_of_another_config_is_refused() -> None:
    opq, _ = fit(planted_features(200))
    other = Opq(OpqConfig(code_length=4, codebook_size=17))
    with pytest.raises(InputError, match=r"entry centres; got shape \(4, 16, 10\); wanted shape \(4, 17, 10\)"):
        other.load_state_dict(opq.state_dict())


def test_other_modalities_at_encode_are_refused() -> None:
    opq, _ = fit(planted_features(200))
    with pytest.raises(InputError, match="those of the fit"):
        opq.encode(planted_features(200, modalities=("text",)), RUNTIME)
