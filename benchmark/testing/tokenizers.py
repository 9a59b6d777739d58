"""Conformance checks of tokenizers, for every one of the suite and for strangers' (``bench plugin check``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from sidbench.benchmark.testing.checks import (
    CheckResult,
    NotApplicable,
    PluginCheck,
    checks_of,
    conforming,
    must_refuse,
    require,
)
from sidbench.benchmark.testing.contract import COMMON, Case, metadata
from sidbench.benchmark.testing.planted import WIDTHS, planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo

INPUTS = ("text", "vision", "behaviour", "sequences", "categories")
CODEBOOK_SIZE = 8


def tokenizer_checks(cls: type[Tokenizer], config: Mapping[str, Any] | None = None) -> list[PluginCheck]:
    """Every conformance check of a tokenizer class, on small planted features.

    config: overrides of the class's settings, on top of its "smoke" budget and ``codebook_size=8``.
    """
    return checks_of(cls, Tokenizer, CHECKS, TokenizerCase(cls, config))


def check_tokenizer(cls: type[Tokenizer], config: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run ``tokenizer_checks``; the results. Raises one ``ConformanceError`` that names every failed check."""
    return conforming(cls, tokenizer_checks(cls, config))


class TokenizerCase(Case):
    """A tokenizer class, fitted once on planted features."""

    kind = "tokenizer"
    info_class = TokenizerInfo
    defaults = {"codebook_size": CODEBOOK_SIZE}

    def fit(self, features: ItemFeatures, seed: int = 0, **settings: Any) -> Tokenizer:
        unset = [n for n in self.cls.info.needs_settings if n not in self.overrides]
        if unset:
            raise NotApplicable(f"needs {', '.join(unset)}, which has no default: give it to check_tokenizer in a test")
        tokenizer: Tokenizer = self.make(**settings)
        return tokenizer.fit(features, Rng(seed).child("tokenizer"), self.runtime)

    def encode(self, tokenizer: Tokenizer, features: ItemFeatures) -> SemanticIds:
        return tokenizer.encode(features, self.runtime)

    @cached_property
    def features(self) -> ItemFeatures:
        return planted_features()

    @cached_property
    def fitted(self) -> Tokenizer:
        return self.fit(self.features)

    @cached_property
    def sids(self) -> SemanticIds:
        return self.encode(self.fitted, self.features)


def _metadata(case: TokenizerCase) -> None:
    metadata(case)
    info: TokenizerInfo = case.cls.info
    unknown = sorted(set(info.modalities) - set(INPUTS))
    require(not unknown, f"info.modalities must be of {', '.join(INPUTS)}, got {', '.join(unknown)}")
    needed = {name for group in info.required for name in group.split("|")}
    require(
        needed <= set(info.modalities),
        f"info.required names {sorted(needed - set(info.modalities))}, which info.modalities lacks",
    )
    require(
        info.control or bool(info.modalities) or bool(info.needs_settings),
        "info.modalities is empty, though neither info.control nor info.needs_settings is set",
    )
    require(issubclass(case.cls.config_class, TokenizerConfig), "config_class must extend TokenizerConfig")


def _shapes(case: TokenizerCase) -> None:
    sids = case.sids.check(case.features.n_items, case.cls.__name__)
    require(
        sids.ordered == case.cls.info.ordered or case.cls.info.control,
        f"ordered is {sids.ordered}, info.ordered {case.cls.info.ordered}",
    )
    require(len(sids.position_names) in (0, sids.code_length), "position_names must be empty or one per position")
    require(bool((sids.codes != PAD).any(axis=1).all()), "an item has PAD at every position")
    info = case.cls.info
    require(
        not sids.has_pad.any() or info.variable_length or info.composite,
        "a code is PAD, though info.variable_length is not set",
    )
    if sids.weights is not None:
        require(sids.weights.shape == sids.codes.shape, f"weights have shape {sids.weights.shape}")
        require(bool((sids.weights[sids.codes == PAD] == 0).all()), "weights must be 0 where the code is PAD")


def _reconstruction(case: TokenizerCase) -> None:
    for name, rows in case.sids.reconstruction.items():
        require(name in case.features.modalities, f"reconstruction of {name!r}, which is no modality of the features")
        wanted = case.features.modalities[name].shape
        require(rows.shape == wanted, f"reconstruction of {name} has shape {rows.shape}, wanted {wanted}")
        require(rows.dtype == np.float32, f"reconstruction of {name} is {rows.dtype}, wanted float32")
        require(bool(np.isfinite(rows).all()), f"reconstruction of {name} is not finite")


def _determinism(case: TokenizerCase) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_25)  # a second fit under another global seed must not notice it
        again = case.fit(case.features)
    codes = case.encode(again, case.features).codes
    changed = int((codes != case.sids.codes).any(axis=1).sum())
    require(not changed, f"two fits with one seed differ in the codes of {changed} of {len(codes)} items")


def _encode_is_pure(case: TokenizerCase) -> None:
    before = {name: array.copy() for name, array in case.fitted.state_dict().items()}
    first, second = case.encode(case.fitted, case.features), case.encode(case.fitted, case.features)
    require(bool((first.codes == second.codes).all()), "two calls of encode give different codes")
    after = case.fitted.state_dict()
    changed = [n for n in before if n not in after or not np.array_equal(before[n], after[n], equal_nan=True)]
    require(not changed and len(before) == len(after), f"encode changes the state: {', '.join(changed)}")


def _round_trip(case: TokenizerCase) -> None:
    state = case.fitted.state_dict()
    for name, array in state.items():
        kind = getattr(array, "dtype", type(array).__name__)
        require(
            isinstance(array, np.ndarray) and array.dtype.kind in "biuf",
            f"state entry {name} must be a numeric numpy array, got {kind}",
        )
    other = case.make()
    other.load_state_dict({name: array.copy() for name, array in state.items()})
    codes = case.encode(other, case.features).codes
    changed = int((codes != case.sids.codes).any(axis=1).sum())
    require(not changed, f"after save and load the codes of {changed} of {len(codes)} items differ")


def _foreign_state(case: TokenizerCase) -> None:
    must_refuse(lambda: case.make().load_state_dict({}), "an empty state dict")


def _features_untouched(case: TokenizerCase) -> None:
    features = planted_features(seed=1)
    before = {m: e.copy() for m, e in features.modalities.items()}
    counts, items = features.train_counts.copy(), features.sequences.items.copy()
    case.encode(case.fit(features), features)
    changed = [m for m in before if not np.array_equal(before[m], features.modalities[m])]
    changed += [] if np.array_equal(counts, features.train_counts) else ["train_counts"]
    changed += [] if np.array_equal(items, features.sequences.items) else ["sequences"]
    require(not changed, f"fit or encode changes {', '.join(changed)} of the features in place")


def _unseen_items(case: TokenizerCase) -> None:
    features = planted_features(300, seed=2)
    fitted = case.fit(features.take(np.arange(240)))
    case.encode(fitted, features).check(300, case.cls.__name__)
    case.encode(fitted, features.take(np.arange(240, 300))).check(60, case.cls.__name__)


def _missing(*gone: str) -> Callable[[TokenizerCase], None]:
    def check(case: TokenizerCase) -> None:
        left = tuple(m for m in WIDTHS if m not in gone)
        features = planted_features(modalities=left)
        if all(
            any(name in (*left, "sequences", "categories") for name in group.split("|")) for group in case.cls.info.required
        ):
            case.encode(case.fit(features), features).check(features.n_items, case.cls.__name__)
        else:
            must_refuse(lambda: case.fit(features), f"features without {' and '.join(gone)} (see info.required)")

    return check


def _tiny(case: TokenizerCase) -> None:
    features = planted_features(5)
    case.encode(case.fit(features, codebook_size=2), features).check(5, case.cls.__name__)


def _one_code(case: TokenizerCase) -> None:
    sids = case.encode(case.fit(case.features, codebook_size=1), case.features)
    sids.check(case.features.n_items, case.cls.__name__)
    require(int(sids.codes.max()) == 0, f"codebook_size=1 gives code {int(sids.codes.max())}")


def _not_finite(case: TokenizerCase) -> None:
    read = [m for m in case.cls.info.modalities if m in WIDTHS]
    if not read:
        raise NotApplicable("reads no embeddings")
    for value in (np.nan, np.inf):
        broken = {m: e.copy() for m, e in case.features.modalities.items()}
        for name in read:
            broken[name][-1, 0] = value
        must_refuse(partial(case.fit, replace(case.features, modalities=broken)), f"{value} in embeddings")


def _capacity(case: TokenizerCase) -> None:
    features = planted_features(40)
    must_refuse(lambda: case.fit(features, codebook_size=64), "codebook_size=64 for 40 items")


CHECKS: Mapping[str, Callable[[TokenizerCase], None]] = {
    **COMMON,
    "metadata": _metadata,
    "shapes, dtypes and ranges": _shapes,
    "reconstruction": _reconstruction,
    "determinism": _determinism,
    "encode is pure": _encode_is_pure,
    "save and load": _round_trip,
    "foreign state": _foreign_state,
    "features untouched": _features_untouched,
    "unseen items": _unseen_items,
    "vision absent": _missing("vision"),
    "behaviour absent": _missing("behaviour"),
    "content absent": _missing("text", "vision"),
    "five items": _tiny,
    "one code": _one_code,
    "not finite": _not_finite,
    "more codes than items": _capacity,
}
