"""`imported`: codes land on the right items, nothing vanishes, and the bytes of the file decide what is cached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.imported import Imported, ImportedConfig

FEATURES = planted_features(6)


def fitted(path: Path, runtime: LocalRuntime, features: ItemFeatures = FEATURES, **settings: Any) -> Imported:
    return Imported(ImportedConfig(path=str(path), **settings)).fit(features, Rng(0), runtime)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("item,c0,c1\n" + "".join(f"item-{i},{i},{i % 2}\n" for i in reversed(range(6))))
    return path


def test_rows_reach_their_items_whatever_the_order(csv: Path, runtime: LocalRuntime) -> None:
    tokenizer = fitted(csv, runtime)
    sids = tokenizer.encode(FEATURES, runtime)
    assert sids.codes.tolist() == [[i, i % 2] for i in range(6)] and sids.sizes.tolist() == [6, 2] and sids.ordered
    assert tokenizer.encode(FEATURES.take(np.array([4, 1])), runtime).codes[:, 0].tolist() == [4, 1]
    assert tokenizer.n_parameters == 0 and tokenizer.diagnostics()["items_missing"] == 0
    assert not fitted(csv, runtime, ordered=False).encode(FEATURES, runtime).ordered
    assert fitted(csv, runtime, sizes=(8, 8)).encode(FEATURES, runtime).sizes.tolist() == [8, 8]
    with pytest.raises(InputError, match="size of position 0"):
        fitted(csv, runtime, sizes=(5, 8))


def test_missing_items_are_refused_or_share_one_sid(csv: Path, runtime: LocalRuntime) -> None:
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(line for line in lines if not line.startswith(("item-2", "item-5"))))
    with pytest.raises(InputError, match="without a SID; got 2 .first: 'item-2', 'item-5'"):
        fitted(csv, runtime)
    tokenizer = fitted(csv, runtime, missing="share")
    sids = tokenizer.encode(FEATURES, runtime)
    sids.check(6)
    assert sids.codes.tolist() == [[0, 0], [1, 1], [5, 2], [3, 1], [4, 0], [5, 2]] and sids.sizes.tolist() == [6, 3]
    assert tokenizer.diagnostics()["items_missing"] == 2
    other = Imported(tokenizer.config)
    other.load_state_dict(tokenizer.state_dict())
    assert np.array_equal(other.encode(FEATURES, runtime).codes, sids.codes)


def test_items_not_in_the_table_are_named(csv: Path, runtime: LocalRuntime) -> None:
    with pytest.raises(InputError, match="got 2 .first: 'item-6'"):
        fitted(csv, runtime).encode(planted_features(8), runtime)
    with pytest.raises(InputError, match="catalogue lacks; got 2 .first: 'item-5', 'item-4'"):
        fitted(csv, runtime, planted_features(4))
    kept = fitted(csv, runtime, planted_features(4), extra="keep")
    assert kept.encode(FEATURES, runtime).codes[:, 0].tolist() == list(range(6))


def test_rows_without_keys_follow_the_catalogue(tmp_path: Path, runtime: LocalRuntime) -> None:
    path = tmp_path / "t.json"
    path.write_text("[[5], [4], [3], [2], [1], [0]]")
    tokenizer = fitted(path, runtime)
    assert tokenizer.encode(FEATURES.take(np.array([1, 5])), runtime).codes[:, 0].tolist() == [4, 0]  # by key since fit
    anonymous = replace(FEATURES, item_keys=None)
    plain = fitted(path, runtime, anonymous)
    assert plain.encode(anonymous, runtime).codes[:, 0].tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(InputError, match="rows are matched by number"):
        plain.encode(anonymous.take(np.arange(3)), runtime)
    with pytest.raises(InputError, match="no item keys"):
        tokenizer.encode(anonymous, runtime)
    path.write_text("[[1]]")
    shared = fitted(path, runtime, anonymous, missing="share").encode(anonymous, runtime)
    assert shared.codes[:, 0].tolist() == [1, 2, 2, 2, 2, 2]


def test_weights_and_order_come_along(tmp_path: Path, runtime: LocalRuntime) -> None:
    path = tmp_path / "t.npz"
    codes = np.array([[0, 1]] * 3 + [[0, -1]] * 3)
    np.savez(path, codes=codes, weights=np.full((6, 2), 0.5), ordered=False, sizes=np.array([2, 4]))
    with pytest.raises(InputError, match="tokenizer.ordered=false"):
        fitted(path, runtime)
    tokenizer = fitted(path, runtime, ordered=False)
    sids = tokenizer.encode(FEATURES, runtime)
    assert sids.weights is not None and sids.weights.dtype == np.float32
    assert sids.weights.tolist() == [[0.5, 0.5]] * 3 + [[0.5, 0.0]] * 3 and sids.sizes.tolist() == [2, 4]
    other = Imported(tokenizer.config)
    other.load_state_dict(tokenizer.state_dict())
    again = other.encode(FEATURES, runtime)
    assert again.weights is not None and np.array_equal(again.weights, sids.weights)


def test_a_path_is_needed(tmp_path: Path, runtime: LocalRuntime) -> None:
    with pytest.raises(InputError, match="tokenizer.path=FILE"):
        Imported(ImportedConfig()).fit(FEATURES, Rng(0), runtime)
    with pytest.raises(InputError, match="no file of that name"):
        ImportedConfig(path=str(tmp_path / "gone.csv")).content_files()


def test_offset_codes_are_warned_about(tmp_path: Path) -> None:
    from sidbench.benchmark.runtime.local import local_runtime
    from sidbench.benchmark.runtime.stage_runtime import StageRuntime

    runtime = StageRuntime(local_runtime(threads=1))
    path = tmp_path / "t.json"
    path.write_text(str([[i, 8 + i] for i in range(6)]))
    fitted(path, runtime)
    assert any("count on from position to position" in line for line in runtime.warnings)
