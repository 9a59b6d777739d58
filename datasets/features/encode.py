"""Choose and run the encoder of each modality; the only place that maps ``features.text=…`` to code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sidbench.datasets.base import Dataset, FileLocator
from sidbench.datasets.features.amazon_images import encode_amazon_images, feature_file
from sidbench.datasets.features.assemble import FeaturesConfig
from sidbench.datasets.features.base import MODALITIES
from sidbench.datasets.features.efficientnet import encode_efficientnet
from sidbench.datasets.features.encoding import Encoding
from sidbench.datasets.features.minilm import encode_minilm
from sidbench.datasets.features.pictures import has_pictures
from sidbench.datasets.features.pixels import encode_pixels
from sidbench.datasets.features.precomputed import SUFFIXES, read_precomputed
from sidbench.datasets.features.text import ItemText, item_text
from sidbench.datasets.features.tfidf import encode_tfidf
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

if TYPE_CHECKING:
    from sidbench.datasets.foundation.runtime import Runtime


@dataclass(frozen=True)
class RawContent:
    """raw: modality -> float32 ``[N, D_m]``, unscaled. available: modality -> bool ``[N]``. absent: modality -> reason.

    counts: everything dropped, broken or truncated on the way. item_text: per item one string, or ``None``.
    """

    raw: Mapping[str, np.ndarray]
    available: Mapping[str, np.ndarray]
    absent: Mapping[str, str]
    counts: Mapping[str, int]
    item_text: tuple[str, ...] | None


def encode_content(dataset: Dataset, config: FeaturesConfig, rng: Rng, runtime: Runtime, locate: FileLocator) -> RawContent:
    """Text and vision embeddings of all items, and precomputed behaviour where ``config`` asks for it.

    A modality that is switched off, or that the dataset lacks, is declared absent with the reason; nothing replaces it.
    Behaviour trained here (``behaviour="sasrec"``) is the pipeline's affair: neither in ``raw`` nor in ``absent``.

    Raises ``InputError`` when a chosen encoder cannot run: a missing package, file, or unusable content.
    """
    text = item_text(dataset.catalog)
    absent: dict[str, str] = {}
    encodings: dict[str, Encoding] = {}
    for modality in MODALITIES:
        if reason := _absence(modality, dataset, config, text):
            absent[modality] = reason
        elif getattr(config, modality) == "precomputed":
            path = content_files(dataset, config, locate)[modality]
            encodings[modality] = read_precomputed(path, dataset.catalog.keys, modality)
        elif modality == "text":
            encodings[modality] = _encode_text(text, config, rng.child("text"), runtime)
        elif modality == "vision":
            encodings[modality] = _encode_vision(dataset, config, rng.child("vision"), runtime, locate)
    counts = dict(text.counts)
    for encoding in encodings.values():
        counts |= encoding.counts
    return RawContent(
        {m: e.embeddings for m, e in encodings.items()},
        {m: e.available for m, e in encodings.items()},
        absent,
        counts,
        text.sentences if text.available.any() else None,
    )


def content_files(dataset: Dataset, config: FeaturesConfig, locate: FileLocator) -> dict[str, Path]:
    """Modality -> the file of embeddings that ``encode_content`` will read for it, for cache keys.

    A path in the config is taken as it is if it exists, else looked for in the dataset's folder. Raises ``InputError``
    when such a file is asked for and cannot be found.
    """
    files = {}
    for modality in MODALITIES:
        choice = getattr(config, modality)
        if choice not in ("precomputed", "amazon_b"):
            continue
        given = getattr(config, f"{modality}_path")
        usual = (
            [feature_file(dataset.card)]
            if choice == "amazon_b"
            else [f"embeddings/{modality}{suffix}" for suffix in SUFFIXES]
        )
        direct = Path(given).expanduser()
        path = direct if given and direct.is_file() else locate.find(dataset.card.name, *([given] if given else usual))
        if path is None:
            raise InputError(
                f"dataset {dataset.card.name}: {given or usual[0]} not found",
                wanted="an existing file",
                do=f"set features.{modality}_path",
            )
        files[modality] = path
    return files


def _absence(modality: str, dataset: Dataset, config: FeaturesConfig, text: ItemText) -> str:
    """Why a modality is absent, empty if it is not. Embeddings from a file need nothing from the dataset."""
    choice = getattr(config, modality)
    if choice == "none":
        return f"switched off by features.{modality}=none"
    declared = dataset.card.absent.get(modality, "")
    if modality == "text" and choice in ("tfidf", "minilm") and not text.available.any():
        return declared or "no item has text"
    if modality == "vision" and choice in ("pixels", "efficientnet_lite0") and not has_pictures(dataset.catalog):
        return declared or "no pictures"
    return ""


def _encode_text(text: ItemText, config: FeaturesConfig, rng: Rng, runtime: Runtime) -> Encoding:
    if config.text == "minilm":
        return encode_minilm(text, runtime)
    return encode_tfidf(text, config.text_dim, rng)


def _encode_vision(dataset: Dataset, config: FeaturesConfig, rng: Rng, runtime: Runtime, locate: FileLocator) -> Encoding:
    catalog = dataset.catalog
    if config.vision == "amazon_b":
        path = content_files(dataset, config, locate)["vision"]
        return encode_amazon_images(path, catalog.keys, config.vision_dim, rng)
    if config.vision == "efficientnet_lite0":
        return encode_efficientnet(catalog, config.vision_dim, rng, runtime)
    return encode_pixels(catalog, config.vision_dim, rng)
