"""Conformance checks of collision policies, for every one of the suite and for strangers' (``bench plugin check``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from sidbench.benchmark.testing.checks import CheckResult, PluginCheck, checks_of, conforming, require
from sidbench.benchmark.testing.contract import COMMON, Case
from sidbench.benchmark.testing.planted import planted_features
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.collisions.base import CollisionInfo, CollisionPolicy, Costs, Resolved, collision_rate

N_ITEMS = 60


def collision_policy_checks(cls: type[CollisionPolicy], config: Mapping[str, Any] | None = None) -> list[PluginCheck]:
    """Every conformance check of a collision policy class, on planted SIDs with collisions, PAD and weights.

    config: overrides of the class's settings, on top of its "smoke" budget.
    """
    return checks_of(cls, CollisionPolicy, CHECKS, PolicyCase(cls, config))


def check_collision_policy(cls: type[CollisionPolicy], config: Mapping[str, Any] | None = None) -> list[CheckResult]:
    """Run ``collision_policy_checks``; the results. Raises one ``ConformanceError`` that names every failed check."""
    return conforming(cls, collision_policy_checks(cls, config))


def planted_collisions(n_items: int = N_ITEMS, ordered: bool = True, pad: bool = False) -> SemanticIds:
    """SIDs of three positions (sizes 3, 4 and ``n_items``) shared by items, with weights and a text reconstruction.

    pad: the last position is PAD for every seventh item.
    """
    index = np.arange(n_items)
    codes = np.stack([index % 3, (index // 3) % 4, (index // 12) % 2], axis=1).astype(np.int32)
    if pad:
        codes[::7, 2] = PAD
    weights = np.where(codes == PAD, 0, 0.5).astype(np.float32)
    reconstruction = {"text": np.ones((n_items, 24), np.float32)}
    return SemanticIds(codes, np.array([3, 4, max(n_items, 2)], np.int32), ordered, weights, reconstruction)


class PolicyCase(Case):
    """A policy class, applied to four kinds of SIDs."""

    kind = "collisions"
    info_class = CollisionInfo

    def resolve(self, sids: SemanticIds, seed: int = 3) -> Resolved:
        policy: CollisionPolicy = self.make()
        return policy.resolve(sids, Costs(sids, planted_features(sids.n_items)), Rng(seed).child("collisions"))

    @cached_property
    def resolved(self) -> list[tuple[str, SemanticIds, Resolved]]:
        """What the SIDs are, the SIDs before, and what the policy makes of them."""
        tables = {
            "ordered": planted_collisions(),
            "unordered": planted_collisions(ordered=False),
            "with PAD": planted_collisions(pad=True),
            "one item": planted_collisions(1),
        }
        return [(what, sids, self.resolve(sids)) for what, sids in tables.items()]


def _shapes(case: PolicyCase) -> None:
    for what, before, made in case.resolved:
        sids = made.sids.check(before.n_items, f"{case.cls.__name__} ({what})")
        require(len(sids.position_names) in (0, sids.code_length), f"{what}: position_names must be empty or one a position")
        require(sids.ordered == before.ordered, f"{what}: ordered becomes {sids.ordered}")
        if sids.weights is not None:
            require(sids.weights.shape == sids.codes.shape, f"{what}: weights have shape {sids.weights.shape}")
            require(bool((sids.weights[sids.codes == PAD] == 0).all()), f"{what}: weights must be 0 where the code is PAD")


def _untouched(case: PolicyCase) -> None:
    sids = planted_collisions(pad=True)
    before = [sids.codes.copy(), sids.sizes.copy()]
    case.resolve(sids)
    require(
        np.array_equal(before[0], sids.codes) and np.array_equal(before[1], sids.sizes),
        "resolve changes the SIDs that it is given",
    )


def _determinism(case: PolicyCase) -> None:
    for what, before, made in case.resolved:
        again = case.resolve(before)
        require(np.array_equal(again.sids.codes, made.sids.codes), f"{what}: equal seeds give different codes")
        require(again.report == made.report, f"{what}: equal seeds give different reports")


def _unique(case: PolicyCase) -> None:
    for what, before, made in case.resolved:
        rate, was = collision_rate(made.sids.codes), collision_rate(before.codes)
        require(rate <= was, f"{what}: the collision rate rises from {was:.3f} to {rate:.3f}")
        require(rate == 0 or not case.cls.info.unique, f"{what}: items share SIDs, though info.unique is set")


def _declared(case: PolicyCase) -> None:
    info = case.cls.info
    for what, before, made in case.resolved:
        length = before.code_length
        added = made.sids.code_length - length
        require(added in (0, 1), f"{what}: {added} positions more, wanted 0 or 1")
        require(added == 0 or info.adds, f"{what}: a position is added, though info.adds is not set")
        require(
            np.array_equal(made.sids.codes[:, :2], before.codes[:, :2]), f"{what}: codes before the last position change"
        )
        last = made.sids.codes[:, length - 1]
        moved = last != before.codes[:, -1]
        require(not moved.any() or info.moves, f"{what}: codes of the tokenizer change, though info.moves is not set")
        require(
            not moved.any() or (made.sids.weights is None and not made.sids.reconstruction),
            f"{what}: weights and reconstruction belong to the codes before and must be dropped when items move",
        )


def _pad_stays(case: PolicyCase) -> None:
    for what, before, made in case.resolved:
        none = before.codes[:, -1] == PAD
        got = int((made.sids.codes[none, before.code_length - 1] != PAD).sum())
        require(not got, f"{what}: {got} items without a code at the last position get one")


def _report(case: PolicyCase) -> None:
    for what, before, made in case.resolved:
        codes, report, length = made.sids.codes, made.report, before.code_length
        facts = {
            "collision_rate_before": collision_rate(before.codes),
            "collision_rate_after": collision_rate(codes),
            "items_moved": int((codes[:, :length] != before.codes).any(axis=1).sum()),
            "tokens_added": int(made.sids.sizes.sum()) - int(before.sizes.sum()),
            "items_with_extra_token": int((codes[:, length:] != PAD).any(axis=1).sum()),
        }
        for figure, fact in facts.items():
            said = getattr(report, figure)
            require(bool(np.isclose(said, fact)), f"{what}: report.{figure} is {said}, counted {fact}")
        finite = bool(np.isfinite(list(report.numbers().values())).all())
        require(finite, f"{what}: report holds numbers that are not finite")


CHECKS: Mapping[str, Callable[[Any], None]] = {
    **COMMON,
    "shapes, dtypes and ranges": _shapes,
    "SIDs untouched": _untouched,
    "determinism": _determinism,
    "uniqueness": _unique,
    "adds and moves as declared": _declared,
    "PAD stays": _pad_stays,
    "report": _report,
}
