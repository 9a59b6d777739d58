"""Ours beside published values, from records made by hand: who stands in which row, what is said of gaps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    TaskRecord,
)
from sidbench.datasets.foundation.errors import InputError
from sidbench.leaderboards.board.store import Store, read_runs
from sidbench.leaderboards.board.table import build_tables
from sidbench.leaderboards.reproduction.figures import alignment_curve, figure_svg
from sidbench.leaderboards.reproduction.papers import published
from sidbench.leaderboards.reproduction.plan import ADA_SID, ITEM_ID, Need, plan_for
from sidbench.leaderboards.reproduction.render import render_side_by_side
from sidbench.leaderboards.reproduction.selection import Wanted, select
from sidbench.leaderboards.reproduction.sidebyside import SideBySide, SideLine, chosen_tables, rows_needed, side_by_side
from sidbench.leaderboards.reproduction.verdicts import CONTRADICTED, NOT_TESTABLE, SUPPORTED

PAPER = published("mmq-v2")
PLAN = plan_for(PAPER, "beauty", ("mtp", "ppnet"))
USERS = [f"u{i:03}" for i in range(400)]
CONFIG = {"code_length": 6, "codebook_size": 100, "steps": 7}
ADA = {
    **CONFIG,
    "controller": True,
    "contrastive": True,
    "sparsity": True,
    "router": "behaviour",
    "alpha": 10.0,
    "beta": 9.0,
    "target_active_fraction": None,
}


class Runs:
    """A folder of records; every run retrieves with its own share of hits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.n = folder, 0
        folder.mkdir(parents=True)

    def add(
        self,
        tokenizer: str | None,
        hits: int,
        *,
        config: Mapping[str, Any] = CONFIG,
        seed: int = 0,
        key: str = "k1",
        ties: str = "shuffled",
        budget: str = "quick",
        entropy: float = 4.0,
        task: str = "retrieval",
        seed_like: float = 0.5,
    ) -> str:
        """hits: of 400 users, the first that have their target within 100."""
        self.n += 1
        run_id = f"run{self.n:02}"
        folder = self.folder / run_id
        folder.mkdir()
        hit = (np.arange(400) < hits).astype(np.float32)
        half = 1.96 * float(np.sqrt(hit.mean() * (1 - hit.mean()) / 400))
        names = ["item_recall_at_50", "item_recall_at_100"] if task == "retrieval" else ["auc", "gauc"]
        metrics = {
            n: Metric(value=float(hit.mean()), n=400, low=float(hit.mean()) - half, high=float(hit.mean()) + half)
            for n in names
        }
        columns = dict.fromkeys(names, hit) if task == "retrieval" else {}
        pyarrow.parquet.write_table(pyarrow.table({"user": USERS, "target": USERS, **columns}), folder / "users.parquet")
        plugin = None if tokenizer is None else PluginRecord(name=tokenizer, config=dict(config))
        recommender = PluginRecord(
            name="mtp" if task == "retrieval" else "ppnet", config=dict(config) if tokenizer is None else {"width": 8}
        )
        record = RunRecord(
            run_id=run_id,
            created=f"2025-01-01T00:00:{self.n:02}",
            budget=budget,
            seed=seed,
            features=None,
            tokenizer=plugin,
            dataset=DatasetRecord(name="beauty", config={}, content_hash="d", counts={"users": 400, "items": 9}),
            sids=None
            if tokenizer is None
            else SidsRecord(
                code_length=6,
                sizes=(100,) * 6,
                ordered=True,
                mean_active=6.0,
                content_hash="s",
                file="sids.parquet",
                metrics={
                    "entropy": Metric(value=entropy, n=9),
                    "utilisation": Metric(value=1.0, n=9),
                    "seed_like": Metric(value=seed_like, n=9),
                },
            ),
            tasks=(
                TaskRecord(
                    task=task,
                    recommender=recommender,
                    protocol={"split": "leave_last_out", "ties": ties},
                    metrics=metrics,
                    users_file="users.parquet",
                    users_hash="",
                    comparability_key=key,
                    protocol_key="p1",
                ),
            ),
            comparability_key=key,
            protocol_key="p1",
            stages=(),
            environment=EnvironmentRecord(
                device="cpu",
                precision="fp32",
                threads=1,
                allocator="default",
                python="3.11",
                versions={},
                git_commit="0",
                git_dirty=False,
                code="c",
                command_line=("bench",),
                platform="linux",
            ),
        )
        (folder / "record.json").write_text(record.model_dump_json())
        return run_id

    def read(self) -> Store:
        """All of them, as a command reads them."""
        return read_runs(self.folder)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def _wanted(row: str) -> Wanted:
    need = PLAN.needs[row]
    assert isinstance(need, Need)
    groups: dict[str, dict[str, Any]] = {"tokenizer": {"steps": 7}, "retriever": {"width": 8}, "ranker": {"width": 8}}
    for name, value in (dict(need.wished) | dict(need.settings)).items():
        group, _, field = name.partition(".")
        groups[group][field] = value
    return Wanted(need, "beauty", "quick", groups)


def _found(runs: Runs, tables: tuple[str, ...] = ("2",), figures: tuple[str, ...] = (), key: str = "") -> SideBySide:
    rows = rows_needed(PAPER, PLAN, tables, figures, "beauty")
    missing = {row: f"bench run {row}" for row in rows}
    return side_by_side(
        PAPER, PLAN, {row: _wanted(row) for row in rows}, runs.read(), "beauty", "quick", tables, figures, missing, key
    )


def _line(found: SideBySide, row: str, table: int = 0) -> SideLine:
    return next(line for line in found.tables[table].lines if line.row == row)


def test_a_row_shows_published_ours_difference_and_interval(runs: Runs) -> None:
    for seed, hits in ((0, 100), (1, 108)):
        runs.add("rqvae", hits, seed=seed)
    found = _found(runs)
    cell = _line(found, "RQ-VAE").cells["R@100"]
    assert cell.published == 0.2398 and cell.marked and cell.ours is not None
    assert cell.ours.value == pytest.approx(0.26) and cell.ours.seed_sd == pytest.approx(0.02 / np.sqrt(2))
    assert cell.difference == pytest.approx(0.26 - 0.2398) and cell.ours.half_width == pytest.approx(0.043, abs=2e-3)
    assert _line(found, "RQ-VAE").seeds == (0, 1)
    text = render_side_by_side(found, "md")
    assert "| RQ-VAE | published | 0.6028 | 3.4904 | 0.9900 | 0.1213 † | 0.2398 † |" in text
    assert "ours, seeds 0,1" in text and f"0.2600 ±{cell.ours.half_width:.4f} (sd 0.0141)" in text and "+0.0202" in text


def test_missing_rows_and_data_are_named_with_their_command(runs: Runs) -> None:
    runs.add("rqvae", 100)
    found = _found(runs)
    assert set(found.missing) == {"OPQ", "RQ-KMeans", "LETTER", "DAS", "RQ-VAE++", "MM-RQ-VAE", ADA_SID, ITEM_ID}
    text = render_side_by_side(found, "md")
    assert "- OPQ: `bench run OPQ`" in text and "- nothing of ours: OPQ, RQ-KMeans, LETTER, DAS" in text
    assert "No run of ours" not in text
    assert "These data are not public" in text
    industrial = next(t for t in found.tables if t.table.dataset == "industrial")
    assert industrial.dataset == "" and all(c.ours is None for line in industrial.lines for c in line.cells.values())


def test_rows_that_are_one_run_share_one_line(runs: Runs) -> None:
    rows = rows_needed(PAPER, PLAN, ("2",), (), "beauty")
    found = side_by_side(
        PAPER,
        PLAN,
        {row: _wanted(row) for row in rows},
        runs.read(),
        "beauty",
        "quick",
        ("2",),
        (),
        dict.fromkeys(rows, "bench run all"),
    )
    text = render_side_by_side(found, "md")
    assert text.count("`bench run all`") == 1 and "No run of ours stands in these rows yet" in text


def test_no_difference_is_taken_between_different_quantities(runs: Runs) -> None:
    """The paper's reconstruction loss is not normalised, ours is."""
    runs.add("rqvae", 100, seed_like=0.4)
    found = _found(runs)
    cell = _line(found, "RQ-VAE").cells["L_recon"]
    assert cell.ours is not None and cell.ours.value == 0.4 and cell.published == 0.6028 and cell.difference is None
    text = render_side_by_side(found, "md")
    assert "| L_recon ‡ |" in text and "- ‡ L_recon: ours is `seed_like`" in text


def test_a_number_has_the_interval_of_the_leaderboard(runs: Runs) -> None:
    for seed, hits in ((0, 100), (1, 108)):
        runs.add("rqvae", hits, seed=seed)
        runs.add("opq", hits - 40, seed=seed)
    found = _found(runs)
    for row in build_tables(runs.read()).tables[0].rows:
        ours = _line(found, {"rqvae": "RQ-VAE", "opq": "OPQ"}[row.name]).cells["R@100"].ours
        assert ours is not None and ours.half_width == row.cells["item_recall_at_100"].half_width


def test_what_ours_had_says_effort_and_sizes(runs: Runs) -> None:
    runs.add("rqvae", 100)
    settings = _found(runs).settings
    assert settings["effort of tuning"] == "defaults (RQ-VAE)"
    assert settings["code length and codebook size"] == "6 codes of 100 (RQ-VAE)"


def test_nothing_recorded_still_prints_everything_published(runs: Runs) -> None:
    found = _found(runs, ("2", "3", "4"), ("3", "4", "5"))
    text = render_side_by_side(found, "md")
    assert all(v.verdict == NOT_TESTABLE for v in found.verdicts) and len(found.verdicts) == 15
    assert "0.3675 †" in text and "no controller" in text and "0.6839" in text
    for figure in found.figures:
        assert figure_svg(figure).startswith("<?xml") and figure_svg(figure) == figure_svg(figure)


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({}, True),
        ({"config": {**CONFIG, "steps": 8}}, True),
        ({"config": {**CONFIG, "codebook_size": 256}}, False),
        ({"ties": "file"}, False),
        ({"budget": "smoke"}, False),
    ],
)
def test_who_stands_in_a_row(runs: Runs, change: dict[str, Any], stands: bool) -> None:
    runs.add("rqvae", 100, **change)
    selection = select({"RQ-VAE": _wanted("RQ-VAE")}, runs.read(), "retrieval")
    assert ("RQ-VAE" in selection.rows) is stands
    if change.get("config", {}).get("steps") == 8:
        assert selection.rows["RQ-VAE"].differs == ("tokenizer.steps=8 (plan: 7)",)


def test_an_ablation_never_stands_for_the_full_method(runs: Runs) -> None:
    runs.add("adasid", 90, config={**ADA, "controller": False})
    found = _found(runs, ("3",))
    assert ADA_SID in found.missing and _line(found, "no controller").runs == ("run01",)


def test_the_settings_nearest_to_the_plan_are_taken(runs: Runs) -> None:
    runs.add("rqvae", 100)
    runs.add("rqvae", 200, config={**CONFIG, "steps": 9})
    assert _line(_found(runs), "RQ-VAE").runs == ("run01",)


def test_keys_are_never_mixed_and_can_be_chosen(runs: Runs) -> None:
    runs.add("rqvae", 100, key="aaa")
    runs.add("opq", 100, key="aaa")
    runs.add("letter", 100, key="bbb")
    found = _found(runs)
    cells = {row: _line(found, row).cells["R@100"].ours for row in ("RQ-VAE", "OPQ", "LETTER")}
    assert cells["RQ-VAE"] and cells["OPQ"] and cells["LETTER"] is None
    assert any("bbb (1 rows)" in note for note in found.notes)
    assert _line(_found(runs, key="b"), "LETTER").cells["R@100"].ours is not None
    with pytest.raises(InputError, match="comparability key"):
        _found(runs, key="zzz")


def test_a_baseline_joins_the_rows_of_its_protocol(runs: Runs) -> None:
    runs.add("rqvae", 100, task="ranking")
    runs.add(None, 120, config={"representation": "item_id"}, key="own", task="ranking")
    found = _found(runs)
    assert _line(found, ITEM_ID, 1).runs == ("run02",) and _line(found, "RQ-VAE", 1).runs == ("run01",)


def test_changes_against_the_full_method_are_paired(runs: Runs) -> None:
    runs.add("adasid", 120, config=ADA)
    runs.add("adasid", 100, config={**ADA, "router": "softmax"})
    change = _line(_found(runs, ("3",)), "no router").cells["R@100"].change
    assert change is not None and change.published == pytest.approx(0.2861 - 0.2926)
    assert change.ours == pytest.approx(-0.05) and change.low is not None and change.high is not None
    # The rows differ in 20 of 400 users: paired error sqrt(.05 * .95 / 400) = .0109, unpaired it would be .031.
    assert change.high - change.low == pytest.approx(2 * 1.96 * 0.0109, rel=0.02)


def test_claims_follow_planted_differences(runs: Runs) -> None:
    for seed in (0, 1):
        for name, hits, entropy in (
            ("rqvae", 80, 3.0),
            ("opq", 80, 3.1),
            ("rqkmeans", 90, 3.2),
            ("letter", 150, 3.3),
            ("das", 150, 3.4),
            ("rqvae_pp", 100, 3.5),
            ("mm_rqvae", 100, 3.6),
        ):
            runs.add(name, hits + seed, seed=seed, entropy=entropy + 0.01 * seed)
        runs.add("adasid", 200 + seed, config=ADA, seed=seed, entropy=4.4 + 0.01 * seed)
    verdicts = {v.hypothesis.id: v for v in _found(runs).verdicts}
    assert verdicts["best-retrieval"].verdict == verdicts["behaviour"].verdict == verdicts["entropy"].verdict == SUPPORTED
    assert verdicts["dedicated-codes"].verdict == CONTRADICTED
    assert verdicts["best-auc"].verdict == NOT_TESTABLE and "no run of ours" in verdicts["best-auc"].reason


def test_csv_and_json_say_the_same_as_each_other(runs: Runs) -> None:
    runs.add("rqvae", 100)
    found = _found(runs)
    lines = list(csv.DictReader(io.StringIO(render_side_by_side(found, "csv"))))
    tables = json.loads(render_side_by_side(found, "json"))["tables"]
    assert len(lines) == sum(len(r["cells"]) for t in tables for r in t["rows"]) == 2 * (8 * 7 + 9 * 2)
    by_hand = next(x for x in lines if (x["row"], x["column"], x["published_dataset"]) == ("RQ-VAE", "R@100", "beauty"))
    cell = next(r for r in tables[0]["rows"] if r["row"] == "RQ-VAE")["cells"]["R@100"]
    assert float(by_hand["ours"]) == cell["ours"]["value"] == 0.25 and by_hand["breaks_bound"] == "1"
    assert float(by_hand["difference"]) == pytest.approx(cell["difference"]) and by_hand["runs"] == "run01"


def test_tables_of_other_data_are_chosen_openly() -> None:
    own = chosen_tables(PAPER, ("2",), "ml_100k")
    assert [(t.dataset, ours) for t, ours in own] == [("beauty", True)] * 2 + [("industrial", False)] * 2
    assert [(t.dataset, ours) for t, ours in chosen_tables(PAPER, ("3",), "beauty")] == [("industrial", True)]
    assert [(t.dataset, ours) for t, ours in chosen_tables(published("rpg"), ("main",), "sports")] == [("sports", True)]


def test_the_alignment_curve_has_the_values_of_the_formula() -> None:
    """Worked out by hand from eq. 14, four digits."""
    at = (0.0, 0.5, 0.9, 1.0)
    assert [round(w, 4) for w in alignment_curve(10, 9, at)] == [0.0002, 0.0246, 0.6839, 1.0]
    assert [round(w, 4) for w in alignment_curve(20, 14, at)] == [0.0, 0.018, 0.9844, 1.0]
