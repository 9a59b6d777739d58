"""From raw embeddings to ``ItemFeatures``: one scalar per modality, the richness proxy, and the hash of all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.features.richness import PROXIES, item_richness
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_arrays, hash_json, hash_strings
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.splits.base import Sequences

Scaling = Callable[[str, np.ndarray, np.ndarray, int], tuple[np.ndarray, float]]  # arguments of ``scale_modality``


@dataclass(frozen=True)
class FeaturesConfig:
    """Which encoder makes each modality. Its settings are part of the comparability key."""

    text: str = setting(
        "tfidf", "text encoder; minilm needs the extra [text]", choices=("tfidf", "minilm", "precomputed", "none")
    )
    vision: str = setting(
        "pixels",
        "vision encoder; efficientnet_lite0 needs the extra [vision], amazon_b the original image features of Amazon",
        choices=("pixels", "efficientnet_lite0", "amazon_b", "precomputed", "none"),
    )
    behaviour: str = setting(
        "sasrec",
        "behaviour encoder, trained on training interactions only",
        paper="sasrec",
        choices=("sasrec", "precomputed", "none"),
    )
    text_dim: int = setting(
        128, "largest width of tfidf (minilm has 384, precomputed its own)", unit="dimensions", low=2, high=4096
    )
    vision_dim: int = setting(
        128,
        "largest width of pixels, efficientnet_lite0 and amazon_b (precomputed has its own)",
        unit="dimensions",
        low=2,
        high=4096,
    )
    richness: str = setting(
        "auto",
        "proxy of how much behaviour an item has; auto is norm where it correlates with the training count, else log_count",
        choices=PROXIES,
        paper="norm",
        sweep=PROXIES,
    )
    text_path: str = setting("", "file of precomputed text embeddings; empty: embeddings/text.{npz,npy,parquet}")
    vision_path: str = setting("", "file of precomputed vision embeddings, or of amazon_b; empty: its usual name")
    behaviour_path: str = setting("", "file of precomputed behaviour embeddings; empty: embeddings/behaviour.*")

    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {"text_dim": 32, "vision_dim": 32}}

    def __post_init__(self) -> None:
        check_settings(self)


def assemble_features(
    *,
    raw: Mapping[str, np.ndarray],
    available: Mapping[str, np.ndarray],
    absent: Mapping[str, str],
    train_counts: np.ndarray,
    sequences: Sequences,
    richness: str = "auto",
    direction: np.ndarray | None = None,
    categories: tuple[tuple[str, ...], ...] | None = None,
    item_text: tuple[str, ...] | None = None,
    item_keys: tuple[str, ...] | None = None,
    notes: Mapping[str, float] | None = None,
    scale: Scaling = scale_modality,
) -> ItemFeatures:
    """Scale every modality by one scalar and put all that is known about the items together.

    Parameters
    ----------
    raw: modality -> float ``[N, D_m]``, unscaled. The richness proxy reads the raw norms of ``raw["behaviour"]``.
    available: modality -> bool ``[N]``. A modality it lacks is available for all items, except behaviour: an item
        without training interactions holds its initial vector and is not available.
    absent: modality -> reason, for every modality that is not in ``raw``.
    train_counts: int ``[N]`` interactions that are training data in every protocol. sequences: the same, in time order.
    richness: proxy name. direction: mean context direction of the proxy ``proj``.
    notes: numbers for the record (what the encoders counted). categories, item_text, item_keys: one entry an item.
    scale: what scales one modality; another one may keep large results on disk.

    Raises ``InputError`` for wrong row counts, values that are not finite, constant embeddings, a
    modality both present and absent, or a proxy that cannot be computed.
    """
    n_items = len(train_counts)
    both = sorted(set(raw) & set(absent))
    if both:
        raise InputError(
            "modalities",
            got=f"{both} both present and absent",
            wanted="one of the two",
            do="repair the caller of assemble_features",
        )
    trained = train_counts > 0
    masks: dict[str, np.ndarray] = {}
    for name in raw:
        mask = available.get(name, trained if name == "behaviour" else np.ones(n_items, bool))
        if mask.shape != (n_items,) or mask.dtype != np.bool_:
            raise InputError(
                f"availability of {name}",
                got=f"{mask.dtype} of shape {mask.shape}",
                wanted=f"bool of shape ({n_items},)",
                do="mark every catalogue item",
            )
        masks[name] = mask
    for name, column in {"categories": categories, "item_text": item_text, "item_keys": item_keys}.items():
        if column is not None and len(column) != n_items:
            raise InputError(name, got=f"{len(column)} entries", wanted=f"{n_items}, one per item")
    modalities, scales = {}, {}
    for name, embeddings in raw.items():
        modalities[name], scales[name] = scale(name, np.asarray(embeddings), masks[name], n_items)
    found = item_richness(raw.get("behaviour"), train_counts, richness, direction, masks.get("behaviour"))
    coverage = {f"{name}_items_available": float(mask.sum()) for name, mask in masks.items()}
    counted = {name: float(value) for name, value in (notes or {}).items()}
    features = ItemFeatures(
        modalities=modalities,
        available=masks,
        train_counts=np.asarray(train_counts, np.int64),
        richness=found.values,
        richness_proxy=found.proxy,
        sequences=sequences,
        scales=scales,
        absent=dict(absent),
        notes={**counted, **coverage, **found.notes},
        categories=categories,
        item_text=item_text,
        item_keys=item_keys,
    )
    return _with_provenance(features)


def _with_provenance(features: ItemFeatures) -> ItemFeatures:
    """The same features with the SHA-256 over everything a later stage can read."""
    arrays = {
        "train_counts": features.train_counts,
        "richness": features.richness,
        "indptr": features.sequences.indptr,
        "sequences": features.sequences.items,
    }
    arrays |= {f"embeddings/{name}": array for name, array in features.modalities.items()}
    arrays |= {f"available/{name}": array for name, array in features.available.items()}
    facts = {
        "arrays": hash_arrays(arrays),
        "scales": features.scales,
        "absent": features.absent,
        "notes": features.notes,
        "richness_proxy": features.richness_proxy,
        "categories": None if features.categories is None else hash_json(features.categories),
        "item_text": None if features.item_text is None else hash_strings(features.item_text),
    }
    if features.item_keys is not None:
        facts["item_keys"] = hash_strings(features.item_keys)
    return replace(features, provenance=hash_json(facts))
