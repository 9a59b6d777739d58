"""Arrays become the features of the pipeline, or an error that names what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sidbench as sb
from sidbench.datasets.features.assemble import assemble_features
from sidbench.datasets.splits.base import Sequences

N = 12
DRAW = np.random.default_rng(0)
TEXT = DRAW.standard_normal((N, 4))
BEHAVIOUR = DRAW.standard_normal((N, 3))
COUNTS = np.arange(N)


def test_they_are_scaled_and_hashed_as_the_pipeline_does_it() -> None:
    found = sb.features_from_arrays(text=TEXT, behaviour=BEHAVIOUR, counts=COUNTS)
    wanted = assemble_features(
        raw={"text": TEXT, "behaviour": BEHAVIOUR},
        available={},
        absent={"vision": found.absent["vision"]},
        train_counts=COUNTS,
        sequences=Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)),
    )
    assert found.provenance == wanted.provenance
    assert found.modalities["text"].dtype == np.float32
    assert np.mean(np.sum(found.modalities["text"].astype(float) ** 2, axis=1)) == pytest.approx(1, abs=1e-6)
    assert not found.available["behaviour"][0] and not found.modalities["behaviour"][0].any()  # never seen in training


def test_counts_come_from_sequences() -> None:
    found = sb.features_from_arrays(text=TEXT, sequences=[[0, 1, 1], [], [11]])
    assert found.train_counts.tolist() == [1, 2, *[0] * 9, 1]
    assert found.sequences.of(0).tolist() == [0, 1, 1] and found.sequences.n_users == 3
    again = sb.features_from_arrays(text=TEXT, sequences=found.sequences, counts=found.train_counts.astype(float))
    assert again.provenance == found.provenance


def test_tensors_frames_and_whole_numbers_are_arrays() -> None:
    plain = sb.features_from_arrays(text=TEXT.astype(np.float32), counts=COUNTS)
    assert (
        sb.features_from_arrays(text=torch.tensor(TEXT, dtype=torch.float32), counts=COUNTS).provenance == plain.provenance
    )
    assert sb.features_from_arrays(vision=np.eye(N, dtype=np.uint8)).modalities["vision"].dtype == np.float32


def test_everything_else_an_item_has() -> None:
    found = sb.features_from_arrays(
        text=TEXT,
        counts=COUNTS,
        categories=["a"] * 6 + [("b", "c")] * 6,
        item_text=["thing"] * N,
        item_keys=[f"i{i}" for i in range(N)],
        available={"text": np.arange(N) > 0},
    )
    assert found.categories is not None and found.categories[0] == ("a",) and found.categories[-1] == ("b", "c")
    assert found.item_text == ("thing",) * N and found.item_keys is not None and not found.available["text"][0]


def with_nan(rows: np.ndarray) -> np.ndarray:
    broken = rows.copy()
    broken[3, 1] = np.nan
    return broken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no embeddings"),
        ({"text": TEXT[0]}, r"float64 of shape \(4,\).*\(items, dimensions\)"),
        ({"text": TEXT.astype(str)}, "wanted numbers"),
        ({"text": TEXT.astype(complex)}, "complex128"),
        ({"text": TEXT[:, :0]}, r"shape \(12, 0\)"),
        ({"text": with_nan(TEXT), "counts": COUNTS}, "NaN or infinite values in 1 of 12 rows .first: item 3"),
        ({"text": np.ones((N, 4))}, "the same vector for every item"),
        ({"text": TEXT, "vision": TEXT[:5]}, "12 rows of text, 5 rows of vision"),
        ({"text": TEXT, "counts": COUNTS[:5]}, r"shape \(5,\)"),
        ({"text": TEXT, "counts": COUNTS - 1}, "smallest -1"),
        ({"text": TEXT, "counts": COUNTS + 0.5}, "whole numbers"),
        ({"behaviour": BEHAVIOUR}, "counts; got none, beside behaviour"),
        ({"text": TEXT, "sequences": [[0, N]]}, r"sequences\[0\]; got items 0..12"),
        ({"text": TEXT, "sequences": [[0.5]]}, "item numbers"),
        ({"text": TEXT, "sequences": [[0]], "counts": COUNTS}, "item 0 0 times in counts and 1 times"),
        ({"text": TEXT, "available": {"vision": np.ones(N, bool)}}, "'vision'"),
        ({"text": TEXT, "available": {"text": np.ones(N)}}, "wanted bool"),
        ({"text": TEXT, "categories": ["a"]}, "1 entries"),
        ({"text": TEXT, "categories": [1] * N}, r"categories\[0\]"),
        ({"text": TEXT, "item_text": [None] * N}, r"item_text\[0\]; got None"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sb.InputError, match=message):
        sb.features_from_arrays(**arguments)
