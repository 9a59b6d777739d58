"""The content vector of a tokenizer: which modalities it was fitted on, and its parts; checks of restored state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from sidbench.datasets.features.base import MODALITIES, ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.mapped import row_blocks, take_rows
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.tokenizers.base import usable_content

FIT_LIMIT = 1_000_000  # codebooks have at most 65,536 vectors: more items only make the fit longer
_PREFIX = "width/"


def content_widths(features: ItemFeatures) -> dict[str, int]:
    """Content modality -> width, in the order in which ``ItemFeatures.concatenated`` joins them."""
    dims = features.dims()
    return {m: dims[m] for m in features.content_names()}


def content_like(features: ItemFeatures, widths: Mapping[str, int], who: str) -> np.ndarray:
    """Content vectors float32 ``[N, D_c]`` of features that must have the modalities of the fit.

    Raises ``InputError`` when modalities or widths differ, or values are not finite.
    """
    found = content_widths(features)
    if found != dict(widths):
        raise InputError(
            f"{who}: content modalities to encode",
            got=found or "none",
            wanted=f"those of the fit, {dict(widths)}",
            do="encode with the encoders of the fit, or fit again",
        )
    return usable_content(features, who)


def fitting_rows(features: ItemFeatures, fit_items: str, who: str, runtime: Runtime) -> np.ndarray:
    """int64 indices, ascending, of the items that statistics are fitted on: at most ``FIT_LIMIT`` of ``fit_rows``.

    From larger catalogues every n-th item is taken (a systematic sample: catalogues are sorted by key, which says nothing
    about embeddings), and a warning on the record says so.
    """
    rows = features.fit_rows(fit_items)
    if len(rows) <= FIT_LIMIT:
        return rows
    runtime.warn(f"{who}: statistics are fitted on a sample of {FIT_LIMIT:,} of {len(rows):,} items")
    return rows[np.arange(FIT_LIMIT) * len(rows) // FIT_LIMIT]


def content_rows(features: ItemFeatures, rows: np.ndarray) -> np.ndarray:
    """Content vectors float32 ``[M, D_c]`` of the items ``rows`` int64 ``[M]``; of memory maps only these rows are held.

    ``check_content`` must have passed: it looks at all items, once for all calls.
    """
    return np.concatenate([take_rows(features.modalities[m], rows) for m in features.content_names()], axis=1)


def finite_modality(features: ItemFeatures, name: str, who: str) -> np.ndarray:
    """Embeddings float32 ``[N, D_m]`` of a modality that is present. Raises ``InputError`` for NaN and infinite values."""
    rows = features.modalities[name]
    bad = np.concatenate(
        [
            np.zeros(0, np.int64),
            *(part.start + np.flatnonzero(~np.isfinite(block).all(axis=1)) for part, block in row_blocks(rows)),
        ]
    )
    if len(bad):
        raise InputError(
            f"{who}: {name} embeddings",
            got=f"NaN or infinite values in {len(bad)} rows (first: item {bad[0]})",
            wanted="finite numbers",
            do=f"check the {name} encoder",
        )
    return rows


def usable_modality(features: ItemFeatures, name: str, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 ``[N, D_m]`` of one modality and the items that have it, bool ``[N]``.

    Raises ``InputError`` when the modality is absent, no item has it, or values are not finite.
    """
    if name not in features.modalities or not features.available[name].any():
        raise InputError(
            f"{who}: {name} embeddings",
            got=features.absent.get(name, "none"),
            wanted="embeddings of at least one item",
            do=f"choose an encoder with features.{name}=…",
        )
    return finite_modality(features, name, who), features.available[name]


def split_content(content: np.ndarray, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The parts float32 ``[N, D_m]`` of content vectors ``[N, D_c]`` by modality."""
    parts = np.split(content.astype(np.float32, copy=False), np.cumsum(list(widths.values()))[:-1], axis=1)
    return dict(zip(widths, parts, strict=True))


def widths_state(widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """``widths`` as entries of a state dict."""
    return {f"{_PREFIX}{m}": np.array(width, np.int64) for m, width in widths.items()}


def widths_from_state(state: Mapping[str, np.ndarray], who: str) -> dict[str, int]:
    """The inverse of ``widths_state``. Raises ``InputError`` when there is none."""
    found = {name.removeprefix(_PREFIX): int(value) for name, value in state.items() if name.startswith(_PREFIX)}
    if not found:
        raise InputError(
            f"{who} state",
            got=f"entries {sorted(state)}",
            wanted=f"at least one entry {_PREFIX}<modality>",
            do="fit the tokenizer again",
        )
    names = [m for m in MODALITIES if m in found]
    return {m: found[m] for m in names + sorted(set(found) - set(names))}


def state_entry(state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], who: str) -> np.ndarray:
    """Entry ``name`` of a state dict; ``None`` in ``shape`` accepts any length.

    Raises ``InputError`` naming the entry when it is missing or its shape does not fit the config.
    """
    got = state[name].shape if name in state else None
    fits = (
        got is not None
        and len(got) == len(shape)
        and all(want is None or want == have for want, have in zip(shape, got, strict=True))
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(
            f"{who} state entry {name}",
            got="nothing" if got is None else f"shape {tuple(got)}",
            wanted=f"shape ({wanted})",
            do="load it with the config it was fitted with",
        )
    return np.asarray(state[name])


def load_module(module: nn.Module, state: Mapping[str, np.ndarray], who: str, prefix: str = "") -> nn.Module:
    """Fill a module from the entries ``<prefix><name>`` of a state dict and return it in evaluation mode.

    Raises ``InputError`` naming an entry that is missing or whose shape does not fit the config.
    """
    module.load_state_dict(
        {
            name: torch.as_tensor(state_entry(state, f"{prefix}{name}", tuple(tensor.shape), who).copy())
            for name, tensor in module.state_dict().items()
        }
    )
    return module.eval()
