"""Comparability keys: only rows with equal keys stand in one table. One rule for who writes records and who checks them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sidbench.datasets.foundation.hashing import hash_json

FIRST = "1"


def task_key(
    protocol: Mapping[str, Any],
    features: str | None,
    recommender: str,
    config: Any,
    budget: str,
    *,
    accumulate: int,
    precision: str,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The key of one task.

    features: their provenance, ``None`` where no tokenizer reads them. config: the recommender's. versions: of the
    recommender and of shared code, of which those count that are not the first, so that earlier keys stay. How
    losses were computed counts where it is not the default: such runs stand in tables of their own.
    """
    numerics = {
        name: value
        for name, value, usual in (("accumulate", accumulate, 1), ("precision", precision, "fp32"))
        if value != usual
    }
    return hash_json(
        {
            "protocol": protocol,
            "features": features,
            "recommender": recommender,
            "config": config,
            "budget": budget,
            **numerics,
            **_later(versions),
        }
    )


def _later(versions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    later = {name: version for name, version in versions.items() if version not in ("", FIRST)}
    return {"versions": later} if later else {}


def run_key(
    tasks: Mapping[str, str],
    dataset: str,
    features: str | None,
    budget: str,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The key of a run: the keys of its ``tasks`` or, where only SIDs are measured, data (content hash) and features."""
    return hash_json(
        dict(tasks) if tasks else {"dataset": dataset, "features": features, "budget": budget, **_later(versions)}
    )
