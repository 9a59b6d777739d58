"""Scaling, assembly, provenance, and the choice of encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.base import Catalog, Dataset, DatasetCard, FileLocator, Interactions
from sidbench.datasets.features.assemble import FeaturesConfig, assemble_features
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.features.encode import content_files, encode_content
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences

COUNTS = np.array([0, 1, 3, 7])
SEQUENCES = Sequences(np.array([0, 3, 11]), np.array([1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3], np.int32))
TEXT = np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [9.0, 9.0]])
BEHAVIOUR = np.array([[9.0, 9.0, 9.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
ALL = np.ones(4, bool)


def _features(**changes: Any) -> ItemFeatures:
    arguments = {
        "raw": {"text": TEXT, "behaviour": BEHAVIOUR},
        "available": {"text": np.array([True, True, True, False])},
        "absent": {"vision": "no pictures"},
        "train_counts": COUNTS,
        "sequences": SEQUENCES,
    }
    return assemble_features(**(arguments | changes))


def test_scaling_divides_by_one_scalar_and_keeps_the_geometry() -> None:
    scaled, scale = scale_modality("text", TEXT, np.array([True, True, True, False]), 4)
    assert scale == pytest.approx(np.sqrt((25 + 1 + 100) / 3))  # squared norms of the available rows: 25, 1, 100
    np.testing.assert_allclose(scaled[:3], TEXT[:3] / np.sqrt(42.0), rtol=1e-6)
    assert not scaled[3].any() and scaled.dtype == np.float32
    assert np.mean((scaled[:3] ** 2).sum(axis=1)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("embeddings", "available", "message"),
    [
        (TEXT[:3], ALL, r"text embeddings; got shape \(3, 2\); wanted \(4, dimensions\)"),
        (TEXT[:, 0], ALL, r"text embeddings; got shape \(4,\)"),
        (np.where(TEXT == 8, np.nan, TEXT), ALL, r"NaN or infinite values in 1 of 4 rows \(first: item 2\)"),
        (np.ones((4, 2)), ALL, "got the same vector for every item; wanted vectors that differ"),
        (TEXT, ~ALL, "got no available item; wanted at least one"),
    ],
)
def test_unusable_embeddings_are_refused(embeddings: np.ndarray, available: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale_modality("text", embeddings, available, 4)


def test_assembly_scales_each_modality_and_reads_richness_from_raw_norms() -> None:
    features = _features(richness="norm", notes={"text_truncated": 2})
    for name, array in features.modalities.items():
        assert np.mean((array[features.available[name]] ** 2).sum(axis=1)) == pytest.approx(1.0, rel=1e-6)
        assert not array[~features.available[name]].any()
    assert features.available["behaviour"].tolist() == [False, True, True, True]  # never trained, not available
    assert features.notes["N_min"] == pytest.approx(1.02)  # norms 1, 2, 5 as they were, not divided by the scale
    assert features.scales["behaviour"] == pytest.approx(np.sqrt((1 + 4 + 25) / 3))
    assert features.notes["text_truncated"] == 2.0 and features.notes["text_items_available"] == 3.0
    assert features.absent == {"vision": "no pictures"} and features.dims() == {"text": 2, "behaviour": 3}
    assert features.train_counts.dtype == np.int64


def test_without_behaviour_richness_is_the_count() -> None:
    features = _features(raw={"text": TEXT}, absent={"vision": "-", "behaviour": "-"})
    assert features.richness_proxy == "log_count"
    np.testing.assert_allclose(features.richness, [0, 0, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"raw": {"text": TEXT + [[0, 1e-3]], "behaviour": BEHAVIOUR}},
        {"raw": {"text": TEXT * 2, "behaviour": BEHAVIOUR}},
        {"available": {"text": ALL}},
        {"absent": {"vision": "switched off"}},
        {"train_counts": np.array([0, 1, 4, 7])},
        {"sequences": Sequences(SEQUENCES.indptr, SEQUENCES.items[::-1].copy())},
        {"sequences": Sequences(np.array([0, 4, 11]), SEQUENCES.items)},
        {"richness": "log_count"},
        {"categories": (("a",), ("b",), (), ("c",))},
        {"item_text": ("a", "b", "", "c")},
        {"notes": {"text_truncated": 1}},
    ],
)
def test_provenance_changes_with_anything_a_later_stage_can_read(change: dict[str, Any]) -> None:
    assert _features().provenance == _features().provenance
    assert _features(**change).provenance != _features().provenance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"absent": {"text": "-"}}, r"\['text'\] both present and absent"),
        ({"available": {"text": np.ones(3, bool)}}, r"availability of text; got bool of shape \(3,\)"),
        ({"available": {"text": np.ones(4)}}, "availability of text; got float64"),
        ({"item_text": ("a",)}, "item_text; got 1 entries; wanted 4"),
        ({"richness": "size"}, "richness proxy; got 'size'"),
    ],
)
def test_inconsistent_parts_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _features(**change)


def test_settings_are_checked() -> None:
    assert FeaturesConfig(**FeaturesConfig.budgets["smoke"]).text_dim == 32
    for wrong in ({"text": "bert"}, {"vision_dim": 0}, {"richness": "popularity"}):
        with pytest.raises(InputError, match="setting FeaturesConfig"):
            FeaturesConfig(**wrong)
    assert all(f.metadata["doc"] for f in dataclasses.fields(FeaturesConfig))


class _Folder(FileLocator):
    """Files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        for name in names:
            if (self.root / dataset / name).is_file():
                return self.root / dataset / name
        if required:
            raise InputError(f"dataset {dataset}: {' or '.join(names)} not found")
        return None


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    def make(**catalog: Any) -> Dataset:
        events = Interactions(np.zeros(6, np.int32), np.arange(6, dtype=np.int32), np.arange(6), None, np.arange(6))
        words = ("red apple", "green apple", "red pear", "yellow pear", "green plum", "")
        fields: dict[str, Any] = {"keys": tuple("abcdef"), "text": {"title": words}} | catalog
        card = DatasetCard("toy", "", "", "", {}, absent={} if "image_arrays" in fields else {"vision": "no imUrl"})
        return Dataset(events, Catalog(**fields), ("u",), card)

    return make


def test_encoders_run_and_absence_is_declared_with_its_reason(
    dataset: Callable[..., Dataset], runtime: LocalRuntime, tmp_path: Path
) -> None:
    found = encode_content(dataset(), FeaturesConfig(text_dim=4), Rng(0), runtime, _Folder(tmp_path))
    assert set(found.raw) == {"text"} and found.absent == {"vision": "no imUrl"}  # behaviour is the pipeline's affair
    assert found.available["text"].tolist() == [True] * 5 + [False] and found.counts["items_without_text"] == 1
    assert found.item_text is not None and found.item_text[0] == "title: red apple."
    again = encode_content(dataset(), FeaturesConfig(text_dim=4), Rng(0), runtime, _Folder(tmp_path))
    np.testing.assert_array_equal(found.raw["text"], again.raw["text"])


def test_modalities_can_be_switched_off(dataset: Callable[..., Dataset], runtime: LocalRuntime, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
    config = FeaturesConfig(text="none", behaviour="none", vision_dim=3)
    found = encode_content(dataset(image_arrays=pictures), config, Rng(0), runtime, _Folder(tmp_path))
    assert found.absent == {
        "text": "switched off by features.text=none",
        "behaviour": "switched off by features.behaviour=none",
    }
    assert found.raw["vision"].shape == (6, 3)
    no_text = encode_content(dataset(text={}), FeaturesConfig(), Rng(0), runtime, _Folder(tmp_path))
    assert no_text.absent == {"text": "no item has text", "vision": "no imUrl"} and no_text.item_text is None


def test_precomputed_files_are_found_by_name_or_by_path(
    dataset: Callable[..., Dataset], runtime: LocalRuntime, tmp_path: Path
) -> None:
    (tmp_path / "toy" / "embeddings").mkdir(parents=True)
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.savez(tmp_path / "toy" / "embeddings" / "vision.npz", keys=np.array(list("fedcb")), embeddings=rows[:5])
    np.save(tmp_path / "own.npy", rows)
    config = FeaturesConfig(
        text="none", vision="precomputed", behaviour="precomputed", behaviour_path=str(tmp_path / "own.npy")
    )
    found = encode_content(dataset(), config, Rng(0), runtime, _Folder(tmp_path))
    np.testing.assert_array_equal(found.raw["behaviour"], rows)
    np.testing.assert_array_equal(found.raw["vision"][[5, 4, 3, 2, 1]], rows[:5])
    assert found.available["vision"].tolist() == [False] + [True] * 5 and found.absent.keys() == {"text"}
    assert {p.name for p in content_files(dataset(), config, _Folder(tmp_path)).values()} == {"vision.npz", "own.npy"}
    missing = FeaturesConfig(text="precomputed", text_path="lost.npy")
    with pytest.raises(InputError, match="lost.npy not found"):
        encode_content(dataset(), missing, Rng(0), runtime, _Folder(tmp_path))
