"""Encoding in blocks: equal to encoding at once for every itemwise tokenizer, refused for the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import Tokenizer
from sidbench.tokenizers.blocks.quantisers.streaming import encode_in_blocks
from sidbench.tokenizers.opq import Opq, OpqConfig
from sidbench.tokenizers.random import RandomCodes

RUNTIME = local_runtime()
FEATURES = planted_features()
SMALL: Mapping[str, Mapping[str, Any]] = {
    "actionpiece": {"codebook_size": 8, "vocabulary_size": 224},
    "adasid": {"width": 16, "hidden": 16, "steps": 4, "warm_steps": 2},
    "das": {"hidden": (16,), "latent_dim": 8, "steps": 4, "tower_steps": 2, "batch_size": 64},
    "mmq": {"width": 16, "steps": 4, "warm_steps": 2, "tuning_steps": 2, "tuning_users": 32, "tuning_width": 16},
    "rqkmeans_plus": {"hidden": (16,), "steps": 4},
    **{
        name: {"hidden": (16,), "latent_dim": 8, "steps": 4}
        for name in ("rqvae", "letter", "cost", "rqvae_pp", "mm_rqvae", "mbgen")
    },
}
NAMES = [
    n for n, p in installed().plugins("tokenizer").items() if p.source == "sidbench" and n != "imported"
]  # a table of codes has nothing to stream


def fitted(name: str) -> Tokenizer:
    cls = installed().load("tokenizer", name)
    settings = {"codebook_size": 8, **cls.budgets.get("smoke", {}), **SMALL.get(name, {})}
    return cls(cls.config_class(**settings)).fit(FEATURES, Rng(0), RUNTIME)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_give_the_codes_of_encode(name: str) -> None:
    tokenizer = fitted(name)
    if not tokenizer.itemwise:
        with pytest.raises(InputError, match="depend on the whole catalogue"):
            encode_in_blocks(tokenizer, FEATURES, RUNTIME)
        return
    whole = tokenizer.encode(FEATURES, RUNTIME)
    parts = encode_in_blocks(tokenizer, FEATURES, RUNTIME, rows=37, reconstruction=True)
    np.testing.assert_array_equal(parts.codes, whole.codes)
    np.testing.assert_array_equal(parts.sizes, whole.sizes)
    assert (parts.ordered, parts.position_names) == (whole.ordered, whole.position_names)
    assert set(parts.reconstruction) == set(whole.reconstruction)
    for name, array in whole.reconstruction.items():
        np.testing.assert_allclose(parts.reconstruction[name], array, atol=1e-5)
    if whole.weights is not None:
        np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-6)


def test_reconstruction_is_left_out_unless_asked_for() -> None:
    tokenizer = Opq(OpqConfig(codebook_size=8, alternations=1)).fit(FEATURES, Rng(0), RUNTIME)
    assert not encode_in_blocks(tokenizer, FEATURES, RUNTIME).reconstruction
    with pytest.raises(InputError, match="rows"):
        encode_in_blocks(tokenizer, FEATURES, RUNTIME, rows=0)


def test_only_declared_tokenizers_depend_on_the_catalogue() -> None:
    assert not RandomCodes.itemwise and Opq.itemwise


def test_block_is_a_view_that_leaves_files_on_disk(tmp_path: Path) -> None:
    table = np.lib.format.open_memmap(tmp_path / "text.npy", "w+", np.float32, (10, 3))
    counts = np.arange(10)
    features = ItemFeatures(
        {"text": table},
        {"text": np.ones(10, bool)},
        counts,
        np.zeros(10, np.float32),
        "log_count",
        FEATURES.sequences,
        categories=tuple((str(i),) for i in range(10)),
        item_text=tuple(map(str, range(10))),
        item_keys=tuple(map(str, range(10))),
    )
    part = features.block(7, 20)
    assert isinstance(part.modalities["text"], np.memmap) and np.shares_memory(part.modalities["text"], table)
    assert part.n_items == 3 and part.train_counts.tolist() == [7, 8, 9] and part.sequences.n_users == 0
    assert part.item_keys == part.item_text == ("7", "8", "9") and part.categories == (("7",), ("8",), ("9",))
