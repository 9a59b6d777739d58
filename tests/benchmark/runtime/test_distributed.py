"""Two processes give what one gives: training, evaluation, the stage cache, and failures that end both.

One launch of ``distributed_work.py`` goes through every scenario; each test reads what both processes told of one.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.sharding import combined_notes, merged_notes, part_of
from sidbench.datasets.foundation.errors import StageError
from sidbench.recommenders.base import MAX, MEAN, MIN, SAME, SUM

SCRIPT = Path(__file__).with_name("distributed_work.py")
SMOKE = ["run", "--dataset", "synthetic", "--budget", "smoke", "--threads", "1", "--device", "cpu", "--json"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def work() -> dict[str, Any]:
    """What the script defines, for one process."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of two processes; the second one kills itself at the end."""
    folder = tmp_path_factory.mktemp("both")
    place = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        output = [process.communicate(timeout=120)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, -signal.SIGKILL], "\n".join(output)
    return folder


def told(folder: Path, title: str) -> list[Any]:
    return [json.loads(path.read_text()) for rank in range(2) if (path := folder / f"{title}-{rank}.json").exists()]


def test_two_batches_on_two_processes_are_one_process_bit_for_bit(both: Path, work: dict[str, Any]) -> None:
    alone = work["train"](2)
    leader, other = told(both, "two")
    assert (leader.pop("processes"), other.pop("processes"), alone.pop("processes")) == (2, 2, 1)
    assert leader == other == alone  # a sum of two has no order: curve, validations, parts, weights
    assert alone["steps"] == 5 * 4 and alone["weights"]["never"] == [1.0] != alone["weights"]["sometimes"]


def test_four_batches_on_two_processes_differ_by_the_order_of_sums_alone(both: Path, work: dict[str, Any]) -> None:
    alone = work["train"](4)
    leader, other = told(both, "four")
    assert leader == other
    for name in ("losses", "validations"):
        assert leader[name] == pytest.approx(alone[name], rel=1e-6)
    for name, values in alone["weights"].items():
        assert np.allclose(leader["weights"][name], values, atol=1e-6), name


def test_a_plan_that_is_not_sharded_runs_whole_on_each(both: Path, work: dict[str, Any]) -> None:
    alone = work["train"](2, sharded=False, mean=True)
    leader, other = told(both, "replicated")
    assert "each of the 2 processes ran all of its batches" in leader.pop("warnings")[0]
    assert alone.pop("warnings") == []
    assert leader == alone == {name: other[name] for name in alone}
    assert alone["weights"]["seen"] != [0.0]


def test_a_plan_that_wrongly_says_it_can_be_shared_is_refused(both: Path) -> None:
    assert all("declare sharded=False" in error for error in told(both, "lying"))


def test_a_bad_loss_of_one_process_stops_both(both: Path) -> None:
    assert [error.partition(":")[0] for error in told(both, "nan")] == ["NonFiniteLoss"] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_the_failure_of_one_process_ends_both_with_its_message(both: Path, rank: int) -> None:
    errors = told(both, f"failure {rank}")
    assert errors[rank] == f"StageError: plugin failed: process {rank} is tired"
    assert errors[1 - rank] == f"PeerFailure: process {rank}: plugin failed: process {rank} is tired"


def test_accumulation_must_divide_among_the_processes(both: Path) -> None:
    assert all("got 3 with 2 processes" in error and "add --accumulate 2" in error for error in told(both, "odd"))


def test_the_leader_decides_what_is_computed(both: Path) -> None:
    leader, other = told(both, "cache")
    assert (
        leader["values"]
        == other["values"]
        == {"all": [2, 0, 1, 2], "all again": [2, 0, 1, 2], "leader": [1, 0, 1], "leader again": [1, 0, 1]}
    )
    assert leader["calls"] == ["all", "leader", "bad", "bad"] and other["calls"] == ["all", "bad"]
    assert leader["errors"] == ["StageError: no luck"] * 2
    assert other["errors"] == ["StageError: no luck", "PeerFailure: process 0: no luck"]


def test_users_rows_and_items_are_shared_without_loss(both: Path, work: dict[str, Any]) -> None:
    alone = work["evaluate"]()
    leader, other = told(both, "evaluate")
    assert leader == other
    for n, columns in alone["ranks"].items():
        for name, values in columns.items():
            assert np.allclose(leader["ranks"][n][name], values, atol=1e-6), (n, name)  # ranks are whole numbers
    assert leader["scores"] == alone["scores"] and len(set(alone["scores"])) > 2
    assert leader["codes"] == alone["codes"]
    assert leader["reconstruction"] == pytest.approx(alone["reconstruction"])
    assert leader["notes"] == {**alone["notes"], "truncated_histories": 4.0}  # counts add up, the rest does not


def test_killed_in_a_shared_training_resumed_in_one_process(both: Path, work: dict[str, Any], tmp_path: Path) -> None:
    (error,) = told(both, "killed")  # the other is dead
    assert "another process of this command ended without a word" in error
    runtime, resumed = LocalRuntime("cpu", threads=1, accumulate=2), work["plan"]()
    with runtime.checkpointing(both / "checkpoints"):
        log = runtime.train(resumed)
    whole = work["train"](2)
    assert work["outcome"](log, resumed) == {name: whole[name] for name in work["outcome"](log, resumed)}


@pytest.mark.parametrize("n", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_parts_cover_everything_once(n: int, size: int) -> None:
    parts = [list(range(n)[part_of(n, rank, size)]) for rank in range(size)]
    assert sum(parts, []) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


PARTS = [
    ({"ms_per_user": 1.0, "truncated_histories": 3.0, "beam_widest": 9.0, "beam_covered_items": 50.0, "epochs": 7.0}, 3.0),
    ({"ms_per_user": 5.0, "truncated_histories": 1.0, "beam_widest": 4.0, "beam_covered_items": 40.0, "epochs": 7.0}, 1.0),
]
DECLARED = {
    "ms_per_user": MEAN,
    "truncated_histories": SUM,
    "beam_widest": MAX,
    "beam_covered_items": MIN,
    "epochs": SAME,
}


def test_notes_of_parts_by_hand() -> None:
    assert combined_notes(PARTS, DECLARED, "Model") == (
        {
            "ms_per_user": 2.0,
            "truncated_histories": 4.0,
            "beam_widest": 9.0,
            "beam_covered_items": 40.0,
            "epochs": 7.0,
        },
        [],
    )


def test_notes_are_combined_as_declared_and_not_by_their_names() -> None:
    merged, warnings = combined_notes(PARTS, DECLARED | {"beam_widest": MIN, "truncated_histories": MEAN}, "Model")
    assert (merged["beam_widest"], merged["truncated_histories"], warnings) == (4.0, 2.5, [])


def test_a_note_without_a_declaration_is_no_silent_guess() -> None:
    merged, (warning,) = combined_notes(PARTS, {n: how for n, how in DECLARED.items() if how in (MEAN, MAX, MIN)}, "Model")
    assert merged["truncated_histories"] == 2.5 and merged["epochs"] == 7.0  # alike in all parts: nothing to combine
    assert "truncated_histories" in warning and "diagnostic_combine" in warning


def test_a_note_that_is_wrongly_declared_the_same_is_left_out() -> None:
    merged, (warning,) = combined_notes(PARTS, DECLARED | {"ms_per_user": SAME}, "Model")
    assert "ms_per_user" not in merged and "ms_per_user is declared 'same' and differs between processes (1, 5)" in warning
    with pytest.raises(StageError, match="'total'.*use one of 'sum'"):
        combined_notes(PARTS, DECLARED | {"epochs": "total"}, "Model")


def test_a_process_without_users_has_no_say(runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model:
        combinations = staticmethod(lambda: DECLARED)

        def diagnostics(self) -> dict[str, float]:
            raise AssertionError("asked, though it ranked nobody")

    monkeypatch.setattr(runtime.process_group, "gather", lambda own: [*([dict(n), w] for n, w in PARTS), own])
    assert merged_notes(Model(), 0, runtime)["truncated_histories"] == 4.0  # type: ignore[arg-type]
    warned: list[str] = []
    monkeypatch.setattr(Model, "combinations", staticmethod(dict))
    monkeypatch.setattr(runtime, "warn", warned.append)
    merged_notes(Model(), 0, runtime)  # type: ignore[arg-type]
    assert any("Model: the diagnostic ms_per_user" in warning for warning in warned)


@pytest.mark.slow
def test_torchrun_gives_the_record_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job from a shell: equal codes, equal metrics, one record, what the record says about the launch."""
    options = [*SMOKE, "--tokenizer", "rqvae", "--accumulate", "2", "dataset.n_items=100", "tokenizer.codebook_size=16"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
        "-m",
        "sidbench.benchmark.cli.app",
    ]
    monkeypatch.setenv("SIDBENCH_HOME", str(tmp_path / "one"))
    assert invoke(options) == 0
    one = json.loads(capsys.readouterr().out)["records"][0]
    environment = {**os.environ, "SIDBENCH_HOME": str(tmp_path / "two"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *options], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    two = json.loads(done.stdout)["records"][0]  # the leader alone prints
    assert len(list((tmp_path / "two" / "runs").iterdir())) == 1
    assert one["run_id"] == two["run_id"] and one["sids"]["content_hash"] == two["sids"]["content_hash"]
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
    assert two["environment"]["accumulate"] == 2
    for left, right in zip(one["tasks"], two["tasks"], strict=True):
        assert left["comparability_key"] == right["comparability_key"]
        for name, metric in left["metrics"].items():
            assert right["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-6), name
