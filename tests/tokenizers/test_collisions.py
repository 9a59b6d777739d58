"""Collision policies: hand-worked codes, uniqueness where promised, moves inside prefix groups, truthful reports."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.plugins.registry import load, plugins
from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError, StageError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer
from sidbench.tokenizers.blocks.quantisers.sinkhorn import sinkhorn_assign, squared_distances
from sidbench.tokenizers.collisions.base import Costs, Resolved, collision_rate
from sidbench.tokenizers.opq import Opq, OpqConfig
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig

POLICIES = tuple(plugins("collisions"))
FEATURES = planted_features(60)
RNG = Rng(3).child("collisions")


def table(rows: list[list[int]], sizes: list[int], ordered: bool = True, **more: Any) -> SemanticIds:
    return SemanticIds(np.array(rows, np.int32), np.array(sizes, np.int32), ordered, **more)


def resolve(name: str, sids: SemanticIds, costs: Costs | None = None, rng: Rng = RNG, **config: Any) -> Resolved:
    cls = load("collisions", name)
    features = FEATURES.take(np.arange(sids.n_items) % FEATURES.n_items)
    return cls(cls.config_class(**config)).resolve(sids, costs or Costs(sids, features), rng)


class FixedCosts(Costs):
    """Costs from a given table [N, K]."""

    def __init__(self, sids: SemanticIds, values: np.ndarray) -> None:
        super().__init__(sids, FEATURES)
        self.values, self.asked = values.astype(np.float32), []

    def _block(self, rows: np.ndarray) -> np.ndarray:
        self.source = "tokenizer"
        self.asked.extend(rows.tolist())
        return self.values[rows]


@st.composite
def sid_tables(draw: st.DrawFn) -> SemanticIds:
    """Few SIDs for many items, with PAD in any position, also in a whole one."""
    n, length = draw(st.integers(1, 24)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 6), min_size=length, max_size=length))
    low = [draw(st.sampled_from([0, PAD])) for _ in sizes]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = np.stack([generator.integers(a, k, n) for a, k in zip(low, sizes, strict=True)], axis=1)
    if draw(st.booleans()) and draw(st.booleans()):
        codes[:, draw(st.integers(0, length - 1))] = PAD
    weights = np.where(codes == PAD, 0, 0.5).astype(np.float32) if draw(st.booleans()) else None
    return SemanticIds(
        codes.astype(np.int32),
        np.array(sizes, np.int32),
        draw(st.booleans()),
        weights,
        {"text": np.ones((n, 3), np.float32)},
    )


def last_position(codes: np.ndarray) -> int:
    used = [p for p in range(codes.shape[1]) if (codes[:, p] != PAD).any()]
    return used[-1] if used else codes.shape[1] - 1


@pytest.mark.parametrize("name", POLICIES)
@given(sids=sid_tables())
@settings(max_examples=25, deadline=None)
def test_every_policy_keeps_its_promises(name: str, sids: SemanticIds) -> None:
    before = sids.codes.copy()
    cls = load("collisions", name)
    resolved = resolve(name, sids)
    made, report = resolved.sids.check(sids.n_items, name), resolved.report
    assert np.array_equal(before, sids.codes)
    rate = 1 - len({tuple(row) for row in before.tolist()}) / len(before)
    after = 1 - len({tuple(row) for row in made.codes.tolist()}) / len(before)
    assert report.collision_rate_before == pytest.approx(rate) == pytest.approx(collision_rate(before))
    assert report.collision_rate_after == pytest.approx(after)
    assert after == 0 or not cls.info.unique
    assert after <= rate
    assert (after > 0) == any("still share" in note for note in report.notes)
    assert report.tokens_added == int(made.sizes.sum()) - int(sids.sizes.sum())
    kept = made.codes[:, : sids.code_length]
    assert report.items_moved == int((kept != before).any(axis=1).sum())
    assert len(made.position_names) in (0, made.code_length)
    if cls.info.moves:
        others = [p for p in range(sids.code_length) if p != last_position(before)]
        assert np.array_equal(made.codes[:, others], before[:, others]) and made.code_length == sids.code_length
    else:
        assert np.array_equal(kept, before) and report.items_moved == 0
        assert set(made.reconstruction) == {"text"}
        if sids.weights is not None:
            assert made.weights is not None and made.weights.shape == made.codes.shape
            assert (made.weights[made.codes == PAD] == 0).all() and (made.weights[made.codes != PAD] > 0).all()
            assert (made.weights[:, sids.code_length :][made.codes[:, sids.code_length :] != PAD] == 1).all()
    if report.items_moved:
        assert made.weights is None and not made.reconstruction
        assert any(note.startswith("reconstruction") and "dropped" in note for note in report.notes)
    extra = (made.codes[:, sids.code_length :] != PAD).any(axis=1)
    assert report.items_with_extra_token == int(extra.sum())
    assert set(report.numbers()) <= set(vars(report)) and all(np.isfinite(v) for v in report.numbers().values())
    again = resolve(name, sids)
    assert np.array_equal(again.sids.codes, made.codes) and again.report == report


HAND = [[0, 1], [2, 0], [0, 1], [0, 1], [2, 2], [2, 0]]


def test_append_by_hand() -> None:
    made = resolve("append", table(HAND, [3, 3])).sids
    assert made.codes[:, 2].tolist() == [0, 0, 1, 2, 0, 1]
    assert made.sizes.tolist() == [3, 3, 3]
    assert made.position_names == ("position 1", "position 2", "collision rank")


def test_append_sparse_by_hand_and_without_collisions() -> None:
    resolved = resolve("append_sparse", table(HAND, [3, 3]))
    assert resolved.sids.codes[:, 2].tolist() == [0, 0, 1, 2, PAD, 1]
    assert resolved.report.items_with_extra_token == 5 and resolved.report.tokens_added == 3
    unique = table([[0, 0], [0, 1], [1, PAD]], [2, 2])
    assert resolve("append_sparse", unique).sids is unique
    assert resolve("append", unique).sids.codes[:, 2].tolist() == [0, 0, 0]


def test_bucket_by_hand_running_and_random() -> None:
    made = resolve("bucket", table(HAND, [3, 3]))
    assert made.sids.codes.tolist() == [[0, 0], [2, 0], [0, 1], [0, 2], [2, 1], [2, 2]]
    assert made.report.extra_distortion is None and made.report.items_moved == 4
    random = resolve("bucket", table(HAND, [3, 3]), index="random", slots=50).sids
    assert random.sizes.tolist() == [3, 50] and collision_rate(random.codes) == 0 and random.codes[:, 1].max() > 2
    with pytest.raises(InputError, match="collisions.slots=3"):
        resolve("bucket", table(HAND, [3, 3]), slots=2)


def test_hash_slots_are_uniform_permutations_and_too_few_are_refused() -> None:
    sids = table([[i // 4] for i in range(400)], [100])
    made = resolve("hash_slot", sids, buckets=8).sids
    counts = np.bincount(made.codes[:, 1], minlength=8)
    assert made.sizes.tolist() == [100, 8] and collision_rate(made.codes) == 0
    assert ((counts - 50) ** 2 / 50).sum() < 24.3  # chi-square, 7 degrees of freedom, p = .001; seeded
    assert not np.array_equal(made.codes, resolve("hash_slot", sids, rng=Rng(4), buckets=8).sids.codes)
    with pytest.raises(InputError, match="got 3; wanted at least 4.*collisions.buckets=4"):
        resolve("hash_slot", sids, buckets=3)


def brute_force(codes: list[int], costs: np.ndarray) -> tuple[int, int, float]:
    """(-distinct codes, changes, extra cost) of the best codes of one prefix group."""
    rows = np.arange(len(codes))
    base = costs[rows, codes].sum()
    return min(
        (-len(set(new)), int((np.array(new) != codes).sum()), round(float(costs[rows, new].sum() - base), 4))
        for new in itertools.product(range(costs.shape[1]), repeat=len(codes))
    )


@given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=6), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_reassign_is_the_brute_force_optimum(codes: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).random((len(codes), 4)).astype(np.float32)
    sids = table([[0, c] for c in codes], [1, 4])
    resolved = resolve("reassign", sids, FixedCosts(sids, values))
    new = resolved.sids.codes[:, 1]
    rows = np.arange(len(codes))
    extra = float(values[rows, new].sum() - values[rows, codes].sum())
    found = (-len(set(new.tolist())), int((new != codes).sum()), round(extra, 4))
    best = brute_force(codes, values)
    assert found[:2] == best[:2] and found[2] == pytest.approx(best[2], abs=2e-4)
    assert resolved.report.extra_cost_per_item == pytest.approx(extra / len(codes), abs=1e-6)
    if resolved.report.items_moved:
        moved = new != codes
        before = values[rows, codes][moved].sum()
        assert resolved.report.extra_distortion == pytest.approx(extra / before, rel=1e-4, abs=1e-5)
        assert resolved.report.cost_source == "tokenizer"


def test_reassign_asks_for_costs_of_colliding_items_only_and_leaves_pad_alone() -> None:
    sids = table([[0, 0], [0, 0], [0, 1], [1, PAD], [1, PAD], [2, 1]], [3, 4])
    costs = FixedCosts(sids, np.array([[0, 9, 2, 3], [0, 9, 5, 1], *[[0, 0, 0, 0]] * 4]))
    resolved = resolve("reassign", sids, costs)
    assert resolved.sids.codes.tolist() == [[0, 0], [0, 3], [0, 1], [1, PAD], [1, PAD], [2, 1]]
    assert set(costs.asked) == {0, 1}
    assert any("no code at the last position" in note for note in resolved.report.notes)
    assert resolved.report.collision_rate_after == pytest.approx(1 / 6)


def test_reassign_says_when_a_group_is_too_large() -> None:
    resolved = resolve("reassign", table([[0, 0]] * 5, [1, 3]))
    assert sorted(set(resolved.sids.codes[:, 1].tolist())) == [0, 1, 2] and resolved.report.items_moved == 2
    assert any("more items than the 3 codes" in note for note in resolved.report.notes)
    assert any("3 items in 1 groups still share a SID" in note for note in resolved.report.notes)


def naive_sinkhorn(distances: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """The plan in the matrix form of the reference, float64."""
    d = distances.double()
    middle = (d.max() + d.min()) / 2
    q = torch.exp(-((d - middle) / (d.max() - middle + 1e-5)) / epsilon)
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q


@pytest.mark.parametrize(("rows", "codes", "epsilon"), [(64, 16, 0.003), (200, 32, 0.01), (40, 8, 1.0), (500, 100, 0.003)])
def test_sinkhorn_equals_the_matrix_form(rows: int, codes: int, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(rows)
    d = squared_distances(torch.randn(rows, 5, generator=generator), torch.randn(codes, 5, generator=generator))
    assert torch.equal(sinkhorn_assign(d, epsilon, 50), naive_sinkhorn(d, epsilon, 50).argmax(1))
    batched = sinkhorn_assign(torch.stack([d, 2 * d.flip(0)]), epsilon, 50)
    assert torch.equal(batched, torch.stack([sinkhorn_assign(d, epsilon, 50), sinkhorn_assign(d.flip(0), epsilon, 50)]))


@pytest.mark.parametrize("epsilon", [0.003, 0.001])
def test_sinkhorn_of_fewer_rows_than_codes_takes_the_nearest_of_the_codes_a_row_owns(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(3)
    d = squared_distances(torch.randn(3, 5, generator=generator), torch.randn(16, 5, generator=generator))
    plan = naive_sinkhorn(d, 0.003, 50)
    owned = plan >= plan.amax(1, keepdim=True) * (1 - 1e-6)
    assert (owned.sum(1) > 1).any()  # the plan alone leaves the choice to rounding
    assert torch.equal(sinkhorn_assign(d, epsilon, 50), d.masked_fill(~owned, torch.inf).argmin(1))


def test_sinkhorn_balances_and_is_safe_at_any_epsilon() -> None:
    generator = torch.Generator().manual_seed(0)
    x, centres = torch.randn(512, 8, generator=generator), torch.randn(64, 8, generator=generator)
    centres[1:] *= 2  # so that the first is the nearest of most rows
    centres[0] = 0
    d = squared_distances(x, centres)
    nearest, balanced = torch.bincount(d.argmin(1), minlength=64), torch.bincount(sinkhorn_assign(d), minlength=64)
    assert int(nearest.max()) > 40 and int(balanced.max()) <= 12 and int(balanced.min()) >= 4
    small = torch.bincount(sinkhorn_assign(d, epsilon=1e-4, iterations=50), minlength=64)
    assert int(small.max()) < int(nearest.max())
    assert sinkhorn_assign(torch.zeros(4, 3)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.003, 120), (0.0005, 120), (0.003, 1), (0.003, 51)])
def test_sinkhorn_equals_the_same_iteration_on_logarithms(epsilon: float, iterations: int) -> None:
    generator = torch.Generator().manual_seed(1)
    d = squared_distances(torch.randn(300, 6, generator=generator), torch.randn(20, 6, generator=generator)).double()
    middle = (d.max() + d.min()) / 2
    energy = -(d - middle) / (d.max() - middle + 1e-5) / epsilon
    u = torch.zeros(300, 1, dtype=torch.float64)
    for _ in range(iterations):
        v = -np.log(20) - torch.logsumexp(energy + u, 0, keepdim=True)
        u = -np.log(300) - torch.logsumexp(energy + v, 1, keepdim=True)
    assert torch.equal(sinkhorn_assign(d, epsilon, iterations), (energy + v).argmax(1))


def test_squared_distances_are_those_of_cdist() -> None:
    x, centres = torch.randn(30, 4), torch.randn(7, 4)
    assert torch.allclose(squared_distances(x, centres), torch.cdist(x, centres) ** 2, atol=1e-4)


def test_the_sinkhorn_policy_resolves_what_distances_can_tell_apart() -> None:
    generator = np.random.default_rng(0)
    sids = table([[i // 6, 0] for i in range(60)], [10, 16])
    resolved = resolve("sinkhorn", sids, FixedCosts(sids, generator.random((60, 16))))
    assert resolved.report.collision_rate_before == pytest.approx(50 / 60)
    assert resolved.report.collision_rate_after < 0.1
    assert any("rounds of Sinkhorn" in note for note in resolved.report.notes)
    alike = resolve("sinkhorn", sids, FixedCosts(sids, np.tile(generator.random(16), (60, 1))))
    assert alike.report.collision_rate_after == pytest.approx(50 / 60)


@pytest.mark.parametrize("cls", [RqKMeans, Opq])
def test_code_costs_are_what_encode_minimises_and_the_policies_use_them(cls: type[Tokenizer], runtime: LocalRuntime) -> None:
    config = (
        RqKMeansConfig(code_length=2, codebook_size=8)
        if cls is RqKMeans
        else OpqConfig(code_length=2, codebook_size=8, **Opq.budgets["smoke"])
    )
    features = planted_features(240)
    tokenizer = cls(config).fit(features, Rng(0), runtime)
    sids = tokenizer.encode(features, runtime)
    costs = tokenizer.code_costs(features, runtime)
    assert costs is not None and costs.shape == (240, 8) and costs.dtype == np.float32
    assert np.array_equal(costs.argmin(1), sids.codes[:, -1])
    rows = np.array([7, 3, 200])
    lazy = Costs(sids, features, tokenizer, runtime)
    assert np.allclose(lazy.of(rows), costs[rows], atol=1e-5) and lazy.source == "tokenizer"
    report = resolve_with(sids, Costs(sids, features, tokenizer, runtime)).report
    assert report.cost_source == "tokenizer" and report.items_moved > 0
    assert report.extra_distortion is not None and report.extra_distortion > 0
    trailing = replace(
        sids,
        codes=np.concatenate([sids.codes, np.full((240, 1), PAD, np.int32)], 1),
        sizes=np.append(sids.sizes, 5).astype(np.int32),
    )
    assert resolve_with(trailing, Costs(trailing, features, tokenizer, runtime)).report.cost_source == "estimated"


def resolve_with(sids: SemanticIds, costs: Costs) -> Resolved:
    cls = load("collisions", "reassign")
    resolved: Resolved = cls(cls.config_class()).resolve(sids, costs, RNG)
    return resolved


def with_content(content: np.ndarray) -> ItemFeatures:
    n = len(content)
    return replace(
        FEATURES.take(np.arange(n)), modalities={"text": content.astype(np.float32)}, available={"text": np.ones(n, bool)}
    )


def test_estimated_costs_find_the_planted_last_position() -> None:
    """Content = prefix part + last part: the estimate must rank the item's own last code first."""
    draw = np.random.default_rng(1)
    for ordered in (True, False):
        codes = draw.integers(4, size=(400, 3)).astype(np.int32)
        parts = draw.standard_normal((3, 4, 12))
        content = sum(parts[p][codes[:, p]] for p in range(3)) + 0.05 * draw.standard_normal((400, 12))
        repeated = np.take(np.arange(60), np.arange(400) % 60)
        features = replace(
            with_content(content[:60]),
            modalities={"text": content.astype(np.float32)},
            available={"text": np.ones(400, bool)},
            train_counts=np.ones(400, np.int64),
            richness=np.ones(400, np.float32),
            categories=None,
            item_text=None,
        )
        assert len(repeated) == features.n_items
        sids = SemanticIds(codes, np.array([4, 4, 5], np.int32), ordered)
        costs = Costs(sids, features)
        values = costs.of(np.arange(400))
        assert values.shape == (400, 5) and costs.source == "estimated"
        assert np.mean(values[:, :4].argmin(1) == codes[:, 2]) > 0.95
        # Code 4 has no item: its estimate is the mean residual, the same claim for everyone.
        assert np.isfinite(values[:, 4]).all()


def test_estimated_costs_by_hand() -> None:
    """One prefix group, contents 0, 2, 10: mean 4, residuals -4, -2, 6; code 0 holds the first two, code 1 the third."""
    sids = table([[0, 0], [0, 0], [0, 1], [1, 1]], [2, 2])
    values = Costs(sids, with_content(np.array([[0.0], [2.0], [10.0], [7.0]]))).of(np.array([0, 1, 2]))
    assert values.tolist() == [[1.0, 100.0], [1.0, 64.0], [81.0, 0.0]]


def test_costs_fall_back_to_behaviour_and_refuse_nothing_or_nonsense(runtime: LocalRuntime) -> None:
    sids = table([[0, 0], [0, 0], [0, 1]], [1, 4])
    only = planted_features(60, modalities=("behaviour",)).take(np.arange(20, 23))
    assert np.isfinite(Costs(sids, only).of(np.arange(3))).all()
    with pytest.raises(InputError, match="at least one modality"):
        Costs(sids, replace(only, modalities={}, available={})).of(np.arange(3))

    class Wrong(Opq):
        def code_costs(self, features: ItemFeatures, runtime: Any) -> np.ndarray:
            return np.full((features.n_items, 3), np.nan, np.float32)

    with pytest.raises(StageError, match=r"finite of shape \(3, 4\)"):
        Costs(sids, only, Wrong(OpqConfig()), local_runtime()).of(np.arange(3))
