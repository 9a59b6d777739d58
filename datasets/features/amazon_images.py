"""The original Amazon 2014 visual features (4,096 Caffe activations, VBPR) reduced by principal components."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sidbench.datasets.amazon.images import read_image_features
from sidbench.datasets.base import DatasetCard
from sidbench.datasets.features.encoding import Encoding, encoding, principal_components
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

_METADATA = re.compile(r"meta_(.+)\.json(?:\.gz)?")


def feature_file(card: DatasetCard) -> str:
    """``image_features_<category>.b`` of the category whose metadata the dataset was read from.

    Raises ``InputError`` for a dataset that is not from the Amazon 2014 files.
    """
    for name in card.files:
        if found := _METADATA.fullmatch(name):
            return f"image_features_{found[1]}.b"
    raise InputError(
        "vision encoder amazon_b",
        got=f"dataset {card.name}",
        wanted="an Amazon 2014 dataset",
        do="choose features.vision=pixels, precomputed or none",
    )


def encode_amazon_images(path: Path, keys: Sequence[str], dim: int, rng: Rng) -> Encoding:
    """Encode the items ``keys`` as float32 ``[N, min(dim, records - 1, 4096)]``; those without a record
    are not available.

    Raises ``InputError`` for a damaged file, or one with fewer than two items of the catalogue.
    """
    features, available = read_image_features(path, keys)
    if available.sum() < 2:
        raise InputError(
            f"vision encoder amazon_b: {path.name}",
            got=f"{available.sum()} items of the catalogue",
            wanted="at least two",
            do="check that the file belongs to this category",
        )
    components = principal_components(features[available], dim, rng, "vision encoder amazon_b")
    return encoding(
        components, available, {"items_without_picture": int((~available).sum()), "vision_width": components.shape[1]}
    )
