"""Every recommender of this project trains under bf16 autocast: near what float32 gives, with float32 weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.code_hash import ROOT
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.benchmark.testing.recommenders import make_ranking, make_retrieval, make_sids
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import Ranker

COUNTS = ("ease", "graph_text", "item_knn", "most_popular")  # nothing is trained
NAMES = sorted(path.stem for path in (ROOT / "recommenders").glob("*.py") if path.stem not in ("base", "__init__", *COUNTS))
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [
    ("mtp", {"decoding": "confidence"}),
    ("eager", {"guidance": 1.0}),
]


@pytest.fixture(autouse=True)
def _float32_afterwards() -> Iterator[None]:
    """accelerate keeps the precision of the process; leave it as other tests expect it."""
    yield
    local_runtime()


def train(name: str, settings: dict[str, Any], runtime: LocalRuntime) -> tuple[float, dict[str, np.ndarray]]:
    cls = installed().load("recommender", name)
    model = cls(
        cls.config_class(
            **{**cls.budgets["smoke"], "dropout": 0.0, "epochs": 1, **settings}
            if "dropout" in cls.config_class.__dataclass_fields__
            else {**cls.budgets["smoke"], "epochs": 1, **settings}
        )
    )
    data = make_ranking() if issubclass(cls, Ranker) else make_retrieval()
    own = StageRuntime(runtime)
    model.fit(data, make_sids() if cls.info.needs_sids else None, Rng(5), own)
    (log,) = own.logs.values()
    return log.losses[0], model.state_dict()


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_bf16_trains_near_float32(name: str, settings: dict[str, Any]) -> None:
    exact, _ = train(name, settings, local_runtime())
    rounded, state = train(name, settings, LocalRuntime(device="cpu", precision="bf16"))
    assert rounded == pytest.approx(exact, rel=0.05)
    assert all(a.dtype != np.float16 and np.isfinite(a).all() for a in state.values())
    assert {a.dtype for a in state.values() if a.dtype.kind == "f"} == {np.dtype(np.float32)}
