"""The main job end to end on the smoke budget: records, files, resume, failures, and what stands on the record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.metrics.ranking_at_k import ndcg_at_k, recall_at_k
from sidbench.benchmark.store.records import RunRecord

SMOKE = ["run", "--dataset", "synthetic", "--budget", "smoke", "--threads", "1", "dataset.n_users=100"]
FEW = "tokenizer.codebook_size=16"  # most of a small run's time is the probe on one-hot codes, cubic in their number


def bench_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    capsys.readouterr()
    few = [] if arguments[:2] == ("--tokenizer", "none") or arguments[-1].startswith("tokenizer.") else [FEW]
    code = invoke([*SMOKE, *few, "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def only_record(capsys: pytest.CaptureFixture[str], *arguments: str) -> RunRecord:
    code, result = bench_json(capsys, *arguments)
    assert code == 0 and result["failed"] == []
    return RunRecord.model_validate(result["records"][0])


def comparable(record: RunRecord) -> dict:
    """The parts of a record that an undisturbed run and a resumed one must share."""
    return {
        "sids": record.sids.content_hash if record.sids else None,
        "metrics": {t.task: {n: m.model_dump() for n, m in t.metrics.items()} for t in record.tasks},
        "quantisation": {n: m.model_dump() for n, m in record.sids.metrics.items()} if record.sids else None,
    }


def test_a_run_leaves_files_that_give_its_numbers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = only_record(capsys, "--tokenizer", "adasid")
    folder = home / "runs" / record.run_id
    assert {p.name for p in folder.iterdir()} == {
        "record.json",
        "sids.parquet",
        "users_retrieval.parquet",
        "users_ranking.parquet",
    }
    assert RunRecord.model_validate_json((folder / "record.json").read_text()) == record
    users = pl.read_parquet(folder / "users_retrieval.parquet")
    better = users["rank_low"].to_numpy() - 1
    tied = users["rank_high"].to_numpy() - better
    for k in (5, 10, 50, 100):
        recall = record.metric(f"item_recall_at_{k}", "retrieval")
        assert recall is not None and recall.n == len(users)
        assert recall.value == pytest.approx(recall_at_k(better, tied, k).mean(), abs=1e-6)
        ndcg = record.metric(f"item_ndcg_at_{k}", "retrieval")
        assert ndcg is not None and ndcg.value == pytest.approx(ndcg_at_k(better, tied, k).mean(), abs=1e-6)
    sids = pl.read_parquet(folder / "sids.parquet")
    codes = np.array(sids["codes"].to_list())
    assert record.sids is not None and codes.shape == (len(sids), record.sids.code_length)
    assert record.sids.metrics["frac_unique"].value == pytest.approx(len(np.unique(codes, axis=0)) / len(codes))
    rows = pl.read_parquet(folder / "users_ranking.parquet")
    from sklearn.metrics import roc_auc_score

    auc = record.metric("auc", "ranking")
    assert auc is not None and auc.value == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-9)


def test_cut_offs_beyond_a_beam_have_no_number_and_the_record_says_why(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = only_record(
        capsys,
        "--tokenizer",
        "random",
        "--recommender",
        "rpg",
        "retriever.decoding=graph",
        "retriever.n_beams=20",
        "retriever.cover=12",
        "retriever.epochs=1",
    )
    assert record.metric("item_recall_at_10", "retrieval") is not None
    assert record.metric("item_recall_at_50", "retrieval") is None
    assert "beam covers" in record.tasks[0].undefined["item_recall_at_50"]
    told = [w for w in record.warnings if "no numbers at @50, @100" in w]
    assert len(told) == 2 and "items" in told[0] and "SIDs" in told[1]


def test_equal_runs_are_recorded_once_and_numbers_repeat(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = only_record(capsys, "--tokenizer", "rqkmeans")
    again = only_record(capsys, "--tokenizer", "rqkmeans")
    assert again == first  # the same record, not a new one
    fresh = only_record(capsys, "--tokenizer", "rqkmeans", "--rerun", "always")
    assert comparable(fresh) == comparable(first)
    assert not any(stage.cached for stage in fresh.stages)
    other = only_record(capsys, "--tokenizer", "rqkmeans", "--seed", "1")
    assert other.run_id != first.run_id and comparable(other) != comparable(first)
    assert other.comparability_key == first.comparability_key


def test_comparability_follows_what_matters(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = only_record(capsys, "--tokenizer", "random")
    other_tokenizer = only_record(capsys, "--tokenizer", "opq")
    other_ties = only_record(capsys, "--tokenizer", "random", "--ties", "file")
    other_recommender = only_record(capsys, "--tokenizer", "random", "retriever.dropout=0.3")
    other_features = only_record(capsys, "--tokenizer", "random", "features.vision=none")
    assert base.comparability_key == other_tokenizer.comparability_key
    other_precision = only_record(capsys, "--tokenizer", "random", "--precision", "bf16")
    other_steps = only_record(capsys, "--tokenizer", "random", "--accumulate", "2")
    for different in (other_ties, other_recommender, other_features, other_precision, other_steps):
        assert different.comparability_key != base.comparability_key
    assert other_features.features is not None and "vision" in other_features.features.absent
    assert other_recommender.protocol_key == base.protocol_key != other_ties.protocol_key


def test_item_id_baselines_need_no_tokenizer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = only_record(capsys, "--tokenizer", "none", "--recommender", "sasrec,ppnet", "ranker.representation=item_id")
    assert record.tokenizer is None and record.sids is None and record.features is None
    assert [t.recommender.name for t in record.tasks] == ["sasrec", "ppnet"]
    with_sids = only_record(capsys, "--tokenizer", "random")
    assert with_sids.protocol_key == record.protocol_key


def test_sids_are_measured_without_a_recommender(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = bench_json(capsys, "--tokenizer", "random,rqkmeans", "--recommender", "none")
    assert code == 0
    one, two = (RunRecord.model_validate(r) for r in result["records"])
    assert one.tasks == two.tasks == () and one.sids is not None and one.sids.metrics["entropy"].value > 0
    assert one.comparability_key == two.comparability_key  # equal features may stand in one table
    other = bench_json(capsys, "--tokenizer", "random", "--recommender", "none", "features.text_dim=8")[1]["records"][0]
    assert other["comparability_key"] != one.comparability_key
    invoke(["leaderboard", "--dataset", "synthetic"])
    assert "rqkmeans" in capsys.readouterr().out


def test_a_broken_plugin_is_named_and_harms_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = bench_json(capsys, "--tokenizer", "rqkmeans,random", "dataset.n_items=60", "tokenizer.codebook_size=61")
    assert code == 1
    assert [r["tokenizer"]["name"] for r in result["records"]] == ["random"]
    assert "codebook_size" in result["failed"][0]["error"] and "--tokenizer rqkmeans" in result["failed"][0]["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokenizer", "adasidd"], "did you mean 'adasid'"),
        (["--dataset", "beuty"], "did you mean 'beauty'"),
        (["--tokenizer", "rqkmeans", "tokenizer.codebok_size=4"], "codebook_size"),
        (["--tokenizer", "rqkmeans", "--budget", "quik"], "quick"),
        (["--tokenizer", "rqkmeans", "tokenizer.code_length=0"], "code_length"),
        (["--tokenizer", "none", "--recommender", "none"], "neither tokenizer nor recommender"),
    ],
)
def test_bad_usage_is_one_paragraph(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert invoke([*SMOKE, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.slow
@pytest.mark.nightly  # by day `tests/faults/test_rounds.py` kills forks at random moments, a tenth of the cost
def test_killed_at_any_moment_the_next_run_gives_the_same_numbers(tmp_path: Path) -> None:
    """``kill -9`` at random moments, then the same command: codes bit for bit, metrics equal."""
    command = [sys.executable, "-m", "sidbench.benchmark.cli.app", *SMOKE, "--tokenizer", "rqvae", "--json"]

    def environment(name: str) -> dict[str, str]:
        return {**os.environ, "SIDBENCH_HOME": str(tmp_path / name), "OMP_NUM_THREADS": "1"}

    whole = subprocess.run(command, env=environment("whole"), capture_output=True, check=True)
    expected = comparable(RunRecord.model_validate(json.loads(whole.stdout)["records"][0]))
    generator = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen(command, env=environment("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(generator.uniform(2.0, 6.0)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = subprocess.run(command, env=environment("killed"), capture_output=True, check=True)
    assert comparable(RunRecord.model_validate(json.loads(resumed.stdout)["records"][0])) == expected
