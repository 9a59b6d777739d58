"""Published values: files that parse, numbers that match their source, and exactly the cells that break a bound."""

from __future__ import annotations

import math
import re

import pytest

from sidbench.benchmark.metrics.ranking_at_k import bound_violations
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.reproduction.bound_checks import marked_cells, violations
from sidbench.leaderboards.reproduction.papers import PublishedTable, our_metric, paper_names, published
from sidbench.leaderboards.reproduction.plan import ADA_SID, ITEM_ID, Need, plan_for
from sidbench.leaderboards.reproduction.verdicts import ALIKE, EACH, MEAN, hypotheses

BEAUTY_ROWS = {"RQ-VAE", "OPQ", "RQ-KMeans", "LETTER", "DAS", "RQ-VAE++", "MM-RQ-VAE", "ADA-SID"}


def _table(paper: str, number: str, dataset: str, column: str) -> PublishedTable:
    return next(t for t in published(paper).tables if t.number == number and t.dataset == dataset and column in t.columns)


def test_every_file_parses_into_probabilities() -> None:
    assert paper_names() == ("grid", "letter", "mmq-v2", "rpg", "tiger")
    for name in paper_names():
        paper = published(name)
        assert paper.protocol and paper.arxiv and paper.compare
        for table in paper.tables:
            assert not re.search(r"\b[PCSU]\b", table.copied_from)  # tags are spelled out for readers
            assert table.rows and (not table.reference or table.reference in table.rows)
            for cells in table.rows.values():
                for column, value in cells.items():
                    our_metric(column, paper.level)
                    assert value is None or 0 < value < (1.001 if column not in ("Entropy",) else math.log(300))


def test_values_of_known_cells() -> None:
    retrieval = _table("mmq-v2", "2", "beauty", "R@100")
    assert retrieval.rows[ADA_SID] == {
        "L_recon": 0.4470,
        "Entropy": 4.4206,
        "Util.": 1.0,
        "R@50": 0.1855,
        "R@100": 0.3675,
        "N@50": 0.0996,
        "N@100": 0.1784,
    }
    assert _table("mmq-v2", "2", "beauty", "AUC").rows[ITEM_ID] == {"AUC": 0.6455, "GAUC": 0.5897}
    assert _table("mmq-v2", "3", "industrial", "AUC").rows["no controller"]["AUC"] == 0.7104
    assert _table("rpg", "ablation", "beauty", "N@10").rows["random tokens"]["N@10"] == 0.0359
    assert _table("rpg", "main", "beauty", "N@10").rows["HSTU"]["R@5"] is None


def test_sums_over_columns_guard_against_slips_of_the_pen() -> None:
    """Column sums worked out by hand from the paper."""
    sums = {
        column: round(
            sum(v or 0.0 for v in (row[column] for row in _table("mmq-v2", "2", "beauty", "R@100").rows.values())), 4
        )
        for column in ("R@50", "R@100", "N@50", "N@100")
    }
    assert sums == {"R@50": 1.1943, "R@100": 2.1142, "N@50": 0.7172, "N@100": 1.1624}
    industrial = _table("mmq-v2", "2", "industrial", "R@100").rows.values()
    assert round(sum(row["R@50"] or 0.0 for row in industrial), 4) == 1.6553


def test_exactly_the_known_rows_break_the_single_target_bound() -> None:
    """All eight rows of Beauty and six of eight industrial ones; nothing else of any paper."""
    broken = {
        (p, t.number, t.dataset): {b.row for b in violations(t)}
        for p in paper_names()
        for t in published(p).tables
        if violations(t)
    }
    assert broken == {
        ("mmq-v2", "2", "beauty"): BEAUTY_ROWS,
        ("mmq-v2", "2", "industrial"): BEAUTY_ROWS - {"RQ-VAE++", ADA_SID},
    }
    ada = next(b for b in violations(_table("mmq-v2", "2", "beauty", "R@100")) if b.row == ADA_SID)
    assert (round(ada.left, 4), round(ada.right, 4)) == (0.0788, 0.0319)
    assert marked_cells(_table("mmq-v2", "2", "beauty", "R@100")) == {
        (row, column) for row in BEAUTY_ROWS for column in ("R@50", "R@100", "N@50", "N@100")
    }


def test_bounds_agree_with_the_check_of_our_own_runs() -> None:
    """An independent implementation, which guards our own records, finds the same rows."""
    for dataset in ("beauty", "industrial"):
        table = _table("mmq-v2", "2", dataset, "R@100")
        found = {
            row
            for row, cells in table.rows.items()
            if bound_violations({our_metric(c, "item")[1]: v for c, v in cells.items() if v is not None and "@" in c}, 2e-4)
        }
        assert found == {b.row for b in violations(table)}


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        ({"R@5": 0.1, "N@5": 0.11}, "N@5 <= R@5"),
        ({"R@5": 0.1, "N@5": 0.03}, "R@5 / log2(6) <= N@5"),
        ({"R@5": 0.2, "R@10": 0.1}, "R@5 <= R@10"),
        ({"R@5": 0.1, "N@5": 0.06, "R@10": 0.2, "N@10": 0.08}, "(R@10 - R@5) / log2(11) <= N@10 - N@5"),
        ({"R@5": 0.1, "N@5": 0.06, "R@10": 0.2, "N@10": 0.1}, "N@10 - N@5 <= (R@10 - R@5) / log2(7)"),
        ({"Util.": 1.01}, "utilisation <= 1"),
        ({"Entropy": 4.7}, "entropy <= ln 100"),
    ],
)
def test_each_bound_is_found(cells: dict[str, float], rule: str) -> None:
    table = PublishedTable("x", "", "beauty", "P", tuple(cells), {"row": cells}, codebook_size=100)
    assert [b.rule for b in violations(table)] == [rule]


def test_values_on_a_bound_pass_in_spite_of_rounding() -> None:
    """All targets at rank 6 but some: N@10 - N@5 is exactly (R@10 - R@5)/log2(7), printed with four digits."""
    step = 0.1234 / math.log2(7)
    cells = {"R@5": 0.2, "N@5": 0.1262, "R@10": 0.3234, "N@10": round(0.1262 + step, 4)}
    assert violations(PublishedTable("x", "", "beauty", "P", tuple(cells), {"row": cells})) == ()


@pytest.mark.parametrize("name", paper_names())
def test_every_published_row_and_claim_has_a_plan(name: str) -> None:
    paper = published(name)
    for dataset in ("beauty", "sports", "toys", "synthetic"):
        plan = plan_for(paper, dataset)
        for table in paper.tables:
            assert set(table.rows) <= set(plan.needs), table.label
        for figure in paper.figures:
            assert all(isinstance(plan.needs[row], Need) for row in plan.figures[figure.number])
        for claim in hypotheses(name):
            assert set(claim.rows) <= set(plan.needs)
            assert claim.rule in (EACH, MEAN, ALIKE) and (claim.margin > 0) == (claim.rule == ALIKE)


def test_ablations_are_one_setting_each_off_the_full_method() -> None:
    plan = plan_for(published("mmq-v2"), "beauty")
    full = plan.needs[ADA_SID]
    assert isinstance(full, Need)
    off = {}
    for row in ("no controller", "no contrastive loss", "no sparsity regulariser", "no router"):
        need = plan.needs[row]
        assert isinstance(need, Need)
        off[row] = {k for k in full.settings if full.settings[k] != need.settings[k]}
    assert off == {
        "no controller": {"tokenizer.controller"},
        "no contrastive loss": {"tokenizer.contrastive"},
        "no sparsity regulariser": {"tokenizer.sparsity"},
        "no router": {"tokenizer.router"},
    }
    assert plan.needs["alpha 10, beta 9"] == full == plan.needs["behaviour share 0.6"]


def test_unknown_papers_and_columns_are_named() -> None:
    with pytest.raises(InputError, match="did you mean 'mmq-v2'"):
        published("mmq-v3")
    with pytest.raises(InputError, match="published column"):
        our_metric("Recall", "item")
