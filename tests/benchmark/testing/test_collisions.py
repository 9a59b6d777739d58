"""Every in-tree collision policy passes the public conformance checks, and the checks can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.testing.checks import ConformanceError
from sidbench.benchmark.testing.collisions import CHECKS, check_collision_policy, planted_collisions
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds
from sidbench.tokenizers.collisions.append import Append
from sidbench.tokenizers.collisions.base import CollisionPolicy, Costs, Resolved, collision_rate
from sidbench.tokenizers.collisions.reassign import Reassign


@pytest.mark.parametrize("name", [n for n, p in installed().plugins("collisions").items() if p.source == "sidbench"])
def test_in_tree_policy_conforms(name: str) -> None:
    results = check_collision_policy(installed().load("collisions", name))
    assert {r.name for r in results} == set(CHECKS)
    assert {r.status for r in results} <= {"passed", "skipped", "expected"}


class Mutates(Append):
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        sids.codes[0] = 0
        return super().resolve(sids, costs, rng)


class Forgetful(Append):
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        made = super().resolve(sids, costs, rng)
        return replace(made, sids=replace(made.sids, codes=np.zeros_like(made.sids.codes)))


class Boasts(Append):
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        made = super().resolve(sids, costs, rng)
        return replace(made, report=replace(made.report, tokens_added=0))


class Unseeded(Reassign):
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        made = super().resolve(sids, costs, rng)
        draw = np.random.default_rng().permutation(int(sids.sizes[-1]))
        codes = made.sids.codes.copy()
        codes[:, -1] = np.where(codes[:, -1] < 0, codes[:, -1], draw[codes[:, -1]])
        return replace(made, sids=replace(made.sids, codes=codes))


class Undeclared(Reassign):
    info = replace(Reassign.info, moves=False)


class GivesCodes(Append):
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        return super().resolve(sids.with_codes(np.maximum(sids.codes, 0), sids.sizes), costs, rng)


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (Mutates, "SIDs untouched"),
        (Forgetful, "uniqueness"),
        (Boasts, "report"),
        (Unseeded, "determinism"),
        (Undeclared, "adds and moves as declared: ordered: codes of the tokenizer change"),
        (GivesCodes, "PAD stays: with PAD: 9 items"),
        (Append, ""),
        (int, "CollisionPolicy"),
    ],
)
def test_a_faulty_policy_is_named(cls: type[CollisionPolicy], check: str) -> None:
    if not check:
        check_collision_policy(cls)
        return
    with pytest.raises(ConformanceError, match=check):
        check_collision_policy(cls)


def test_the_planted_sids_collide() -> None:
    assert 0.3 < collision_rate(planted_collisions().codes) < 1
    assert planted_collisions(pad=True).has_pad.tolist() == [False, False, True]
