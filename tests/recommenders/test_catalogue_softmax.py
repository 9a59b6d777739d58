"""The catalogue loss against the plain softmax over items, its correction by hand, and what negatives may hold."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.blocks import catalogue_softmax
from sidbench.recommenders.blocks.catalogue_softmax import ClassBatch, Negatives, NegativeSampler, catalogue_loss

# Seven items of five classes; classes 1 and 3 are shared.
OF_ITEM = np.array([0, 1, 1, 2, 3, 3, 4])
CLICKS = np.array([5, 0, 1, 3, 0, 2, 9])


def drawn(targets: np.ndarray, draws: int, distribution: str, seed: int = 0) -> Negatives:
    return NegativeSampler(OF_ITEM, CLICKS, draws, distribution).sample(targets, Rng(seed))


def loss_of(query: torch.Tensor, table: torch.Tensor, targets: np.ndarray, negatives: Negatives) -> torch.Tensor:
    own = OF_ITEM[targets]
    log_own = torch.from_numpy(np.log(np.bincount(OF_ITEM))[own].astype(np.float32))
    classes = torch.from_numpy(negatives.classes)
    return catalogue_loss(
        query, table[own], table[classes], log_own, torch.from_numpy(negatives.log_weight), torch.from_numpy(own), classes
    )


def case() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(n, 6, generator=generator).requires_grad_() for n in (9, 5))
    return query, table, np.array([0, 1, 2, 3, 4, 5, 6, 1, 6])


@pytest.mark.parametrize(("draws", "distribution"), [(0, "uniform"), (7, "uniform"), (50, "uniform"), (0, "popularity")])
def test_all_items_as_negatives_are_the_full_softmax_with_its_gradients(monkeypatch, draws, distribution):
    monkeypatch.setattr(catalogue_softmax, "CELLS", 12)  # two rows a piece, and a last one of one row
    query, table, targets = case()
    made = loss_of(query, table, targets, drawn(targets, draws, distribution))
    wanted = F.cross_entropy(query @ table[OF_ITEM].T, torch.from_numpy(targets))
    torch.testing.assert_close(made, wanted)
    for got, expected in zip(
        torch.autograd.grad(2 * made, (query, table)), torch.autograd.grad(2 * wanted, (query, table)), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_correction_by_hand():
    # Probabilities of "popularity" are (clicks + 1) / 27; a hundred draws hold item 6 with probability 1 - (17/27)^100.
    made = drawn(np.array([0]), 100, "popularity")
    kept = {int(c): w for c, w in zip(made.classes, made.log_weight, strict=True)}
    assert kept[4] == pytest.approx(-math.log(1 - (17 / 27) ** 100), abs=1e-6)
    assert kept[0] == pytest.approx(-math.log(1 - (21 / 27) ** 100), abs=1e-6)
    two = drawn(np.array([0]), 2, "popularity")
    assert two.log_weight[two.classes == 4] == pytest.approx(-math.log(1 - (17 / 27) ** 2), abs=1e-6)
    # Uniform draws are without replacement: three of seven.
    uniform = drawn(np.array([0]), 3, "uniform")
    assert uniform.log_weight == pytest.approx([math.log(7 / 3)] * 3)
    # In the batch: its distinct targets, here 0 and 6, of 20 clicks, three draws.
    batch = drawn(np.array([6, 0, 6]), 1024, "in_batch")
    assert batch.classes.tolist() == [0, 4]
    assert batch.log_weight == pytest.approx([-math.log(1 - 0.75**3), -math.log(1 - 0.55**3)], abs=1e-6)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_corrected_sum_over_negatives_is_that_of_the_catalogue_in_expectation(distribution):
    """Removing the correction or counting repeated draws twice moves the mean by far more than its error."""
    score = np.array([0.5, 2.0, -1.0, 1.0, 0.0])
    sums = []
    for seed in range(4000):
        made = drawn(np.array([0]), 3, distribution, seed)
        sums.append(np.exp(score[made.classes] + made.log_weight).sum())
    assert np.mean(sums) == pytest.approx(np.exp(score[OF_ITEM]).sum(), abs=4 * np.std(sums) / 4000**0.5)


def test_own_class_is_no_negative_and_its_twins_are_counted_once():
    query, table, _ = case()
    made = Negatives(np.array([1, 1, 3]), np.array([0.7, 0.7, 0.2], np.float32))
    loss = loss_of(query[:1], table, np.array([2]), made)
    s = (query[0] @ table.T).detach()
    expected = math.log(2 * math.exp(s[1]) + math.exp(s[3] + 0.2)) - float(s[1])
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, table)
    assert gradient[[0, 2, 4]].count_nonzero() == 0 and gradient[[1, 3]].count_nonzero() == 12


def test_one_item_costs_nothing_and_large_scores_stay_finite():
    one = NegativeSampler(np.zeros(1, np.int64), np.array([4]), 1024, "in_batch").sample(np.zeros(3, np.int64), Rng(0))
    query, own = torch.full((1, 2), 1e3, requires_grad=True), torch.ones(1, 2)
    zero = torch.zeros(1, dtype=torch.int64)
    loss = catalogue_loss(query, own, own, torch.zeros(1), torch.from_numpy(one.log_weight), zero, zero)
    assert loss.item() == 0 and one.log_weight.tolist() == [0]
    far = catalogue_loss(query, -own, own, torch.zeros(1), torch.zeros(1), zero, zero + 1)
    assert far.item() == pytest.approx(4000)
    assert torch.isfinite(torch.autograd.grad(far, query)[0]).all()


def test_samples_depend_on_the_seed_alone_and_hold_no_item_twice():
    sampler = NegativeSampler(np.arange(500), np.arange(500), 200, "uniform")
    first, again, other = (sampler.sample(np.array([1]), Rng(seed)).classes for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(np.unique(first)) == 200
    popular = NegativeSampler(np.arange(500), np.arange(500) ** 2, 200, "popularity").sample(np.array([1]), Rng(0)).classes
    assert len(np.unique(popular)) == len(popular) < 200 and popular.mean() > 300


def test_batch_names_every_class_once():
    made = ClassBatch.of(np.array([[3, 9], [9, 3]]), np.array([9, 1]), np.array([7, 3]))
    assert made.classes.tolist() == [1, 3, 7, 9]
    for got, wanted in ((made.inputs, [[3, 9], [9, 3]]), (made.own, [9, 1]), (made.negative, [7, 3])):
        assert made.classes[got].tolist() == wanted
