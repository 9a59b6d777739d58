"""Conformance checks of tokenizer plugins, for every in-tree tokenizer and for strangers' (``bench plugin check``).

In the manner of scikit-learn's ``check_estimator``: ``check_tokenizer(cls)`` builds small planted features, runs every
check even when an earlier one failed, and raises one error that names all failures.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.splits.base import Sequences
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo

INPUTS = ("text", "vision", "behaviour", "sequences", "categories")
BUDGETS = ("smoke", "quick", "standard", "paper")
WIDTHS = {"text": 24, "vision": 16, "behaviour": 12}
CODEBOOK_SIZE = 8


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check: ``status`` "passed", "skipped" (declared inapplicable) or "failed"; ``detail`` says why."""

    name: str
    status: str
    detail: str = ""


class ConformanceError(StageError):
    """A plugin breaks its contract; the message names every failed check."""


def planted_features(n_items: int = 240, seed: int = 0, modalities: tuple[str, ...] = tuple(WIDTHS)) -> ItemFeatures:
    """Features of items in a planted tree (4 top nodes with 4 children each): text 24-d, vision 16-d, behaviour 12-d.

    A tenth of the items (none when there are fewer than 10) was never seen in training and has a behaviour vector of
    zeros. Sequences of users stay within a top node. ``categories`` hold the planted path.
    """
    draw = Rng(seed).child("planted").numpy()
    top, child = draw.integers(4, size=n_items), draw.integers(4, size=n_items)
    cold = np.zeros(n_items, bool)
    cold[: n_items // 10] = True
    embeddings, available, scales = {}, {}, {}
    for name in modalities:
        width = WIDTHS[name]
        tops, children = 2 * draw.standard_normal((4, width)), draw.standard_normal((4, 4, width))
        rows = tops[top] + children[top, child] + 0.3 * draw.standard_normal((n_items, width))
        available[name] = ~cold if name == "behaviour" else np.ones(n_items, bool)
        embeddings[name], scales[name] = scale_modality(name, rows.astype(np.float32), available[name], n_items)
    sequences = []
    for user in range(2 * n_items):
        pool = np.flatnonzero((top == user % 4) & ~cold)
        sequences.append(draw.choice(pool, size=min(6, len(pool)), replace=False) if len(pool) else pool)
    items = np.concatenate(sequences).astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])])
    counts = np.bincount(items, minlength=n_items)
    return ItemFeatures(
        embeddings,
        available,
        counts,
        (counts / max(counts.max(), 1)).astype(np.float32),
        "log_count",
        Sequences(indptr, items),
        scales,
        absent={m: "not planted" for m in WIDTHS if m not in modalities},
        categories=tuple((f"top {t}", f"child {t}.{c}") for t, c in zip(top, child, strict=True)),
        item_text=tuple(f"item {i} of child {t}.{c}" for i, (t, c) in enumerate(zip(top, child, strict=True))),
        item_keys=tuple(f"item-{i}" for i in range(n_items)),
    )


def check_tokenizer(cls: type[Tokenizer], config: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run every conformance check on a tokenizer class; returns the results.

    config: overrides of the class's settings, on top of its "smoke" budget and ``codebook_size=8``.

    A class may declare ``inapplicable_checks``, a mapping from check name to the reason; these are skipped and listed.
    Raises ``ConformanceError`` naming every failed check with its reason.
    """
    results = run_checks(cls, config)
    failed = [r for r in results if r.status == "failed"]
    if failed:
        lines = "\n".join(f"  {r.name}: {r.detail}" for r in failed)
        raise ConformanceError(f"{cls.__name__} fails {len(failed)} of {len(results)} conformance checks:\n{lines}")
    return results


def run_checks(cls: type[Tokenizer], config: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """The results of every check of ``check_tokenizer``, failed ones included; raises for none of them."""
    case = _Case(cls, dict(config or {}))
    declared: Mapping[str, str] = getattr(cls, "inapplicable_checks", {})
    results = [
        CheckResult(name, "failed", "inapplicable_checks names an unknown check")
        for name in sorted(set(declared) - set(CHECKS))
    ]
    for name, check in CHECKS.items():
        if name in declared:
            results.append(CheckResult(name, "skipped", declared[name]))
            continue
        try:
            check(case)
        except _NotApplicable as reason:
            results.append(CheckResult(name, "skipped", str(reason)))
        except _Broken as failure:
            results.append(CheckResult(name, "failed", str(failure)))
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything; it becomes a named failure
            results.append(CheckResult(name, "failed", f"raised {type(error).__name__}: {error}"))
        else:
            results.append(CheckResult(name, "passed"))
    return results


class _Broken(Exception):
    """A check failed."""


class _NotApplicable(Exception):
    """A check does not apply to this class."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _Broken(message)


class _Case:
    """The class under test with what several checks share."""

    def __init__(self, cls: type[Tokenizer], overrides: dict[str, Any]) -> None:
        self.cls, self.overrides = cls, overrides
        self.runtime: LocalRuntime = local_runtime()

    def make(self, **settings: Any) -> Tokenizer:
        """A fresh tokenizer with the smoke budget, the caller's overrides and ``settings``."""
        base = {"codebook_size": CODEBOOK_SIZE, **self.cls.budgets.get("smoke", {}), **self.overrides}
        return self.cls(self.cls.config_class(**{**base, **settings}))

    def fit(self, features: ItemFeatures, seed: int = 0, **settings: Any) -> Tokenizer:
        return self.make(**settings).fit(features, Rng(seed).child("tokenizer"), self.runtime)

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


def _metadata(case: _Case) -> None:
    cls, info = case.cls, getattr(case.cls, "info", None)
    _require(isinstance(info, TokenizerInfo), f"info must be a TokenizerInfo, got {type(info).__name__}")
    if not isinstance(info, TokenizerInfo):
        return
    _require(bool(info.title.strip()), "info.title is empty")
    _require(1950 <= info.year <= 2100, f"info.year must be a year, got {info.year}")
    unknown = sorted(set(info.modalities) - set(INPUTS))
    _require(not unknown, f"info.modalities must be of {', '.join(INPUTS)}, got {', '.join(unknown)}")
    needed = {name for group in info.required for name in group.split("|")}
    _require(
        needed <= set(info.modalities),
        f"info.required names {sorted(needed - set(info.modalities))}, which info.modalities lacks",
    )
    _require(
        info.control or bool(info.modalities) or bool(info.needs_settings),
        "info.modalities is empty, though neither info.control nor info.needs_settings is set",
    )
    config = cls.config_class
    _require(
        is_dataclass(config) and issubclass(config, TokenizerConfig),
        "config_class must be a dataclass that extends TokenizerConfig",
    )
    _require(bool(getattr(config, "__dataclass_params__").frozen), "config_class must be frozen")  # noqa: B009
    known = {f.name for f in fields(config)}
    for budget, changes in cls.budgets.items():
        _require(budget in BUDGETS, f"unknown budget {budget!r}, wanted one of {', '.join(BUDGETS)}")
        _require(set(changes) <= known, f"budget {budget} sets {sorted(set(changes) - known)}, which the config lacks")
        config(**changes)
    _check_literal_info(cls)


def _check_literal_info(cls: type[Tokenizer]) -> None:
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    calls = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and any(isinstance(t, ast.Name) and t.id == "INFO" for t in node.targets)
    ]
    named = [c for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) == "TokenizerInfo" and not c.args]
    _require(len(named) == 1, "the module needs one `INFO = TokenizerInfo(...)` with keyword arguments only")
    try:
        for keyword in named[0].keywords:
            ast.literal_eval(keyword.value)
    except ValueError as error:
        raise _Broken(f"INFO must have literal arguments only, to be readable without import: {error}") from error


def _shapes(case: _Case) -> None:
    sids = case.sids.check(case.features.n_items, case.cls.__name__)
    _require(
        sids.ordered == case.cls.info.ordered or case.cls.info.control,
        f"ordered is {sids.ordered}, info.ordered {case.cls.info.ordered}",
    )
    _require(len(sids.position_names) in (0, sids.code_length), "position_names must be empty or one per position")
    _require(bool((sids.codes != PAD).any(axis=1).all()), "an item has PAD at every position")
    info = case.cls.info
    _require(
        not sids.has_pad.any() or info.variable_length or info.composite,
        "a code is PAD, though info.variable_length is not set",
    )
    if sids.weights is not None:
        _require(sids.weights.shape == sids.codes.shape, f"weights have shape {sids.weights.shape}")
        _require(bool((sids.weights[sids.codes == PAD] == 0).all()), "weights must be 0 where the code is PAD")


def _reconstruction(case: _Case) -> None:
    for name, rows in case.sids.reconstruction.items():
        _require(name in case.features.modalities, f"reconstruction of {name!r}, which is no modality of the features")
        wanted = case.features.modalities[name].shape
        _require(rows.shape == wanted, f"reconstruction of {name} has shape {rows.shape}, wanted {wanted}")
        _require(rows.dtype == np.float32, f"reconstruction of {name} is {rows.dtype}, wanted float32")
        _require(bool(np.isfinite(rows).all()), f"reconstruction of {name} is not finite")


def _determinism(case: _Case) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_25)  # a second fit under another global seed must not notice it
        again = case.fit(case.features)
    codes = case.encode(again, case.features).codes
    changed = int((codes != case.sids.codes).any(axis=1).sum())
    _require(not changed, f"two fits with one seed differ in the codes of {changed} of {len(codes)} items")


def _encode_is_pure(case: _Case) -> None:
    before = {name: array.copy() for name, array in case.fitted.state_dict().items()}
    first, second = case.encode(case.fitted, case.features), case.encode(case.fitted, case.features)
    _require(bool((first.codes == second.codes).all()), "two calls of encode give different codes")
    after = case.fitted.state_dict()
    changed = [n for n in before if n not in after or not np.array_equal(before[n], after[n], equal_nan=True)]
    _require(not changed and len(before) == len(after), f"encode changes the state: {', '.join(changed)}")


def _round_trip(case: _Case) -> None:
    state = case.fitted.state_dict()
    for name, array in state.items():
        kind = getattr(array, "dtype", type(array).__name__)
        _require(
            isinstance(array, np.ndarray) and array.dtype.kind in "biuf",
            f"state entry {name} must be a numeric numpy array, got {kind}",
        )
    other = case.make()
    other.load_state_dict({name: array.copy() for name, array in state.items()})
    codes = case.encode(other, case.features).codes
    changed = int((codes != case.sids.codes).any(axis=1).sum())
    _require(not changed, f"after save and load the codes of {changed} of {len(codes)} items differ")


def _foreign_state(case: _Case) -> None:
    _must_refuse(lambda: case.make().load_state_dict({}), "an empty state dict")


def _features_untouched(case: _Case) -> None:
    features = planted_features(seed=1)
    before = {m: e.copy() for m, e in features.modalities.items()}
    counts, items = features.train_counts.copy(), features.sequences.items.copy()
    case.encode(case.fit(features), features)
    changed = [m for m in before if not np.array_equal(before[m], features.modalities[m])]
    changed += [] if np.array_equal(counts, features.train_counts) else ["train_counts"]
    changed += [] if np.array_equal(items, features.sequences.items) else ["sequences"]
    _require(not changed, f"fit or encode changes {', '.join(changed)} of the features in place")


def _unseen_items(case: _Case) -> None:
    features = planted_features(300, seed=2)
    fitted = case.fit(features.take(np.arange(240)))
    case.encode(fitted, features).check(300, case.cls.__name__)
    case.encode(fitted, features.take(np.arange(240, 300))).check(60, case.cls.__name__)


def _missing(*gone: str) -> Callable[[_Case], None]:
    def check(case: _Case) -> None:
        left = tuple(m for m in WIDTHS if m not in gone)
        features = planted_features(modalities=left)
        if all(
            any(name in (*left, "sequences", "categories") for name in group.split("|")) for group in case.cls.info.required
        ):
            case.encode(case.fit(features), features).check(features.n_items, case.cls.__name__)
        else:
            _must_refuse(lambda: case.fit(features), f"features without {' and '.join(gone)} (see info.required)")

    return check


def _tiny(case: _Case) -> None:
    features = planted_features(5)
    case.encode(case.fit(features, codebook_size=2), features).check(5, case.cls.__name__)


def _one_code(case: _Case) -> None:
    sids = case.encode(case.fit(case.features, codebook_size=1), case.features)
    sids.check(case.features.n_items, case.cls.__name__)
    _require(int(sids.codes.max()) == 0, f"codebook_size=1 gives code {int(sids.codes.max())}")


def _not_finite(case: _Case) -> None:
    read = [m for m in case.cls.info.modalities if m in WIDTHS]
    if not read:
        raise _NotApplicable("reads no embeddings")
    for value in (np.nan, np.inf):
        broken = {m: e.copy() for m, e in case.features.modalities.items()}
        for name in read:
            broken[name][-1, 0] = value
        _must_refuse(partial(case.fit, replace(case.features, modalities=broken)), f"{value} in embeddings")


def _capacity(case: _Case) -> None:
    features = planted_features(40)
    _must_refuse(lambda: case.fit(features, codebook_size=64), "codebook_size=64 for 40 items")


def _must_refuse(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except InputError as error:
        _require(bool(error.wanted or error.do), f"the error for {what} does not say what is wanted or to do: {error}")
        return
    raise _Broken(f"accepts {what}; wanted an InputError that says what to do")


CHECKS: Mapping[str, Callable[[_Case], None]] = {
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
