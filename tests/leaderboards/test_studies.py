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


def test_both_studies_of_beauty_are_here() -> None:
    names = {json.loads(path.read_text())["attributes"]["tokenizer"] for path in STUDIES}
    assert {"adasid", "rqvae"} <= names


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
