"""Records of 0.1.0 hold fingerprints of code; the data file tells which versions these are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidbench.benchmark.plugins.identity import plugin_version
from sidbench.leaderboards.board.recorded_versions import UNKNOWN, recorded_version, versions_of
from sidbench.leaderboards.board.store import read_runs

BOARDS = sorted((Path(__file__).resolve().parents[3] / "leaderboards" / "boards").glob("*/records"))


@pytest.mark.parametrize("records", BOARDS, ids=lambda p: p.parent.name)
def test_every_published_record_maps_to_versions(records: Path) -> None:
    found = [version for run in read_runs(records).runs for version in versions_of(run.record).values()]
    assert len(found) > 20 and not any(version.startswith(UNKNOWN) for version in found)
    assert set(found) == {"1", "1/rqkmeans 1"}  # what each of them had when it was published


def test_a_stated_version_counts_before_the_fingerprint() -> None:
    assert recorded_version("tokenizer", "opq", "7", "0" * 64) == "7"
    assert recorded_version("tokenizer", "opq", "", "0" * 64) == f"{UNKNOWN}{'0' * 12}"
    assert recorded_version("tokenizer", "opq", "", "") == ""  # left neither: not judged


def test_the_form_of_a_wrappers_version_is_that_of_installed_ones() -> None:
    assert plugin_version("tokenizer", "shuffled", "rqkmeans").partition("/")[2].startswith("rqkmeans ")
