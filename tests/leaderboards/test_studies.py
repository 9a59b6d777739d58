"""The exported sweeps of the project: every tuned preset is the best complete trial of its study, after the default."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "leaderboards" / "studies").glob("*.json"))


def preset_of(study: dict[str, Any]) -> dict[str, Any]:
    about = study["attributes"]
    path = ROOT / "tokenizers" / "presets" / about["tokenizer"] / about["dataset"] / "tuned.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_the_studies_that_the_findings_quote_are_here() -> None:
    about = [json.loads(path.read_text())["attributes"] for path in STUDIES]
    assert {("adasid", "beauty"), ("rqvae", "beauty"), ("adasid", "synthetic")} <= {
        (a["tokenizer"], a["dataset"]) for a in about
    }


def test_the_killed_sweep_lost_no_trial() -> None:
    """Both workers were killed in the middle of a trial; the same command took the two trials over and finished."""
    [path] = [p for p in STUDIES if p.stem.startswith("synthetic-adasid")]
    trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
    failed = [t for t in trials if t["state"] not in ("complete", "pruned")]
    assert sum(t["state"] in ("complete", "pruned") for t in trials) == 20 and len(failed) == 2
    for lost in failed:
        again = [t for t in trials if t["parameters"] == lost["parameters"] and t is not lost]
        assert [t["state"] in ("complete", "pruned") for t in again] == [True]
    assert max(t["values"][0] for t in trials if t["state"] == "complete") > trials[0]["values"][0]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_tuned_preset_is_the_best_trial_of_its_study(path: Path) -> None:
    study = json.loads(path.read_text(encoding="utf-8"))
    finished = [t for t in study["trials"] if t["state"] in ("complete", "pruned")]
    complete = [t for t in finished if t["state"] == "complete"]
    assert len(finished) >= 12 and study["study"] == path.stem
    first = min(study["trials"], key=lambda t: t["number"])
    assert first["parameters"] == study["attributes"]["default"] and first["state"] == "complete"
    best = max(complete, key=lambda t: t["values"][0])
    preset = preset_of(study)
    assert f"sweep {study['study']}, trial {best['number']} of {len(finished)} trials" in preset["source"]
    assert f"{best['values'][0]:.6g} against {first['values'][0]:.6g} by default" in preset["source"]
    assert study["attributes"]["data_hash"].startswith(preset["source"].rpartition("data ")[2])
    wanted = {name.removeprefix("tokenizer."): value for name, value in best["parameters"].items() if value is not None}
    assert {n: preset["tokenizer"][n] for n in wanted} == pytest.approx(wanted)
    assert preset["effort"]["trials"] == len(finished)
