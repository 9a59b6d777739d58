"""RQ-VAE++: independent towers, division of positions, items that lack a modality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD
from sidbench.tokenizers.blocks.quantisers.multimodal_autoencoder import JointObjective, split_levels
from sidbench.tokenizers.rqvae_pp import RqVaePp, RqVaePpConfig

RUNTIME = local_runtime()
SMALL = {
    "code_length": 6,
    "codebook_size": 12,
    "hidden": (32,),
    "latent_dim": 8,
    "steps": 100,
    "warmup_steps": 10,
    "batch_size": 128,
    "autoencoder_steps": 20,
    "learning_rate": 3e-3,
}


def fit(features: ItemFeatures, **settings: object) -> RqVaePp:
    return RqVaePp(RqVaePpConfig(**{**SMALL, **settings})).fit(features, Rng(0), RUNTIME)  # type: ignore[arg-type]


def without(features: ItemFeatures, modality: str, rows: np.ndarray) -> ItemFeatures:
    """The same features where the items ``rows`` lack a modality."""
    available, embeddings = features.available[modality].copy(), features.modalities[modality].copy()
    available[rows], embeddings[rows] = False, 0
    return replace(
        features,
        available={**features.available, modality: available},
        modalities={**features.modalities, modality: embeddings},
    )


@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    return planted_features(300)


@pytest.fixture(scope="module")
def fitted(features: ItemFeatures) -> RqVaePp:
    return fit(features)


@pytest.mark.parametrize(
    ("length", "names", "wanted"),
    [
        (6, ["text", "vision", "behaviour"], [2, 2, 2]),
        (6, ["text", "behaviour"], [3, 3]),
        (8, ["text", "vision", "behaviour"], [3, 3, 2]),
        (4, ["text", "vision", "behaviour"], [2, 1, 1]),
    ],
)
def test_positions_are_divided_evenly(length: int, names: list[str], wanted: list[int]) -> None:
    assert split_levels(length, names, "who") == dict(zip(names, wanted, strict=True))


def test_fewer_positions_than_modalities_are_refused(features: ItemFeatures) -> None:
    with pytest.raises(InputError, match="code_length; got 2; wanted one position or more"):
        fit(features, code_length=2, steps=4)


def test_every_modality_is_reconstructed_better_than_by_its_mean(features: ItemFeatures, fitted: RqVaePp) -> None:
    sids = fitted.encode(features, RUNTIME)
    assert sids.position_names == ("text 1", "text 2", "vision 1", "vision 2", "behaviour 1", "behaviour 2")
    assert not sids.ordered
    for m, e in features.modalities.items():
        rows = features.available[m]
        error = ((e[rows] - sids.reconstruction[m][rows]) ** 2).sum()
        assert error < 0.4 * ((e[rows] - e[rows].mean(0)) ** 2).sum()


def test_towers_are_independent(features: ItemFeatures, fitted: RqVaePp) -> None:
    draw = np.random.default_rng(0)
    other = replace(features, modalities={**features.modalities, "text": draw.permutation(features.modalities["text"])})
    before, after = fitted.encode(features, RUNTIME), fitted.encode(other, RUNTIME)
    np.testing.assert_array_equal(before.codes[:, 2:], after.codes[:, 2:])
    assert (before.codes[:, :2] != after.codes[:, :2]).any()


def test_loss_is_the_sum_over_the_items_that_have_the_modality(features: ItemFeatures) -> None:
    tokenizer = fit(without(features, "vision", np.arange(100, 200)), steps=8)
    figures = tokenizer.diagnostics()
    assert figures["fit_items_without_vision"] == 100 and figures["fit_items_without_text"] == 0
    names = [f"loss_{part}_{m}" for part in ("reconstruction", "quantiser") for m in ("text", "vision", "behaviour")]
    assert figures["loss_native"] == pytest.approx(sum(figures[name] for name in names), rel=1e-4)


def test_rows_without_a_modality_do_not_touch_its_tower(features: ItemFeatures) -> None:
    gone = np.arange(100, 200)
    one = without(features, "vision", gone)
    noise = one.modalities["vision"].copy()
    noise[gone] = 1e3
    two = replace(one, modalities={**one.modalities, "vision": noise})  # rows that are not available say nothing
    first, second = fit(one, steps=8).state_dict(), fit(two, steps=8).state_dict()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_item_that_lacks_a_modality_has_pad_there(features: ItemFeatures, fitted: RqVaePp) -> None:
    partial = without(features, "vision", np.arange(40, 50))
    sids, full = fitted.encode(partial, RUNTIME), fitted.encode(features, RUNTIME)
    assert (sids.codes[40:50, 2:4] == PAD).all() and (sids.codes[50:, 2:4] != PAD).all()
    np.testing.assert_array_equal(sids.codes[:, :2], full.codes[:, :2])
    assert (sids.reconstruction["vision"][40:50] == 0).all()


def test_item_without_any_embedding_is_encoded_as_zeros_and_named(features: ItemFeatures, fitted: RqVaePp) -> None:
    warnings: list[str] = []

    class Recorder(Reporter):
        def warn(self, message: str) -> None:
            warnings.append(message)

    empty = features
    for m in features.modalities:
        empty = without(empty, m, np.arange(60, 63))
    sids = fitted.encode(empty, LocalRuntime(device="cpu", reporter=Recorder()))
    assert (sids.codes[60:63] != PAD).all() and (sids.codes[60:63] == sids.codes[60]).all()
    assert len(warnings) == 1 and "3 items have no embedding at all" in warnings[0]


def test_costs_are_least_at_the_own_code(features: ItemFeatures, fitted: RqVaePp) -> None:
    sids, costs = fitted.encode(features, RUNTIME), fitted.code_costs(features, RUNTIME)
    has = sids.codes[:, -1] != PAD
    assert not has.all()
    np.testing.assert_array_equal(costs.argmin(1)[has], sids.codes[has, -1])
    assert (costs[~has] == 0).all()


@pytest.mark.parametrize("settings", [{"restart_dead_codes": True}, {"codebook_update": "ema"}])
def test_fit_that_was_interrupted_ends_the_same(
    features: ItemFeatures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
) -> None:
    planted = without(features, "vision", np.arange(100, 200))
    straight = fit(planted, steps=20, **settings).state_dict()
    with monkeypatch.context() as patch:
        plain, calls = JointObjective.loss, iter(range(1000))

        def interrupted(self: JointObjective, rows: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if next(calls) == 15:
                raise KeyboardInterrupt
            return plain(self, rows, step)

        patch.setattr(JointObjective, "loss", interrupted)
        with RUNTIME.checkpointing(tmp_path), pytest.raises(KeyboardInterrupt):
            fit(planted, steps=20, **settings)
    with RUNTIME.checkpointing(tmp_path):
        resumed = fit(planted, steps=20, **settings).state_dict()
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
