"""PPNet on planted like-probabilities, its controls and its parts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing import recommenders as testing_recommenders
from sidbench.benchmark.testing.recommenders import check_recommender, make_ranking, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import RankingData, RankingRows
from sidbench.recommenders.blocks.item_representation import ItemLookup
from sidbench.recommenders.blocks.ranking import RankingBatches, area_under_curve
from sidbench.recommenders.ppnet import Ppnet, PpnetConfig
from sidbench.tokenizers.base import PAD, SemanticIds

N_ITEMS, N_USERS = 40, 60
EVERY = ("item_id", "hashed_id", "sid_concat", "sid_sum", "sid_prefix", "sid+id")


def planted(seed: int, permute: bool = False) -> tuple[RankingData, np.ndarray]:
    """Likes drawn from a known probability of (taste group of the user, code of the item); the truth of test rows."""
    generator = np.random.default_rng(seed)
    taste = generator.normal(size=(3, 8)) * 1.5

    def rows(count: int, first: int) -> tuple[RankingRows, np.ndarray]:
        user, item = generator.integers(N_USERS, size=count), generator.integers(N_ITEMS, size=count)
        truth = 1 / (1 + np.exp(-taste[user % 3, item % 8]))
        label = (generator.random(count) < truth).astype(np.float32)
        zero = np.zeros(count, np.int32)
        label = generator.permutation(label) if permute else label
        return RankingRows(
            user.astype(np.int32),
            item.astype(np.int32),
            label,
            zero,
            zero,
            np.full((count, 2), -1, np.int32),
            np.arange(first, first + count),
        ), truth

    train, validation, (test, truth) = rows(4000, 0)[0], rows(800, 4000)[0], rows(3000, 4800)
    return RankingData(N_USERS, N_ITEMS, {"train": train, "validation": validation, "test": test}, {}, {}), truth


SIDS = SemanticIds(
    np.stack([np.arange(N_ITEMS) % 8, np.arange(N_ITEMS) // 8], axis=1).astype(np.int32), np.array([8, 5], np.int32), False
)
CONFIG = {"epochs": 8, "batch_size": 256, "learning_rate": 3e-3, "hidden": (32, 16), "item_width": 16, "code_width": 8}


def test_planted_like_probability_is_recovered_but_not_beaten():
    data, truth = planted(0)
    test = data.rows["test"]
    oracle = area_under_curve(truth, test.label)
    model = Ppnet(PpnetConfig(**CONFIG)).fit(data, SIDS, Rng(0), local_runtime())
    auc = area_under_curve(model.predict(data, "test", SIDS, local_runtime()), test.label)
    assert oracle - 0.04 < auc < oracle + 0.01


def test_permuted_labels_leave_nothing_to_learn():
    data, _ = planted(1, permute=True)
    model = Ppnet(PpnetConfig(**CONFIG)).fit(data, SIDS, Rng(0), local_runtime())
    auc = area_under_curve(model.predict(data, "test", SIDS, local_runtime()), data.rows["test"].label)
    assert abs(auc - 0.5) < 3 * 0.0115  # Hanley-McNeil standard error with about 1500 + 1500 rows


@pytest.mark.parametrize("representation", [r for r in EVERY if r != "sid_concat"])
def test_other_representations_learn_too_and_survive_saving(representation):
    data, truth = planted(0)
    sids = None if representation == "item_id" else replace(SIDS, ordered=True)
    config = PpnetConfig(**{**CONFIG, "epochs": 4, "prefix_rows": 64}, representation=representation)
    model = Ppnet(config).fit(data, sids, Rng(0), local_runtime())
    scores = model.predict(data, "test", sids, local_runtime())
    label = data.rows["test"].label
    missing = 0.2 if representation == "hashed_id" else 0.08  # 40 items share 23 rows, which hides part of their likes
    assert area_under_curve(scores, label) > max(0.6, area_under_curve(truth, label) - missing)
    copy = Ppnet(config)
    copy.load_state_dict(model.state_dict())
    assert np.array_equal(scores, copy.predict(data, "test", sids, local_runtime()))


@pytest.mark.parametrize("representation", EVERY)
def test_conformance(representation, monkeypatch):
    make = testing_recommenders.make_sids
    monkeypatch.setattr(testing_recommenders, "make_sids", lambda *a, **k: replace(make(*a, **k), ordered=True))
    check_recommender(Ppnet, {"representation": representation, "prefix_rows": 64})


def test_weights_reach_target_history_and_prior_and_survive_saving():
    data, plain = make_ranking(), make_sids()
    weights = np.random.default_rng(0).uniform(0.2, 3, plain.codes.shape).astype(np.float32)
    config = PpnetConfig(**Ppnet.budgets["smoke"], code_weights=True)
    ones, some = (replace(plain, weights=w) for w in (np.ones_like(weights), weights))
    model = Ppnet(config).fit(data, some, Rng(0), local_runtime())
    scores = model.predict(data, "test", some, local_runtime())
    copy = Ppnet(config)
    copy.load_state_dict(model.state_dict())
    assert np.array_equal(scores, copy.predict(data, "test", some, local_runtime()))
    assert not np.array_equal(scores, model.predict(data, "test", ones, local_runtime()))
    with pytest.raises(InputError, match="code_weights"):
        model.predict(data, "test", plain, local_runtime())
    unweighted = Ppnet(replace(config, code_weights=False)).fit(data, plain, Rng(0), local_runtime())
    unit = Ppnet(config).fit(data, ones, Rng(0), local_runtime())
    assert np.array_equal(
        unit.predict(data, "test", ones, local_runtime()), unweighted.predict(data, "test", plain, local_runtime())
    )
    network = model.network_
    made = RankingBatches(data, ItemLookup.of(config, model.layout_, some, data.n_items, "ppnet"), local_runtime()).make(
        data.rows["test"], np.arange(20)
    )
    for part in ("unique", "target"):  # what target and history read, and what the gate prior reads
        assert np.array_equal(
            made[f"{part}_weights"].numpy(), np.where(plain.codes == PAD, 0, weights)[made[f"{part}_items"].numpy()]
        )
        moved = network({**made, f"{part}_weights": 0 * made[f"{part}_weights"]})[0]
        assert not torch.equal(moved, network(made)[0])


def test_the_gate_reads_the_input_without_gradient_and_moves_its_priors():
    """Where no input passes the first layer, a gradient could reach what ``x`` is made of through the gates alone."""
    data, sids = make_ranking(), make_sids()
    model = Ppnet(PpnetConfig(**Ppnet.budgets["smoke"])).fit(data, sids, Rng(0), local_runtime())
    network = model.network_
    lookup = ItemLookup.of(model.config, model.layout_, sids, data.n_items, "ppnet")
    made = RankingBatches(data, lookup, local_runtime()).make(data.rows["test"], np.arange(40))
    with torch.no_grad():
        network.layers[0].weight.zero_()
        network.layers[0].bias.fill_(1.0)
    network.zero_grad()
    network(made)[0].sum().backward()
    gates = ("gates.", "user_prior_table", "item_prior.", "layers.", "out.")
    reached = {n for n, p in network.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    assert all(name.startswith(gates) for name in reached), reached
    assert {"gates.0.0.weight", "user_prior_table"} <= reached
    assert any(name.startswith("item_prior.") for name in reached)


def test_pad_rows_never_reach_a_score():
    """Not through the target, the history or the gate prior."""
    data, sids = make_ranking(), make_sids()
    model = Ppnet(PpnetConfig(**Ppnet.budgets["smoke"])).fit(data, sids, Rng(0), local_runtime())
    scores = model.predict(data, "test", sids, local_runtime())
    with torch.no_grad():
        for part in (model.network_.items, model.network_.item_prior):
            part.codes.table[torch.from_numpy(part.codes.layout.pad_rows)] = 1e3
    assert np.array_equal(scores, model.predict(data, "test", sids, local_runtime()))


def test_another_catalogue_is_refused_by_item_ids():
    config = PpnetConfig(**Ppnet.budgets["smoke"], representation="item_id")
    model = Ppnet(config).fit(make_ranking(), None, Rng(0), local_runtime())
    with pytest.raises(InputError, match="24 items"):
        model.predict(replace(make_ranking(), n_items=24), "test", None, local_runtime())


def test_hashed_ids_state_their_budget_and_collisions():
    data, _ = planted(0)
    config = PpnetConfig(**{**CONFIG, "epochs": 1}, representation="hashed_id")
    notes = Ppnet(config).fit(data, SIDS, Rng(0), local_runtime()).diagnostics()
    by_code = Ppnet(replace(config, representation="sid_concat")).fit(data, SIDS, Rng(0), local_runtime()).diagnostics()
    assert notes["hashed_id_rows"] == round((13 * 8 + 2 * 8 * 16 + 16) / 16)
    assert abs(notes["item_embedding_parameters"] - by_code["item_embedding_parameters"]) <= 16
    assert 2 * notes["sid_concat_parameters"] == by_code["item_embedding_parameters"]
    assert notes["hashed_id_items_sharing_a_row"] >= 40 - 23


def test_pad_adds_a_zero_vector_to_the_item():
    data, sids = make_ranking(), make_sids()
    config = PpnetConfig(**Ppnet.budgets["smoke"], representation="sid_sum")
    model = Ppnet(config).fit(data, sids, Rng(0), local_runtime())
    network = model.network_
    assert network is not None and network.items.codes is not None
    rows = torch.from_numpy(network.items.codes.layout.rows(sids.codes[:1]))  # item 0: PAD at position 2
    with torch.no_grad():
        vector, _ = network.items(torch.tensor([0]), rows)
        expected = network.items.codes.table[rows[0, :2]].sum(dim=0)
    torch.testing.assert_close(vector[0], expected)


def test_embedding_parameters_are_those_of_the_specification():
    data, sids = make_ranking(), make_sids(pad=False)
    model = Ppnet(PpnetConfig(**Ppnet.budgets["smoke"])).fit(data, sids, Rng(0), local_runtime())
    per_use = (4 + 3 + 5) * 16 + 3 * 16 * 32 + 32  # sum_p K_p d_s + L d_s d_i, and the bias
    assert model.diagnostics()["item_embedding_parameters"] == 2 * per_use  # input and gate prior


def test_history_order_and_absent_history_do_not_break():
    data, sids = make_ranking(), make_sids()
    model = Ppnet(PpnetConfig(**Ppnet.budgets["smoke"])).fit(data, sids, Rng(0), local_runtime())
    rows = data.rows["test"]
    swapped = replace(data, rows={"test": replace(rows, history=rows.history[:, ::-1].copy())})
    one, two = (model.predict(d, "test", sids, local_runtime()) for d in (data, swapped))
    np.testing.assert_allclose(one, two, atol=1e-6)  # pooled, so order is free


@pytest.mark.parametrize(
    ("field", "value", "message"), [("item", N_ITEMS, "item"), ("user", -1, "user"), ("day_of_week", 7, "day_of_week")]
)
def test_rows_out_of_range_are_refused(field, value, message):
    data, _ = planted(0)
    rows = replace(data.rows["train"], **{field: np.full(4000, value, np.int32)})
    with pytest.raises(InputError, match=message):
        broken = replace(data, rows={**data.rows, "train": rows})
        Ppnet(PpnetConfig(**CONFIG)).fit(broken, SIDS, Rng(0), local_runtime())


def test_auc_equals_scikit_learn_with_ties():
    generator = np.random.default_rng(0)
    score = generator.integers(0, 6, size=200).astype(float)
    label = generator.integers(0, 2, size=200).astype(np.float32)
    assert area_under_curve(score, label) == pytest.approx(roc_auc_score(label, score))
    assert area_under_curve(np.ones(4), np.array([0.0, 1, 0, 1])) == 0.5
    assert area_under_curve(np.ones(2), np.ones(2)) == 0.5
