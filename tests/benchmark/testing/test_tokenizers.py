"""Every in-tree tokenizer passes the public conformance checks, and the checks can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.testing.checks import ConformanceError
from sidbench.benchmark.testing.planted import planted_features
from sidbench.benchmark.testing.tokenizers import CHECKS, check_tokenizer
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.balanced_rqkmeans import BalancedRqKMeans
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.hierarchical_kmeans import HierarchicalKMeans
from sidbench.tokenizers.item_id import ItemId
from sidbench.tokenizers.mbgen import Mbgen
from sidbench.tokenizers.opq import Opq
from sidbench.tokenizers.rqkmeans import RqKMeans
from sidbench.tokenizers.rqvae import RqVae
from sidbench.tokenizers.rvq import Rvq

INFO = replace(Opq.info)
SMALL: Mapping[str, Mapping[str, Any]] = {  # sizes only; every code path stays
    "actionpiece": {"codebook_size": 8, "vocabulary_size": 224},
    "rqvae": {"hidden": (16,), "latent_dim": 8, "steps": 24},
    "letter": {"hidden": (16,), "latent_dim": 8, "steps": 24},
    "cost": {"hidden": (16,), "latent_dim": 8, "steps": 24},
    "rqvae_pp": {"hidden": (16,), "latent_dim": 8, "steps": 24},
    "mm_rqvae": {"hidden": (16,), "latent_dim": 8, "steps": 24},
    "adasid": {"width": 16, "hidden": 16, "steps": 24, "warm_steps": 8},
    "das": {"hidden": (16,), "latent_dim": 8, "steps": 24, "tower_steps": 12, "batch_size": 64},
    "mmq": {"width": 16, "steps": 24, "warm_steps": 8, "tuning_steps": 12, "tuning_users": 32, "tuning_width": 16},
    "rqkmeans_plus": {"hidden": (16,), "steps": 24},
    "mbgen": {"hidden": (16,), "latent_dim": 8, "steps": 24},
}


def imported_table(folder: Path) -> Mapping[str, Any]:
    """Settings of `imported`: a file with codes of the planted items, more of them than most checks fit."""
    path = folder / "planted.csv"
    path.write_text("item,c0,c1\n" + "".join(f"item-{i},{i % 8},{i // 8 % 8}\n" for i in range(400)))
    return {"path": str(path), "extra": "keep"}


@pytest.mark.parametrize("name", [n for n, p in installed().plugins("tokenizer").items() if p.source == "sidbench"])
def test_in_tree_tokenizer_conforms(name: str, tmp_path: Path) -> None:
    config = imported_table(tmp_path) if name == "imported" else SMALL.get(name)
    results = check_tokenizer(installed().load("tokenizer", name), config)
    assert {r.name for r in results} == set(CHECKS)
    assert {r.status for r in results} <= {"passed", "skipped", "expected"}


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        (BalancedRqKMeans, {"balance": "constrained"}),
        (Rvq, {"optimiser": "adamw", "steps": 24}),
        (HierarchicalKMeans, {"clustering": "balanced", "vocabulary": "conditional", "code_length": 3}),
        (Mbgen, {"last": "hash", "expand_id2": True, **SMALL["mbgen"]}),
        (RqKMeans, {"inputs": "behaviour_tuned", "steps": 10, "width": 16, "batch_size": 64}),
        (RqVae, {"residual_mode": "ste", "distance": "cosine", "restart_dead_codes": True, **SMALL["rqvae"]}),
        (Opq, {"whiten": True, "init": "balanced"}),
    ],
)
def test_variants_conform(cls: type[Any], config: Mapping[str, Any]) -> None:
    check_tokenizer(cls, config)


def test_expected_failures_are_listed_with_their_reason() -> None:
    expected = {r.name: r.detail for r in check_tokenizer(ItemId) if r.status == "expected"}
    assert set(expected) == set(ItemId.expected_failures)
    assert expected["unseen items"].startswith("a new item has no ID of its own (raised InputError")


def test_a_table_without_its_file_is_checked_as_far_as_it_goes() -> None:
    results = {r.name: r for r in check_tokenizer(installed().load("tokenizer", "imported"))}
    assert results["settings"].status == "passed"
    assert results["determinism"].status == "skipped" and "path" in results["determinism"].detail


class Faulty(Opq):
    """Breaks one promise a check is about; the subclasses say which."""

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Faulty:
        super().fit(features, rng, runtime)
        return self


class GlobalSeed(Faulty):
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Faulty:
        super().fit(features, rng, runtime)
        self.centres_ = torch.randn(self.centres_.shape).numpy()
        return self


class Mutates(Faulty):
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Faulty:
        super().fit(features, rng, runtime)
        features.modalities["text"][0] += 1
        return self


class WrongDtype(Faulty):
    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        sids = super().encode(features, runtime)
        return replace(sids, codes=sids.codes.astype(np.int64))


class OutOfRange(Faulty):
    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        sids = super().encode(features, runtime)
        return replace(sids, sizes=sids.sizes - 1)


class ForgetsState(Faulty):
    def state_dict(self) -> dict[str, np.ndarray]:
        return {**super().state_dict(), "centres": np.zeros_like(self.centres_)}


class SwallowsNan(Faulty):
    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Faulty:
        clean = {m: np.nan_to_num(e, posinf=0) for m, e in features.modalities.items()}
        return super().fit(replace(features, modalities=clean), rng, runtime)


class AlwaysRaises(Faulty):
    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        raise ZeroDivisionError("by design")


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (GlobalSeed, "determinism"),
        (Mutates, "features untouched"),
        (WrongDtype, "shapes, dtypes and ranges"),
        (OutOfRange, "shapes, dtypes and ranges"),
        (ForgetsState, "save and load"),
        (SwallowsNan, "not finite"),
        (AlwaysRaises, "five items"),
    ],
)
def test_faulty_tokenizer_is_named(cls: type[Opq], check: str) -> None:
    with pytest.raises(ConformanceError, match=f"  {check}: "):
        check_tokenizer(cls, {"alternations": 1})


def test_all_failures_are_named_at_once() -> None:
    with pytest.raises(ConformanceError) as caught:
        check_tokenizer(AlwaysRaises, {"alternations": 1})
    assert str(caught.value).count("raised ZeroDivisionError: by design") >= 5


def test_metadata_that_is_not_literal_is_refused() -> None:
    with pytest.raises(ConformanceError, match="metadata: line .* INFO must be a call of TokenizerInfo"):
        check_tokenizer(Mutates, {"alternations": 1})  # this module's INFO is no literal TokenizerInfo call


def test_planted_features_are_scaled_and_hold_cold_items() -> None:
    features = planted_features()
    for name, rows in features.modalities.items():
        energy = (rows[features.available[name]].astype(np.float64) ** 2).sum(1).mean()
        assert energy == pytest.approx(1, abs=1e-5)
    assert (features.train_counts[:24] == 0).all()
    assert (features.train_counts > 0).sum() > 200
