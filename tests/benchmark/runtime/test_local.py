"""What a runtime says about itself, in stage keys and on records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.config.run_config import RunConfig
from sidbench.benchmark.runs.environment import environment
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.benchmark.store.records import EnvironmentRecord
from sidbench.datasets.foundation.errors import InputError


@pytest.mark.parametrize(
    ("choices", "numerics"),
    [
        ({}, {}),
        ({"accumulate": 4}, {"accumulate": 4}),
        ({"precision": "bf16", "accumulate": 2}, {"accumulate": 2, "precision": "bf16"}),
    ],
)
def test_keys_hold_what_changes_numbers_and_nothing_at_the_defaults(
    choices: dict[str, Any], numerics: dict[str, Any]
) -> None:
    assert LocalRuntime("cpu", **choices).numerics == numerics


def test_the_record_holds_the_engine() -> None:
    record = environment(LocalRuntime("cpu", precision="bf16", accumulate=4), ("bench", "run"))
    assert (record.precision, record.accumulate, record.processes, record.compiled) == ("bf16", 4, 1, False)
    older = {n: v for n, v in record.model_dump().items() if n not in ("accumulate", "processes", "compiled")}
    assert EnvironmentRecord.model_validate(older).accumulate == 1  # records written before these fields


@pytest.mark.parametrize("accumulate", [0, -2])
def test_accumulation_is_positive(accumulate: int) -> None:
    with pytest.raises(InputError, match="--accumulate; got"):
        LocalRuntime("cpu", accumulate=accumulate)
    with pytest.raises(InputError, match="accumulate"):
        RunConfig(accumulate=accumulate)


def test_engine_settings_are_options_not_overrides(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", "--dataset", "synthetic", "run.accumulate=2"]) == 2
    assert "use --accumulate" in capsys.readouterr().err


def test_only_the_leader_reports_errors(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, printed in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert invoke(["run", "--tokenizer", "adasidd"]) == 2
        assert bool(capsys.readouterr().err) is printed


def test_a_team_of_one_passes_values_through() -> None:
    process_group = ProcessGroup()
    assert (
        process_group.is_main_process
        and process_group.broadcast({"a": 1}) == {"a": 1}
        and process_group.gather("x") == ["x"]
    )
    with pytest.raises(ValueError, match="mine"), process_group.solo():
        process_group.together(lambda: (_ for _ in ()).throw(ValueError("mine")))
    assert (process_group.rank, process_group.size) == (0, 1)
