"""The table of ``docs/scale.md`` is that of ``docs/scale.json``, and the script behind both goes on where it stopped."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent / "speed" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_script", SCRIPT)
    if spec is None or spec.loader is None:
        pytest.fail(f"{SCRIPT} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def point(stage: str, items: int, **facts: Any) -> dict[str, Any]:
    measured = {"wall_seconds": 2.0, "cpu_seconds": 1.0, "peak_anonymous_bytes": 5e8, "peak_resident_bytes": 1.5e9}
    return {"stage": stage, "tokenizer": "", "items": items, "dims": 256, **measured, **facts}


def test_page_is_current(scale: ModuleType) -> None:
    page = scale.PAGE.read_text()
    assert scale.rendered(page, scale.read_points(scale.POINTS)) == page, "run: python tests/speed/scale.py --render"


def test_row_holds_time_per_item_and_both_kinds_of_memory(scale: ModuleType) -> None:
    assert scale.row(point("write", 1_000_000, bytes=1.024e9)) == [
        "write",
        "1,000,000",
        "2.00",
        "1.00",
        "1.00",
        "0.500",
        "1.500",
        "1.024 GB written",
    ]
    failed = {"stage": "fit", "tokenizer": "opq", "items": 10, "dims": 2, "failed": "not within 5 s"}
    assert scale.row(failed) == ["fit opq", "10", "not within 5 s", "", "", "", "", ""]
    assert scale.row(point("mtp", 10, step_ms=2.04, rank_ms_per_user=0.5))[-1] == "2.0 ms a step; 0.50 ms a user to rank"


def test_points_that_are_there_are_skipped_and_inputs_are_made_first(
    scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    def measure(stage: str, tokenizer: str, items: int, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
        calls.append((stage, tokenizer))
        if stage == "write":
            (work / "content-10-4.npy").touch()
        if stage == "fit":
            (work / "state-opq-10-4").mkdir()
        if stage == "trie":
            raise KeyboardInterrupt
        return {**point(stage, items), "tokenizer": tokenizer, "dims": 4}

    monkeypatch.setattr(scale, "measure", measure)
    out, work = tmp_path / "points.json", tmp_path / "work"
    work.mkdir()
    wanted = argparse.Namespace(
        items=[10], tokenizer=["opq"], stages=["encode", "trie"], dims=4, again=False, limit=1.0, trained=5, keep=False
    )
    with pytest.raises(KeyboardInterrupt):
        scale.run_points(wanted, out, work)
    assert calls == [("write", ""), ("fit", "opq"), ("encode", "opq"), ("trie", "")]
    assert [p["stage"] for p in json.loads(out.read_text())["points"]] == ["write", "fit", "encode"]
    calls.clear()
    wanted.stages = ["fit", "encode", "codes"]
    scale.run_points(wanted, out, work)
    assert calls == [("codes", "")] and len(scale.read_points(out)) == 4
    assert not any(work.iterdir())


def test_a_failing_stage_is_a_point_that_says_so(scale: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(scale, "WORKER", worker)
    told = argparse.Namespace(dims=4, trained=9, limit=60.0)
    worker.write_text("raise SystemExit('no memory left')")
    assert scale.measure("codes", "", 5, tmp_path, told)["failed"] == "no memory left"
    worker.write_text("import sys; sys.exit(sys.argv[1])")
    task = json.loads(scale.measure("fit", "opq", 5, tmp_path, told)["failed"])
    assert (task["trained"], task["dims"], task["work"]) == (5, 4, str(tmp_path))
    worker.write_text("import time; time.sleep(60)")
    told.limit = 0.5
    assert scale.measure("codes", "", 5, tmp_path, told)["failed"] == "not within 0.5 s"


def test_unknown_stages_are_refused(scale: ModuleType) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'triee' is not one of write"):
        scale.chosen(scale.STAGES)("codes,triee")
