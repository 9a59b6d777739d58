"""Declarations, documentation, records and the metrics that are really produced must name the same things."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidbench.benchmark.metrics import auc, catalogue, declared, quantisation, ranking_at_k, strata
from sidbench.benchmark.metrics.catalogue import (
    all_metrics,
    column_names,
    describe,
    heading,
    headline_names,
    is_better,
    named,
    named_in_papers,
    stratified_names,
    tasks_in_order,
)
from sidbench.benchmark.metrics.cutoffs import CUTOFFS, lead_cutoff
from sidbench.benchmark.metrics.declaration import (
    HIGHER,
    LOWER,
    MODALITIES,
    NEITHER,
    STATISTICS,
    USER_RATIO,
    MetricDeclaration,
)
from sidbench.datasets.features import base as features

ROOT = Path(ranking_at_k.__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"
RECORDS = sorted((ROOT / "leaderboards" / "boards").glob("*/records/*/record.json"))
EACH = pytest.mark.parametrize("entry", all_metrics(), ids=lambda e: e.pattern)


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


def sections() -> dict[str, set[str]]:
    """Anchor of each section of the page -> names in the first cells of its tables."""
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)[1:]
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.M)
        found[title.lower().replace(" ", "-")] = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    return found


# -- one declaration each ----------------------------------------------------------------------------------------------
@EACH
def test_the_page_explains_each_pattern_in_the_section_it_names(entry: MetricDeclaration) -> None:
    assert entry.pattern in sections()[entry.family.section]


def test_the_page_explains_nothing_else() -> None:
    assert set.union(*sections().values()) == {entry.pattern for entry in all_metrics()}


def test_every_produced_name_is_declared_once() -> None:
    for name in produced():
        assert sum(entry.matches(name) for entry in all_metrics()) == 1, name


def test_every_name_on_a_published_record_is_declared_once_for_its_task() -> None:
    names: set[tuple[str | None, str]] = set()
    for path in RECORDS:
        tree = json.loads(path.read_text())
        names |= {(t["task"], m) for t in tree["tasks"] for m in (*t["metrics"], *t.get("undefined", ()))}
        names |= {(task, m) for task, found in tree["dataset"].get("bounds", {}).items() for m in found}
        names |= {(None, m) for m in (tree.get("sids") or {}).get("metrics", ())}
    assert len(RECORDS) > 100 and len(names) > 90
    for task, name in names:
        assert [e.task for e in all_metrics() if e.matches(name)] == [task], name


def test_every_vector_is_documented() -> None:
    text, source = DOCUMENT.read_text(encoding="utf-8"), Path(quantisation.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r'"(\w+)": (?:distribution\.\w+|entropies,|shares,|used,|np\.array|\(codes)', source))
    vectors = {n for n in names if f"{n}_by_position" in text}
    assert {"entropy", "gini", "top_share", "prefixes", "branching", "conditional_entropy", "active"} <= vectors


@EACH
def test_entries_are_consistent(entry: MetricDeclaration) -> None:
    assert entry.direction in (HIGHER, LOWER, NEITHER) and entry.statistic in STATISTICS
    if entry.worst is not None and entry.best is not None:
        assert (entry.worst > entry.best) == (entry.direction == LOWER)
    assert "\n" not in entry.definition and entry.heading
    assert (entry.ratio is not None) == (entry.statistic == USER_RATIO)
    assert all(any(e.pattern == part for e in all_metrics()) for part in entry.ratio or ())
    assert set(entry.cutoffs) <= set(CUTOFFS) and (not entry.cutoffs or "{k}" in entry.pattern)
    assert entry.column or not entry.headline
    assert entry.direction != NEITHER or not (entry.headline or entry.objective)


def test_a_task_and_the_sid_table_have_one_headline_each_and_an_objective_has_one_metric() -> None:
    assert [e.task for e in all_metrics() if e.headline] == list(tasks_in_order()) == ["retrieval", "ranking", None]
    names = [e.objective for e in all_metrics() if e.objective]
    assert len(names) == len(set(names)) == len(catalogue.objectives())


def test_headings_are_unique_and_those_of_patterns_name_what_differs() -> None:
    headings = [entry.heading for entry in all_metrics()]
    assert len(set(headings)) == len(headings)
    shown = [e for e in all_metrics() if "{k}" in e.pattern and e.cutoffs]
    assert shown and all("{k}" in e.heading for e in shown)  # several stand in one table
    assert all(hole in e.heading for e in all_metrics() for hole in ("{m}", "{s}") if hole in e.pattern)


def test_words_that_others_use_agree() -> None:
    assert MODALITIES == features.MODALITIES
    assert all(describe(f"auc_{name}") for name in strata.NAMES)


# -- names -------------------------------------------------------------------------------------------------------------
def test_lookup_prefers_exact_names_and_knows_its_limits() -> None:
    found = describe("item_recall_at_10_tail")
    assert found is not None and found.pattern == "item_recall_at_{k}_{s}"
    exact = describe("gauc_unweighted")
    assert exact is not None and exact.pattern == "gauc_unweighted"
    rare = describe("knn_overlap_long_text_rare")
    assert rare is not None and rare.pattern == "knn_overlap_{m}_rare"
    strange = "item_recall_at_" + "9" * 5_000
    for unknown in ("item_recall_at_0", "item_recall", "auc_middle", "nmse_", "recall_at_10", "item_recall_at_٣", strange):
        assert describe(unknown) is None


def test_is_better_follows_direction() -> None:
    assert is_better("item_ndcg_at_10", 0.2, 0.1) is True
    assert is_better("collision_rate", 0.2, 0.1) is False
    assert is_better("sid_recall_at_10", 0.2, 0.1) is None
    assert is_better("unheard_of", 0.2, 0.1) is None


def test_headings_are_filled() -> None:
    assert [heading(n) for n in ("item_recall_at_50", "sid_ndcg_at_7", "auc_tail", "probe_long_text", "un_heard")] == [
        "R@50",
        "SID N@7",
        "AUC tail",
        "probe long_text",
        "un heard",
    ]
    assert named("inflation_recall_at_7").ratio == ("sid_recall_at_7", "item_recall_at_7") and named("auc").ratio is None
    assert named("un_heard").statistic == named("item_recall_at_3").statistic != named("item_recall_at_3_tail").statistic


def test_names_in_papers() -> None:
    assert named_in_papers("N@20") == ("retrieval", "item_ndcg_at_20")
    assert named_in_papers("SID R@5") == ("retrieval", "sid_recall_at_5")
    assert named_in_papers("Util.") == (None, "utilisation") and named_in_papers("AUC") == ("ranking", "auc")
    assert named_in_papers("R@x") is None and named_in_papers("") is None and named_in_papers("MRR") is None


# -- columns -----------------------------------------------------------------------------------------------------------
def retrieval_names(cutoffs: tuple[int, ...]) -> list[str]:
    patterns = [e.pattern for e in all_metrics() if e.task == "retrieval"]
    return [p.replace("{k}", str(k)).replace("{s}", "tail") for p in patterns for k in cutoffs]


def test_default_cutoffs_have_the_declared_columns() -> None:
    names = retrieval_names(CUTOFFS)
    headings = ["R@10", "N@10", "R@50", "R@100", "N@100", "SID R@10", "inflation"]
    assert [heading(n) for n in column_names("retrieval", names, names)] == headings
    assert headline_names("retrieval", names, names) == ["item_recall_at_10"]
    assert stratified_names("retrieval", names, names) == ["item_recall_at_10", "item_ndcg_at_10"]


def test_chosen_cutoffs_all_have_columns() -> None:
    names = retrieval_names((1, 5, 20))
    headings = ["R@1", "N@1", "R@5", "N@5", "R@20", "N@20", "SID R@5", "inflation"]
    assert [heading(n) for n in column_names("retrieval", names, names)] == headings
    assert headline_names("retrieval", names, names) == ["item_recall_at_5"]
    assert stratified_names("retrieval", names, names) == ["item_recall_at_5", "item_ndcg_at_5"]


def test_a_beam_that_reaches_few_items_leaves_the_lead_where_there_are_numbers() -> None:
    names, reached = retrieval_names(CUTOFFS), retrieval_names((5,))
    assert headline_names("retrieval", names, reached) == ["item_recall_at_5"]
    assert column_names("retrieval", names, reached)[0] == "item_recall_at_5"
    assert headline_names("retrieval", names, []) == ["item_recall_at_10"]


def test_modalities_keep_their_order_and_strangers_follow_by_name() -> None:
    names = [f"probe_{m}" for m in ("sound", "vision", "price", "behaviour", "text")]
    shown = ["probe_text", "probe_vision", "probe_behaviour", "probe_price", "probe_sound"]
    assert column_names(None, names, names) == shown


@pytest.mark.parametrize(
    ("cutoffs", "lead"), [((5, 10, 50), 10), ((1, 5, 20), 5), ((1, 20), 1), ((8, 12), 8), ((), None), ((100, 50), 50)]
)
def test_lead(cutoffs: tuple[int, ...], lead: int | None) -> None:
    assert lead_cutoff(cutoffs) == lead


# -- new ones ----------------------------------------------------------------------------------------------------------
MADE_UP = """
from sidbench.benchmark.metrics.declaration import HIGHER, Family, MetricDeclaration
FAMILY = Family("beauty", {task!r}, "made-up", 9)
METRICS = (MetricDeclaration("{name}", FAMILY, HIGHER, 0.0, 1.0, "", "made up", "{heading}", digits=2, column=True),)
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are read beside those of ``declared``."""
    monkeypatch.setattr(declared, "__path__", [*declared.__path__, str(tmp_path)])
    all_metrics.cache_clear()
    yield tmp_path
    all_metrics.cache_clear()
    for name in [n for n in sys.modules if n.startswith(f"{declared.__name__}.made_up")]:
        del sys.modules[name]


def test_a_file_declares_a_metric_and_gives_it_a_column(made_up: Path) -> None:
    (made_up / "made_up_one.py").write_text(MADE_UP.format(task=None, name="elegance_{m}", heading="elegance of {m}"))
    assert column_names(None, ["entropy", "elegance_text"], []) == ["entropy", "elegance_text"]
    assert heading("elegance_text") == "elegance of text" and is_better("elegance_text", 2, 1)


@pytest.mark.parametrize(("name", "title"), [("entropy", "another"), ("another", "entropy")])
def test_a_metric_or_heading_that_is_declared_twice_is_refused(made_up: Path, name: str, title: str) -> None:
    (made_up / "made_up_two.py").write_text(MADE_UP.format(task=None, name=name, heading=title))
    with pytest.raises(ValueError, match="'entropy' is declared by two metrics"):
        all_metrics()


def test_the_catalogue_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sidbench.benchmark.metrics.catalogue import all_metrics; all_metrics(); "
        "sys.exit(' '.join({'numpy', 'torch', 'polars', 'pandas', 'scipy'} & sys.modules.keys()) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
