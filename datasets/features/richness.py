"""How much behaviour an item has, as a number in [0, 1]: the proxies ADA-SID's gates stand on.

``norm`` is the literal proxy (MMQ-v2, arXiv 2510.25622, eqs. 12-13): ``(||e_b|| - N_min) / (N_max - N_min)``. Deviation:
N_min and N_max are the 1st and 99th percentile over items with training interactions, not the extremes over all
items, because single outliers and never-trained rows would set the scale. That the norm of a behaviour embedding
carries popularity is a premise, often false: its sign depends on loss, decay and stopping time of the behaviour encoder.
So ``auto`` takes ``norm`` only where its Spearman correlation with the training count exceeds 0.3, else ``log_count``,
and both are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from sidbench.datasets.foundation.errors import InputError

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


def item_richness(behaviour: np.ndarray | None, train_counts: np.ndarray, proxy: str = "auto",
                  direction: np.ndarray | None = None, available: np.ndarray | None = None) -> Richness:
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
        raise InputError("richness proxy", got=repr(proxy), wanted=f"one of {', '.join(PROXIES)}",
                         do="set features.richness=auto")
    trained = train_counts > 0
    log_count = np.where(trained, np.log1p(train_counts) / np.log1p(max(1, train_counts.max(initial=1))), 0.0)
    if behaviour is None:
        if proxy not in ("auto", "log_count"):
            raise InputError(f"richness proxy {proxy}", got="no behaviour embeddings", wanted="behaviour embeddings",
                             do="set features.richness=log_count or choose an encoder with features.behaviour=…")
        return Richness(log_count.astype(np.float32), "log_count", _quantiles("richness", log_count, trained))
    usable = trained if available is None else trained & available
    signals = _signals(_checked(behaviour, usable), train_counts, usable, direction)
    notes: dict[str, float] = {}
    for name, signal in signals.items():
        correlation = spearman(signal[usable], train_counts[usable])
        if correlation is not None:
            notes[f"spearman_{name}_count"] = correlation
    if usable.any():
        notes["N_min"], notes["N_max"] = _limits(signals["norm"][usable])
    chosen = proxy
    if proxy == "auto":
        chosen = "norm" if notes.get("spearman_norm_count", -1.0) > NORM_TRUSTED_ABOVE else "log_count"
    scaled: dict[str, np.ndarray] = {"log_count": log_count}
    for name in {"norm", chosen} - {"log_count"}:
        if name == chosen or _varies(signals[name][usable]):
            scaled[name] = _min_max(name, signals[name], usable)
    notes |= _quantiles("richness", scaled[chosen], trained)
    for name in ("norm", "log_count"):
        if name in scaled:
            notes |= _quantiles(name, scaled[name], trained)
    return Richness(scaled[chosen].astype(np.float32), chosen, notes)


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation with average ranks for ties; ``None`` where it is undefined (under 2 values, or no variation)."""
    if len(first) < 2 or not (_varies(first) and _varies(second)):
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _signals(behaviour: np.ndarray, counts: np.ndarray, usable: np.ndarray,
             direction: np.ndarray | None) -> dict[str, np.ndarray]:
    """Raw signal ``[N]`` of each proxy that reads the embeddings."""
    signals = {"norm": np.linalg.norm(behaviour, axis=1)}
    if not usable.any():
        return signals
    signals["norm_centred"] = np.linalg.norm(behaviour - behaviour[usable].mean(axis=0), axis=1)
    if direction is None:
        direction = counts[usable] @ behaviour[usable]
    direction = np.asarray(direction, np.float64)
    if direction.shape != behaviour.shape[1:] or not np.isfinite(direction).all():
        raise InputError("richness direction", got=f"shape {direction.shape}", do="pass one finite number per dimension",
                         wanted=f"shape {behaviour.shape[1:]}, finite")
    length = np.linalg.norm(direction)
    if length > 0:
        signals["proj"] = behaviour @ direction / length
    return signals


def _checked(behaviour: np.ndarray, usable: np.ndarray) -> np.ndarray:
    if behaviour.ndim != 2 or len(behaviour) != len(usable):
        raise InputError("behaviour embeddings", got=f"shape {behaviour.shape}", wanted=f"({len(usable)}, dimensions)",
                         do="export one row per catalogue item, in item order")
    rows = np.where(usable[:, None], behaviour, 0.0).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError("behaviour embeddings", got=f"NaN or infinite values in {len(bad)} of {len(rows)} rows "
                         f"(first: item {bad[0]})", wanted="finite numbers", do="check the behaviour encoder")
    return rows


def _limits(signal: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(signal, (_LOW, _HIGH))
    return float(low), float(high)


def _varies(signal: np.ndarray) -> bool:
    return len(signal) > 0 and bool(np.ptp(signal) > 1e-9 * max(1.0, float(np.abs(signal).max())))


def _min_max(name: str, signal: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Eqs. 12-13 with robust constants, 0 for items that are not usable."""
    low, high = _limits(signal[usable]) if usable.any() else (0.0, 0.0)
    if high <= low:
        raise InputError(f"richness proxy {name}", got="one value for all items with training interactions",
                         wanted="a signal that differs between items", do="set features.richness=log_count")
    return np.where(usable, np.clip((signal - low) / (high - low), 0.0, 1.0), 0.0)


def _quantiles(name: str, values: np.ndarray, trained: np.ndarray) -> dict[str, float]:
    if not trained.any():
        return {}
    return {f"{name}_q{q}": float(v) for q, v in zip(_DECILES, np.percentile(values[trained], _DECILES), strict=True)}
