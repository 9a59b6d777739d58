"""How much behaviour an item has, as a number in [0, 1]: the proxies ADA-SID's gates stand on.

``norm`` is the literal proxy (MMQ-v2, arXiv 2510.25622, eqs. 12-13): ``(||e_b|| - N_min) / (N_max - N_min)``.
Deviation: N_min and N_max are the 1st and 99th percentile over items with training interactions, not the extremes over
all items, because single outliers and never-trained rows would set the scale. Every other proxy is scaled in this way too.

That the norm of a behaviour embedding carries popularity is a premise, often false: the sign of the relation depends
on loss, decay and stopping time of the behaviour encoder. So ``auto`` takes ``norm`` only where its Spearman
correlation with the training count exceeds 0.3, else ``log_count``, ``log(1 + count)``, and both are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.mapped import row_blocks

PROXIES = ("auto", "norm", "log_count", "norm_centred", "proj")
NORM_TRUSTED_ABOVE = 0.3
_LOW, _HIGH = 1.0, 99.0
_DECILES = (10, 50, 90)


@dataclass(frozen=True)
class Richness:
    """values: float32 ``[N]`` in [0, 1], 0 without training interactions. proxy: the one used ("auto" is resolved).

    notes: ``spearman_<signal>_count``, ``N_min`` and ``N_max`` of the norm, and quantiles over trained items of the
    proxy used (``richness_q50``) and of the two that ``auto`` chooses from (``norm_q50``, ``log_count_q50``).
    """

    values: np.ndarray
    proxy: str
    notes: Mapping[str, float]


def item_richness(
    behaviour: np.ndarray | None,
    train_counts: np.ndarray,
    proxy: str = "auto",
    direction: np.ndarray | None = None,
    available: np.ndarray | None = None,
) -> Richness:
    """Richness of every item from **raw** (unscaled) behaviour embeddings.

    Parameters
    ----------
    behaviour: float ``[N, D]``, or ``None`` when the modality is absent; then only ``log_count`` is possible.
    train_counts: int ``[N]`` training interactions.
    proxy: one of ``PROXIES``.
    direction: ``[D]`` mean context direction of ``proj``; default the count-weighted mean of the embeddings.
    available: bool ``[N]`` items that have a behaviour embedding; default all.

    Raises ``InputError`` for an unknown proxy, one that needs absent embeddings, wrong shapes, values that are not
    finite, or a signal equal for all trained items.
    """
    if proxy not in PROXIES:
        raise InputError(
            "richness proxy", got=repr(proxy), wanted=f"one of {', '.join(PROXIES)}", do="set features.richness=auto"
        )
    trained = train_counts > 0
    log_count = _log_count(train_counts, trained)
    if behaviour is None:
        if proxy not in ("auto", "log_count"):
            raise InputError(
                f"richness proxy {proxy}",
                got="no behaviour embeddings",
                wanted="behaviour embeddings",
                do="set features.richness=log_count or choose an encoder with features.behaviour=…",
            )
        return Richness(log_count.astype(np.float32), "log_count", _quantiles("richness", log_count, trained))
    usable = trained if available is None else trained & available
    _check_shape(behaviour, len(usable))
    signals = _signals(behaviour, train_counts, usable, direction)
    limits = {name: _limits(signal[usable]) for name, signal in signals.items()}
    notes: dict[str, float] = {}
    for name, signal in signals.items():
        correlation = spearman(signal[usable], train_counts[usable])
        if correlation is not None:
            notes[f"spearman_{name}_count"] = correlation
    if "norm" in limits:
        notes["N_min"], notes["N_max"] = limits["norm"]
    scaled = {"log_count": log_count} | {
        name: _min_max(signal, usable, *limits[name])  # eqs. 12-13
        for name, signal in signals.items()
        if limits[name][1] > limits[name][0]
    }
    chosen = proxy
    if proxy == "auto":
        trusted = "norm" in scaled and notes.get("spearman_norm_count", -1.0) > NORM_TRUSTED_ABOVE
        chosen = "norm" if trusted else "log_count"
    if chosen not in scaled:
        raise InputError(
            f"richness proxy {chosen}",
            got="no difference between the items with training interactions",
            wanted="a signal that differs between items",
            do="set features.richness=log_count",
        )
    notes |= _quantiles("richness", scaled[chosen], trained)
    for name in ("norm", "log_count"):
        if name in scaled:
            notes |= _quantiles(name, scaled[name], trained)
    return Richness(scaled[chosen].astype(np.float32), chosen, notes)


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation with average ranks for ties; ``None`` where undefined (under 2 values, or no variation)."""
    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """1-based ranks float64 ``[N]``, ties averaged."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(sizes) - (sizes - 1) / 2.0)[group])


def _signals(
    behaviour: np.ndarray, counts: np.ndarray, usable: np.ndarray, direction: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Raw signal float64 ``[N]`` of each proxy that reads the embeddings, in blocks; none when no item is usable.

    Rows that are not usable count as zeros. Raises ``InputError`` as ``item_richness`` says.
    """
    total, weighted = _sums(behaviour, counts, usable)
    if not usable.any():
        return {}
    mean, direction = total / usable.sum(), weighted if direction is None else np.asarray(direction, np.float64)
    if direction.shape != mean.shape or not np.isfinite(direction).all():
        raise InputError(
            "richness direction",
            got=f"shape {direction.shape}",
            wanted=f"finite numbers of shape {mean.shape}",
            do="pass one number per dimension",
        )
    length = np.linalg.norm(direction)
    signals = {name: np.empty(len(behaviour)) for name in ("norm", "norm_centred", "proj")}
    for part, rows in _usable_blocks(behaviour, usable):
        signals["norm"][part] = np.linalg.norm(rows, axis=1)
        signals["norm_centred"][part] = np.linalg.norm(rows - mean, axis=1)
        signals["proj"][part] = rows @ direction / (length if length > 0 else 1.0)
    return signals


def _sums(behaviour: np.ndarray, counts: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count-weighted sum float64 ``[D]`` of the usable rows. Raises ``InputError`` for values not finite."""
    total, weighted, bad = np.zeros(behaviour.shape[1]), np.zeros(behaviour.shape[1]), [np.zeros(0, np.int64)]
    for part, rows in _usable_blocks(behaviour, usable):
        bad.append(part.start + np.flatnonzero(~np.isfinite(rows).all(axis=1)))
        known = rows[usable[part]]
        total, weighted = total + known.sum(axis=0), weighted + counts[part][usable[part]] @ known
    broken = np.concatenate(bad)
    if len(broken):
        raise InputError(
            "behaviour embeddings",
            got=f"NaN or infinite values in {len(broken)} of {len(behaviour)} rows (first: item {broken[0]})",
            wanted="finite numbers",
            do="check the behaviour encoder",
        )
    return total, weighted


def _usable_blocks(behaviour: np.ndarray, usable: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks float64 of the embeddings, zero where not usable."""
    for part, block in row_blocks(behaviour):
        yield part, np.where(usable[part, None], block, 0.0).astype(np.float64)


def _check_shape(behaviour: np.ndarray, n_items: int) -> None:
    if behaviour.ndim != 2 or len(behaviour) != n_items:
        raise InputError(
            "behaviour embeddings",
            got=f"shape {behaviour.shape}",
            wanted=f"({n_items}, dimensions)",
            do="export one row per catalogue item, in item order",
        )


def _limits(signal: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile; equal when they differ by rounding only."""
    low, high = (float(v) for v in np.percentile(signal, (_LOW, _HIGH)))
    return low, (high if high - low > 1e-9 * max(abs(low), abs(high)) else low)


def _log_count(counts: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """``log(1 + count)`` between its own percentiles; 1 for every trained item where all counts are equal."""
    signal = np.log1p(counts)
    low, high = _limits(signal[trained]) if trained.any() else (0.0, 0.0)
    return _min_max(signal, trained, low, high) if high > low else trained.astype(np.float64)


def _min_max(signal: np.ndarray, usable: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.where(usable, np.clip((signal - low) / (high - low), 0.0, 1.0), 0.0)


def _quantiles(name: str, values: np.ndarray, trained: np.ndarray) -> dict[str, float]:
    if not trained.any():
        return {}
    return {f"{name}_q{q}": float(v) for q, v in zip(_DECILES, np.percentile(values[trained], _DECILES), strict=True)}
