"""How values are kept on disk: npy (memory-mapped where large), npz, parquet, safetensors and JSON; never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sidbench.datasets.base import Catalog, Dataset, DatasetCard, Interactions
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.mapped import load_matrix, save_matrix
from sidbench.datasets.reading.archives import NUMPY_DAMAGE, read_npz
from sidbench.datasets.reading.parquet import read_parquet
from sidbench.recommenders.base import TargetRanks
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.collisions.base import CollisionReport, Resolved


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Uncompressed npz; object arrays are refused by ``allow_pickle=False``."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz. Raises ``InputError`` for a damaged file."""
    return read_npz(path)


def save_mapped(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Each array as ``<folder>/<name>.npy``, which ``load_mapped`` need not copy into memory."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        save_matrix(folder / f"{name}.npy", array)


def load_mapped(folder: Path) -> dict[str, np.ndarray]:
    """Inverse of ``save_mapped``; large arrays are read-only memory maps.

    Raises ``OSError`` without the folder, ``InputError`` for a damaged file.
    """
    try:
        return {name.removesuffix(".npy"): load_matrix(folder / name) for name in sorted(os.listdir(folder))}
    except NUMPY_DAMAGE as error:
        if isinstance(error, OSError):
            raise
        raise _damaged(folder, error) from error


def save_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def load_json(path: Path) -> Any:
    """Inverse of ``save_json``. Raises ``InputError`` for text that is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path}",
        got=f"{type(error).__name__}: {str(error)[:160]}",
        wanted="what sidbench wrote there",
        do="delete this entry of the cache; it is computed again",
    )


# -- datasets ----------------------------------------------------------------------------------------------------------
def save_dataset(dataset: Dataset, folder: Path) -> None:
    """interactions.npz, items.parquet, users.parquet, card.json, pictures.npy (rendered pictures only)."""
    x, c = dataset.interactions, dataset.catalog
    arrays = {"user": x.user, "item": x.item, "timestamp": x.timestamp, "row": x.row}
    if x.rating is not None:
        arrays["rating"] = x.rating
    save_arrays(folder / "interactions.npz", arrays)
    columns: dict[str, Any] = {"key": list(c.keys)}
    columns |= {f"text:{name}": list(column) for name, column in c.text.items()}
    if c.categories is not None:
        columns["categories"] = pl.Series([list(path) for path in c.categories], dtype=pl.List(pl.String))
    if c.price is not None:
        columns["price"] = c.price
    if c.images is not None:
        columns["images"] = list(c.images)
    pl.DataFrame(columns).write_parquet(folder / "items.parquet")
    pl.DataFrame({"key": list(dataset.user_keys)}).write_parquet(folder / "users.parquet")
    card = {name: getattr(dataset.card, name) for name in DatasetCard.__dataclass_fields__}
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in card.items()}
    save_json(folder / "card.json", {"card": plain, "image_root": None if c.image_root is None else str(c.image_root)})
    if c.image_arrays is not None:
        np.save(folder / "pictures.npy", c.image_arrays, allow_pickle=False)


def load_dataset(folder: Path) -> Dataset:
    """Inverse of ``save_dataset``."""
    arrays, meta = load_arrays(folder / "interactions.npz"), load_json(folder / "card.json")
    items = read_parquet(folder / "items.parquet")
    card = meta["card"]
    for name in ("filters", "notes"):
        card[name] = tuple(card[name])
    pictures = folder / "pictures.npy"
    catalog = Catalog(
        keys=tuple(items["key"].to_list()),
        text={name[5:]: tuple(items[name].to_list()) for name in items.columns if name.startswith("text:")},
        categories=tuple(tuple(path) for path in items["categories"].to_list()) if "categories" in items.columns else None,
        price=items["price"].to_numpy().astype(np.float32) if "price" in items.columns else None,
        images=tuple(items["images"].to_list()) if "images" in items.columns else None,
        image_root=None if meta["image_root"] is None else Path(meta["image_root"]),
        image_arrays=np.load(pictures, allow_pickle=False) if pictures.exists() else None,
    )
    users = tuple(read_parquet(folder / "users.parquet")["key"].to_list())
    x = Interactions(arrays["user"], arrays["item"], arrays["timestamp"], arrays.get("rating"), arrays["row"])
    return Dataset(x, catalog, users, DatasetCard(**card))


# -- SIDs, model states, ranks -----------------------------------------------------------------------------------------
def save_sids(sids: SemanticIds, folder: Path) -> None:
    """sids.json, and in ``sids/`` codes.npy, sizes.npy, weights.npy, reconstruction.<modality>.npy."""
    arrays = {"codes": sids.codes, "sizes": sids.sizes} | {f"reconstruction.{m}": r for m, r in sids.reconstruction.items()}
    if sids.weights is not None:
        arrays["weights"] = sids.weights
    save_mapped(folder / "sids", arrays)
    save_json(folder / "sids.json", {"ordered": bool(sids.ordered), "position_names": sids.position_names})


def load_sids(folder: Path) -> SemanticIds:
    """Inverse of ``save_sids``; large arrays are read-only memory maps."""
    a, facts = load_mapped(folder / "sids"), load_json(folder / "sids.json")
    return SemanticIds(
        a["codes"],
        a["sizes"],
        facts["ordered"],
        a.get("weights"),
        {n.split(".", 1)[1]: v for n, v in a.items() if n.startswith("reconstruction.")},
        tuple(facts["position_names"]),
    )


def save_resolved(resolved: Resolved, folder: Path) -> None:
    """What ``save_sids`` writes, and report.json."""
    save_sids(resolved.sids, folder)
    save_json(folder / "report.json", vars(resolved.report))


def load_resolved(folder: Path) -> Resolved:
    """Inverse of ``save_resolved``."""
    report = load_json(folder / "report.json")
    return Resolved(load_sids(folder), CollisionReport(**{**report, "notes": tuple(report["notes"])}))


def save_state(state: Mapping[str, np.ndarray], facts: Mapping[str, Any], folder: Path) -> None:
    """A plugin's learned state as safetensors, and numbers about its fit as JSON."""
    save_file({name: np.asarray(a, order="C") for name, a in state.items()}, folder / "state.safetensors")
    save_json(folder / "facts.json", facts)


def load_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inverse of ``save_state``. Raises ``InputError`` for damaged files."""
    try:
        state = load_file(folder / "state.safetensors")
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _damaged(folder / "state.safetensors", error) from error
    return state, load_json(folder / "facts.json")


def save_ranks(ranks: TargetRanks, folder: Path) -> None:
    """The rank intervals of one evaluation."""
    save_arrays(folder / "ranks.npz", {name: getattr(ranks, name) for name in TargetRanks.__dataclass_fields__})


def load_ranks(folder: Path) -> TargetRanks:
    """Inverse of ``save_ranks``."""
    return TargetRanks(**load_arrays(folder / "ranks.npz"))
