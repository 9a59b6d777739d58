"""What rankers share of their training: the unseen user's row and the embedding penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import make_ranking, make_sids
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.ppnet import Ppnet, PpnetConfig

RUNTIME = local_runtime(threads=1)


def user_rows(**settings: float) -> tuple[np.ndarray, np.ndarray]:
    """The user table ``[n_users + 1, width]`` before and after a fit on the planted rows."""
    data, sids, fitted = make_ranking(), make_sids(), []
    for rate in (1e-6, 3e-3):  # Adam moves a row by the step size, so the first fit is as good as none
        config = PpnetConfig(epochs=1, batch_size=64, patience=0, learning_rate=rate, **settings)  # type: ignore[arg-type]
        network = Ppnet(config).fit(data, sids, Rng(0), RUNTIME).network_
        assert network is not None
        fitted.append(network.user_table.detach().numpy())
    return fitted[0], fitted[1]


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_a_share_of_the_rows_trains_the_unseen_user(rate: float) -> None:
    before, after = user_rows(unknown_user_rate=rate)
    moved = np.abs(after - before).max(1) > 1e-4
    assert moved[-1] == (rate > 0)
    assert moved[:-1].any() == (rate < 1)


def test_the_embedding_penalty_pulls_used_rows_to_zero() -> None:
    data, sids = make_ranking(), make_sids()
    norms = []
    for decay in (0.0, 1.0):
        config = PpnetConfig(epochs=3, batch_size=64, patience=0, learning_rate=3e-3, embedding_decay=decay)
        network = Ppnet(config).fit(data, sids, Rng(0), RUNTIME).network_
        assert network is not None and network.items.codes is not None
        used = torch.from_numpy(np.unique(data.rows["train"].user)).long()
        norms.append((float(network.user_table[used].norm().detach()), float(network.items.codes.table.norm().detach())))
    assert norms[1][0] < 0.5 * norms[0][0] and norms[1][1] < norms[0][1]
