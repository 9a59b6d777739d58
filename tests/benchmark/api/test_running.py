"""Runs of objects and names alike, as results, frames, tables and comparisons."""

from __future__ import annotations

import json
import linecache
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sidbench as sb
from sidbench.benchmark.api.homes import at_home
from sidbench.benchmark.api.settings import override
from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.metrics.catalogue import describe
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.plan import features_of as plan_features
from sidbench.benchmark.runs.plan import plan_run
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.datasets.foundation.hashing import hash_arrays
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.rqkmeans import RqKMeans

TINY = {"dataset.n_items": 60, "dataset.n_users": 60, "features.behaviour": "none", "features.vision": "none"}
CODES = {"codebook_size": 8, "code_length": 3}


class Signs(Tokenizer):
    """Signs of random projections of the text embeddings."""

    info = TokenizerInfo(title="Signs", paper="none", year=2026, modalities=("text",), ordered=False)
    draws = 0

    def fit(self, features: Any, rng: Any, runtime: Any) -> Signs:
        width = features.modalities["text"].shape[1]
        self.directions_ = rng.numpy().standard_normal((width, self.config.code_length)).astype(np.float32)
        return self

    def encode(self, features: Any, runtime: Any) -> SemanticIds:
        codes = (features.modalities["text"] @ self.directions_ > 0).astype(np.int32)
        return SemanticIds(codes, np.full(self.config.code_length, self.config.codebook_size, np.int32), ordered=False)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"directions": self.directions_}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.directions_ = state["directions"]


class Fails(Signs):
    """Breaks while it is fitted."""

    def fit(self, features: Any, rng: Any, runtime: Any) -> Fails:
        raise ZeroDivisionError("no luck")


def run(tokenizers: Any, home: Path, **more: Any) -> sb.Results:
    """A tiny run on the planted catalogue."""
    settings = TINY | more.pop("settings", {})
    given = {"budget": "smoke", "threads": 1, "progress": False, "recommenders": "none"} | more
    return sb.run(tokenizers, home=home, settings=settings, **given)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def finished(place: Path) -> Iterator[sb.Results]:
    """Two tokenizers, one an object, with two seeds and a retriever; and one that fails."""
    with pytest.warns(UserWarning, match="no luck"):
        yield run(
            [Signs(TokenizerConfig(**CODES)), sb.tokenizer("opq", **CODES), Fails], place, seeds=range(2), recommenders="mtp"
        )


# -- what runs -----------------------------------------------------------------------------------------------------
def test_seeds_are_outer_and_tokenizers_inner(finished: sb.Results) -> None:
    found = [(r.record.tokenizer.name, r.record.seed) if r.record and r.record.tokenizer else r.label for r in finished]
    assert found[:2] == [("signs", 0), ("opq", 0)] and found[3:5] == [("signs", 1), ("opq", 1)]
    assert [type(entry) for entry in (finished[0], finished[:2])] == [sb.FinishedRun, sb.Results] and len(finished[:2]) == 2


def test_a_failed_run_is_there_with_its_reason(finished: sb.Results) -> None:
    assert len(finished) == 6 and len(finished.failed) == 2
    assert all("ZeroDivisionError: no luck" in run.reason for run in finished.failed)
    assert "no luck" in repr(finished) and "no luck" in finished._repr_html_()
    assert finished.to_frame()["failed"].str.contains("no luck").sum() == 2
    assert finished.to_frame("long")["failed"].str.contains("no luck").sum() == 2
    assert "Failed and in no table" in finished.leaderboard().to_markdown()
    with pytest.raises(sb.InputError, match="no luck"):
        finished.failed[0].sids()


def test_an_object_runs_with_its_settings(finished: sb.Results) -> None:
    for entry in (finished[0], finished[1]):
        assert entry.record is not None and entry.record.tokenizer is not None
        assert {name: entry.record.tokenizer.config[name] for name in CODES} == CODES
        assert entry.record.environment.command_line[0] == "sidbench.run"


def test_class_object_handle_and_name_give_equal_codes(place: Path) -> None:
    """The same method under one budget, however it is named; the settings of an object are the budget's otherwise."""
    ways = [
        *("rqkmeans", RqKMeans, RqKMeans(RqKMeans.config_class()), sb.tokenizer("rqkmeans")),
        RqKMeans(RqKMeans.config_class(**CODES)),
        sb.tokenizer("rqkmeans", **CODES),
    ]
    results = run(ways, place, settings={"dataset.n_items": 120})
    assert len(results) == 2  # equal runs are one run
    hashes = [r.record.sids.content_hash for r in results if r.record is not None and r.record.sids is not None]
    assert len(set(hashes)) == 2
    named = run("rqkmeans", place, settings={"dataset.n_items": 120} | {f"tokenizer.{n}": v for n, v in CODES.items()})
    assert named[0].reused and named[0].record == results[1].record


def test_a_registered_class_and_its_name_are_one_run(place: Path) -> None:
    sb.register(Signs)
    try:
        results = run(["signs", Signs, Signs(TokenizerConfig())], place)
        assert len(results) == 1 and not results.failed
        assert np.array_equal(
            sb.tokenizer("signs").fit(features_of(place)).encode(features_of(place)).codes, codes(results[0])
        )
    finally:
        installed().forget("tokenizer", "signs")


def codes(run_: sb.FinishedRun) -> np.ndarray:
    return np.array(run_.sids()["codes"].tolist())


CODES_OF_ALL = {f"tokenizer.{name}": value for name, value in CODES.items()}


def test_fit_and_measure_give_the_numbers_of_a_run(finished: sb.Results, place: Path) -> None:
    """``sb.tokenizer(...).fit`` on the features of a run, and ``sb.measure``: bit for bit what stands on its record."""
    features = features_of(place)
    tok = sb.tokenizer("opq", budget="smoke", **CODES).fit(features, seed=1)
    sids = tok.encode(features)
    record = finished[4].record
    assert record is not None and record.sids is not None
    assert hash_arrays({"codes": sids.codes, "sizes": sids.sizes}) == record.sids.content_hash
    frame = sb.measure(sids, features)
    assert dict(frame["value"]) == {name: metric.value for name, metric in record.sids.metrics.items()}
    assert dict(frame["n"]) == {name: metric.n for name, metric in record.sids.metrics.items()}
    assert all(describe(name) is not None for name in frame.index) and frame.loc["entropy", "better"] == "higher"
    by_position = sb.measure(sids, features, by_position=True)
    assert len(by_position) == CODES["code_length"]
    assert tuple(by_position["entropy"]) == record.sids.vectors["entropy_by_position"]
    with pytest.raises(sb.InputError, match="60 and 10 items"):
        sb.measure(sids, features.take(np.arange(10)))


def features_of(home: Path) -> sb.ItemFeatures:
    """The item features of the tiny runs, from the stage cache."""
    config = RunConfig(tokenizer="opq", recommenders=("mtp",), budget="smoke", threads=1)
    with at_home(home):
        plan = plan_run(RunSpec(config, tuple(override(n, v) for n, v in TINY.items())), local_runtime(1))
        return plan_features(plan, plan.context).value


# -- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokenizers": "opqq"}, "did you mean 'opq'"),
        ({"tokenizers": [3]}, "extends Tokenizer"),
        ({"tokenizers": "opq", "dataset": "beuty"}, "did you mean 'beauty'"),
        ({"tokenizers": "opq", "dataset": np.zeros(3)}, "dataset"),
        ({"tokenizers": "opq", "budget": "smok"}, "did you mean 'smoke'"),
        ({"tokenizers": "opq", "recommenders": "mpt"}, "did you mean 'mtp'"),
        ({"tokenizers": "opq", "seeds": [-1]}, "seeds"),
        ({"tokenizers": "opq", "seeds": 0.5}, "seeds"),
        ({"tokenizers": "opq", "settings": {"tokenizer.codebok_size": 8}}, "did you mean 'codebook_size'"),
        ({"tokenizers": "opq", "settings": {"codebook_size": 8}}, "group"),
        ({"tokenizers": "none", "recommenders": "none"}, "neither tokenizer nor recommender"),
        (
            {"tokenizers": sb.tokenizer("opq", **CODES), "settings": {"tokenizer.codebook_size": 9}},
            "given by settings= and by",
        ),
        ({"tokenizers": Signs, "launcher": "local"}, "Signs, a class of this process"),
        ({"tokenizers": "opq", "launcher": "locl"}, "did you mean 'local'"),
        ({"tokenizers": "opq", "jobs": 2}, "--jobs"),
    ],
)
def test_mistakes_are_told_before_anything_runs(place: Path, arguments: dict[str, Any], message: str) -> None:
    tokenizers = arguments.pop("tokenizers")
    with pytest.raises(sb.InputError, match=message):
        run(tokenizers, place, **arguments)


def test_a_wrong_setting_of_one_of_several_stops_all(tmp_path: Path) -> None:
    with pytest.raises(sb.InputError, match="whiten"):
        run(["opq", "rqkmeans"], tmp_path, settings={"tokenizer.whiten": True})
    assert not (tmp_path / "runs").exists()


def test_two_classes_of_one_name(place: Path) -> None:
    other = type("Signs", (Signs,), {"__module__": __name__})
    with pytest.raises(sb.InputError, match="two classes of this name"):
        run([Signs, other], place)


# -- identity ------------------------------------------------------------------------------------------------------
CELL = """
class Edited(Signs):
    def encode(self, features, runtime):
        sids = super().encode(features, runtime)
        return sids.with_codes(LAST - sids.codes, sids.sizes)
"""


def edited(text: str, number: int, known: bool = True) -> type[Any]:
    name = f"<running {number}>"
    if known:
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "__main__", "Signs": Signs, "LAST": 1}
    exec(compile(text, name, "exec"), space)  # noqa: S102 - the test's own text
    made: type[Any] = space["Edited"]
    return made


def test_an_edited_class_is_never_served_from_the_cache(place: Path) -> None:
    first = run(edited(CELL, 1), place, settings=CODES_OF_ALL)[0]
    again = run(edited(CELL, 2), place, settings=CODES_OF_ALL)[0]
    changed = run(edited(CELL.replace("LAST - sids.codes", "sids.codes"), 3), place, settings=CODES_OF_ALL)[0]
    assert again.reused and again.record == first.record and not changed.reused
    assert np.array_equal(codes(changed), 1 - codes(first))


def test_without_source_nothing_is_reused(place: Path) -> None:
    runs = []
    for number in (4, 5):
        with pytest.warns(UserWarning, match="nothing of it is kept"):
            runs.append(run(edited(CELL, number, known=False), place, settings=CODES_OF_ALL)[0])
    assert not runs[1].reused and runs[0].record is not None and runs[1].record is not None
    assert runs[0].record.run_id != runs[1].record.run_id
    assert np.array_equal(codes(runs[0]), codes(runs[1]))


def test_nothing_stays_registered(finished: sb.Results) -> None:
    assert "signs" not in sb.list_tokenizers().index


# -- frames, tables, comparisons -------------------------------------------------------------------------------------
def test_wide_frame(finished: sb.Results) -> None:
    frame = finished.to_frame("wide")
    record = finished[1].record
    assert record is not None
    row = frame.iloc[1]
    assert (row["tokenizer"], row["seed"], row["recommenders"], row["failed"]) == ("opq", 0, "mtp", "")
    assert row["item_recall_at_10"] == record.metric("item_recall_at_10", "retrieval").value  # type: ignore[union-attr]
    assert row["entropy"] == record.metric("entropy").value  # type: ignore[union-attr]


def test_long_frame_has_every_number_of_the_records(finished: sb.Results) -> None:
    frame = finished.to_frame("long")
    for run_ in finished:
        if run_.record is None:
            continue
        own = frame[frame["run_id"] == run_.record.run_id]
        wanted = {("quantisation", n): m for n, m in run_.record.sids.metrics.items()}  # type: ignore[union-attr]
        wanted |= {(t.task, n): m for t in run_.record.tasks for n, m in t.metrics.items()}
        assert {(r.task, r.metric): r.value for r in own.itertuples()} == {key: m.value for key, m in wanted.items()}
        low = {(r.task, r.metric): r.low for r in own.itertuples() if not np.isnan(r.low)}
        assert low == {key: m.low for key, m in wanted.items() if m.low is not None}
    with pytest.raises(sb.InputError, match="did you mean 'wide'"):
        finished.to_frame("wid")  # type: ignore[arg-type]


def test_settings_tell_rows_of_one_name_apart(place: Path) -> None:
    results = run([sb.tokenizer("opq", codebook_size=k, code_length=3) for k in (4, 8)], place)
    assert results.to_frame()["settings"].tolist() == ["codebook_size=4", "codebook_size=8"]


def test_the_leaderboard_is_what_bench_prints(finished: sb.Results, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of names, by Python and by the command line: one record, one table; recorded controls stand beside it."""
    options = {"settings": TINY | CODES_OF_ALL, "recommenders": "mtp", "seeds": (0, 1)}
    control = run("random", place, **options)
    ours = run("opq", place, **options)
    assert all(entry.reused for entry in ours)
    words = [f"{name}={value}" for name, value in (TINY | CODES_OF_ALL).items()]
    with at_home(place):
        command = [
            "run",
            "--tokenizer",
            "opq",
            "--recommender",
            "mtp",
            "--seed",
            "0,1",
            "--budget",
            "smoke",
            "--threads",
            "1",
        ]
        assert invoke([*command, *words]) == 0
    assert capsys.readouterr().out == ours.leaderboard().to_markdown()
    frame = ours.leaderboard().to_frame()
    assert set(frame["tokenizer"]) == {"oracle", "opq", "random"} and len(control) == 2
    means = ours.to_frame()["item_recall_at_10"].mean()
    assert frame.set_index("tokenizer").loc["opq", "item_recall_at_10"] == pytest.approx(means, rel=1e-7)
    long = ours.leaderboard().to_frame("long")
    cell = long[(long["tokenizer"] == "opq") & (long["metric"] == "item_recall_at_10")].iloc[0]
    assert cell["low"] <= cell["value"] <= cell["high"] and cell["rank"] >= 1
    page = ours.leaderboard().to_html(place / "page.html")
    assert page.lstrip().lower().startswith("<!doctype html") and (place / "page.html").read_text() == page


def test_compare_and_the_command_agree(finished: sb.Results, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = sb.compare([finished[0], finished[3]], [finished[1], finished[4]])
    frame = found.to_frame().set_index(["task", "metric", "stratum"])
    wide = finished.to_frame().dropna(subset=["seed"]).groupby("tokenizer")["item_recall_at_10"].mean()
    line = frame.loc[("retrieval", "item_recall_at_10", "all")]
    assert line["left"] == pytest.approx(wide["signs"]) and line["right"] == pytest.approx(wide["opq"])
    ids = [",".join(finished[i].record.run_id for i in side) for side in ((0, 3), (1, 4))]  # type: ignore[union-attr]
    with at_home(place):
        assert invoke(["compare", *ids]) == 0
    assert (
        capsys.readouterr().out
        == found.to_markdown()
        == sb.compare(ids[0].split(","), ids[1].split(","), home=place)._repr_markdown_()
    )
    with pytest.raises(sb.InputError, match="on both sides"):
        sb.compare(finished[0], finished[0])
    with pytest.raises(sb.InputError, match="no luck"):
        sb.compare(finished[0], finished[2])


def test_results_are_all_records_of_a_home_and_what_cannot_be_read(place: Path, finished: sb.Results) -> None:
    broken = place / "runs" / "broken"
    broken.mkdir()
    (broken / "record.json").write_text(json.dumps({"schema_version": 1}))
    try:
        found = sb.results(place)
        own = {r.record.run_id for r in finished if r.record is not None}
        assert own <= set(found.to_frame()["run_id"])
        assert [Path(r.label).parent.name for r in found.failed] == ["broken"] and "unreadable" in found.failed[0].reason
        assert isinstance(found.leaderboard().to_frame(), pd.DataFrame)
    finally:
        (broken / "record.json").unlink()
        broken.rmdir()
    assert len(sb.results(place / "nowhere")) == 0
    with pytest.raises(sb.InputError, match="no run with a record"):
        sb.results(place / "nowhere").leaderboard()


def test_workers_give_the_runs_of_this_process(tmp_path: Path) -> None:
    given = {"settings": {f"tokenizer.{n}": v for n, v in CODES.items()}, "seeds": range(2)}
    here, there = run("opq", tmp_path / "here", **given), run("opq", tmp_path / "there", launcher="local", jobs=2, **given)
    assert [r.record.seed for r in there if r.record] == [0, 1]
    assert [r.record.run_id for r in there if r.record] == [r.record.run_id for r in here if r.record]
    assert here.to_frame()["entropy"].notna().all() and here.to_frame()["entropy"].equals(there.to_frame()["entropy"])


def test_files_of_a_run(finished: sb.Results) -> None:
    assert codes(finished[0]).shape == (60, CODES["code_length"])
    users = finished[0].users("retrieval")
    assert users["item_recall_at_10"].astype(float).mean() == pytest.approx(
        finished.to_frame()["item_recall_at_10"][0], rel=1e-6
    )
    with pytest.raises(sb.InputError, match="no task 'ranking'"):
        finished[0].users("ranking")


def test_home_is_put_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_HOME", "/elsewhere")
    with at_home(place):
        pass
    with at_home(None):
        pass
    assert os.environ["SIDBENCH_HOME"] == "/elsewhere"


def test_baselines_and_recommenders_of_ones_own(place: Path) -> None:
    """Item-ID baselines take no tokenizer, and settings of a recommender object reach its group only."""
    from sidbench.recommenders.sasrec import Sasrec

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(["opq"], place, recommenders=[Sasrec, "most_popular"], settings={"features.text": "tfidf"})
    assert [r.record.tokenizer for r in results if r.record] == [None, None]
    assert results.to_frame()["recommenders"].tolist() == ["sasrec", "most_popular"]
