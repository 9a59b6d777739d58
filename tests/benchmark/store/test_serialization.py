"""Values survive their files unchanged: shapes down to scalars, dtypes, absent fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sidbench.benchmark.store.serialization import load_dataset, load_sids, load_state, save_dataset, save_sids, save_state
from sidbench.datasets.base import Catalog, Dataset, DatasetCard, Interactions
from sidbench.tokenizers.base import SemanticIds


def test_state_keeps_shapes_and_dtypes(tmp_path: Path) -> None:
    state = {
        "scalar": np.asarray(1.5, np.float32),
        "row": np.arange(3),
        "turned": np.ones((2, 3), np.float32).T,
        "flag": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_state(state, {"n_parameters": 9}, tmp_path)
    loaded, facts = load_state(tmp_path)
    assert facts == {"n_parameters": 9}
    for name, array in state.items():
        assert loaded[name].shape == array.shape and loaded[name].dtype == array.dtype
        assert np.array_equal(loaded[name], array)


@pytest.mark.parametrize("weights", [None, np.array([[1.0, 0.5], [0.2, 0.0]], np.float32)])
def test_sids_round_trip(tmp_path: Path, weights: np.ndarray | None) -> None:
    sids = SemanticIds(
        np.array([[0, 2], [1, -1]], np.int32),
        np.array([2, 3], np.int32),
        False,
        weights,
        {"text": np.eye(2, dtype=np.float32)},
        ("shared", "text"),
    )
    save_sids(sids, tmp_path)
    back = load_sids(tmp_path)
    assert np.array_equal(back.codes, sids.codes) and back.codes.dtype == np.int32
    assert back.position_names == sids.position_names and back.ordered is False
    assert (back.weights is None) == (weights is None)
    assert np.array_equal(back.reconstruction["text"], np.eye(2))


@pytest.mark.parametrize("full", [True, False])
def test_dataset_round_trip_keeps_the_content_hash(tmp_path: Path, full: bool) -> None:
    events = Interactions(
        np.array([0, 0, 1], np.int32),
        np.array([1, 0, 1], np.int32),
        np.array([3, 4, 5], np.int64),
        np.array([1, 5, 3], np.float32) if full else None,
        np.arange(3, dtype=np.int64),
    )
    catalog = Catalog(
        ("a", "b"),
        {"title": ("x", "")} if full else {},
        (("A", "B"), ()) if full else None,
        np.array([1.0, np.nan], np.float32) if full else None,
        ("p/1.jpg", "") if full else None,
        Path("posters.zip") if full else None,
        np.zeros((2, 3, 3, 3), np.uint8) if full else None,
    )
    dataset = Dataset(
        events,
        catalog,
        ("u", "v"),
        DatasetCard("d", "s", "l", "c", {"users": 2}, ("5-core",), {} if full else {"rating": "none"}, {"f": "0"}, ("n",)),
    )
    save_dataset(dataset, tmp_path)
    back = load_dataset(tmp_path)
    assert back.content_hash() == dataset.content_hash()
    assert back.card == dataset.card and back.catalog.image_root == catalog.image_root
