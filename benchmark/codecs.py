"""How values are kept on disk: npz, parquet, safetensors and JSON; never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from sidbench.datasets.base import Catalog, Dataset, DatasetCard, Interactions
from sidbench.recommenders.base import TargetRanks
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.collisions.base import CollisionReport, Resolved


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Uncompressed npz; object arrays are refused by ``allow_pickle=False``."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def save_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


def load_json(path: Path) -> Any:
    return json.loads(path.read_text())


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
    items = pl.read_parquet(folder / "items.parquet")
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
    users = tuple(pl.read_parquet(folder / "users.parquet")["key"].to_list())
    x = Interactions(arrays["user"], arrays["item"], arrays["timestamp"], arrays.get("rating"), arrays["row"])
    return Dataset(x, catalog, users, DatasetCard(**card))


# -- SIDs, model states, ranks -----------------------------------------------------------------------------------------
def save_sids(sids: SemanticIds, path: Path) -> None:
    """One npz; reconstructions under ``reconstruction:<modality>``."""
    arrays = {"codes": sids.codes, "sizes": sids.sizes, "ordered": np.asarray(sids.ordered),
              "position_names": np.asarray(sids.position_names, dtype=np.str_)}
    if sids.weights is not None:
        arrays["weights"] = sids.weights
    arrays |= {f"reconstruction:{m}": r for m, r in sids.reconstruction.items()}
    save_arrays(path, arrays)


def load_sids(path: Path) -> SemanticIds:
    """Inverse of ``save_sids``."""
    a = load_arrays(path)
    return SemanticIds(a["codes"], a["sizes"], bool(a["ordered"]), a.get("weights"),
                       {n.split(":", 1)[1]: v for n, v in a.items() if n.startswith("reconstruction:")},
                       tuple(str(n) for n in a["position_names"]))


def save_resolved(resolved: Resolved, folder: Path) -> None:
    """sids.npz and report.json."""
    save_sids(resolved.sids, folder / "sids.npz")
    save_json(folder / "report.json", vars(resolved.report))


def load_resolved(folder: Path) -> Resolved:
    """Inverse of ``save_resolved``."""
    report = load_json(folder / "report.json")
    return Resolved(load_sids(folder / "sids.npz"), CollisionReport(**{**report, "notes": tuple(report["notes"])}))


def save_state(state: Mapping[str, np.ndarray], facts: Mapping[str, Any], folder: Path) -> None:
    """A plugin's learned state as safetensors, and numbers about its fit as JSON."""
    save_file({name: np.asarray(a, order="C") for name, a in state.items()}, folder / "state.safetensors")
    save_json(folder / "facts.json", facts)


def load_state(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inverse of ``save_state``."""
    return load_file(folder / "state.safetensors"), load_json(folder / "facts.json")


def save_ranks(ranks: TargetRanks, folder: Path) -> None:
    """The rank intervals of one evaluation."""
    save_arrays(folder / "ranks.npz", {name: getattr(ranks, name) for name in TargetRanks.__dataclass_fields__})


def load_ranks(folder: Path) -> TargetRanks:
    """Inverse of ``save_ranks``."""
    return TargetRanks(**load_arrays(folder / "ranks.npz"))
