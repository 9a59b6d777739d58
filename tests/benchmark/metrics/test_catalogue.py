"""Descriptions, documentation and the metrics that are really produced must name the same things."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sidbench.benchmark.metrics import auc, quantisation, ranking_at_k, strata
from sidbench.benchmark.metrics.descriptions import DESCRIPTIONS, HIGHER, LOWER, NEITHER, describe, is_better

DOCUMENT = Path(ranking_at_k.__file__).resolve().parents[2] / "docs" / "metrics.md"


class Ranks:
    better = sid_better = masked_better = np.arange(20)
    tied = sid_tied = masked_tied = np.ones(20, np.int64)
    depth = sid_depth = np.full(20, 20)


def produced() -> set[str]:
    labels = (np.arange(20) % 4).astype(np.int8)
    generator = np.random.default_rng(0)
    retrieval = ranking_at_k.retrieval_metrics(Ranks, labels, generator)
    ranking = auc.ranking_metrics(np.arange(20) // 4, np.arange(20) % 2, np.arange(20.0), labels, generator)
    return {*retrieval.metrics, *retrieval.undefined, *ranking.metrics, *ranking.undefined}


def documented() -> set[str]:
    """Names in the first cell of the page's tables."""
    cells = re.findall(r"^\| (`[^|]+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_page_and_descriptions_list_the_same_names() -> None:
    assert documented() == {entry.pattern for entry in DESCRIPTIONS}


def test_every_produced_name_is_described_once() -> None:
    for name in produced():
        assert sum(entry.matches(name) for entry in DESCRIPTIONS) == 1, name


def test_every_vector_is_documented() -> None:
    text, source = DOCUMENT.read_text(encoding="utf-8"), Path(quantisation.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r'"(\w+)": (?:distribution\.\w+|entropies,|shares,|used,|np\.array|\(codes)', source))
    vectors = {n for n in names if f"{n}_by_position" in text}
    assert {"entropy", "gini", "top_share", "prefixes", "branching", "conditional_entropy", "active"} <= vectors


@pytest.mark.parametrize("entry", DESCRIPTIONS, ids=lambda e: e.pattern)
def test_entries_are_consistent(entry: object) -> None:
    assert entry.direction in (HIGHER, LOWER, NEITHER)  # type: ignore[attr-defined]
    worst, best = entry.worst, entry.best  # type: ignore[attr-defined]
    if worst is not None and best is not None:
        assert (worst > best) == (entry.direction == LOWER)  # type: ignore[attr-defined]
    assert "\n" not in entry.definition  # type: ignore[attr-defined]


def test_lookup_prefers_exact_names_and_knows_its_limits() -> None:
    found = describe("item_recall_at_10_tail")
    assert found is not None and found.pattern == "item_recall_at_{k}_{s}"
    exact = describe("gauc_unweighted")
    assert exact is not None and exact.pattern == "gauc_unweighted"
    for unknown in ("item_recall_at_0", "item_recall", "auc_middle", "nmse_", "recall_at_10"):
        assert describe(unknown) is None


def test_is_better_follows_direction() -> None:
    assert is_better("item_ndcg_at_10", 0.2, 0.1) is True
    assert is_better("collision_rate", 0.2, 0.1) is False
    assert is_better("sid_recall_at_10", 0.2, 0.1) is None
    assert is_better("unheard_of", 0.2, 0.1) is None


def test_strata_names_agree() -> None:
    assert all(describe(f"auc_{name}") for name in strata.NAMES)


def test_descriptions_import_no_numpy() -> None:
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('d', sys.argv[1]); m = "
        "u.module_from_spec(s); sys.modules['d'] = m; s.loader.exec_module(m); sys.exit('numpy' in sys.modules)"
    )
    path = str(Path(ranking_at_k.__file__).with_name("descriptions.py"))
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0
