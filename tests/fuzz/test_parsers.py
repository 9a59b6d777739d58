"""Every parser of the project against mutated inputs: it reads them or raises a documented error, and nothing else.

Some inputs of each parser here, the same in every run, and twenty times as many each night; ``long.py`` tries as many as
one wants.
"""

from __future__ import annotations

import importlib.util
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidbench.datasets.foundation.errors import InputError

INPUTS, NIGHTLY = 20, 400  # of a parser with share 1; the quick ones have more
SECONDS = 20  # of processor time, so that a busy machine breaks nothing
MEMORY_BYTES = 6 << 30


def _beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        if spec is None or spec.loader is None:
            raise ImportError(name)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


mutation, parser_module, data_sets, tables, stores = (
    _beside(f"fuzz_{name}") for name in ("mutation", "parser", "data_sets", "tables", "stores")
)
ALL = (*data_sets.DATA_SETS, *tables.TABLES, *stores.STORES)


@pytest.fixture(autouse=True)
def bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, a private home, and a bound on memory and time."""
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    monkeypatch.setenv("SIDBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SIDBENCH_DATA", raising=False)
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"a parser took more than {SECONDS} s")

    handler = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, handler)


def run(parser: Any, data: bytes, folder: Path) -> bool:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return bool(parser.run(data, folder))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def test_names_are_unique() -> None:
    assert len({parser.name for parser in ALL}) == len(ALL)


@pytest.mark.parametrize("inputs", [INPUTS, pytest.param(NIGHTLY, marks=[pytest.mark.slow, pytest.mark.nightly])])
@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.name)
def test_a_parser_reads_or_refuses(parser: Any, inputs: int, tmp_path: Path) -> None:
    folder = tmp_path / "fuzz"
    folder.mkdir()
    parser.prepare(folder)
    good = list(parser.seeds())
    assert [data for data in good if run(parser, data, folder)], "none of its good inputs is read, so mutations test nothing"
    number = st.integers(0, mutation.SPAN - 1)
    kinds = mutation.BINARY_KINDS if parser.binary else mutation.KINDS
    operations = st.lists(st.tuples(st.sampled_from(kinds), number, number), min_size=1, max_size=6)

    @settings(
        max_examples=max(3, round(inputs * parser.share)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(good) - 1), operations)
    def reads_or_refuses(seed: int, chosen: list[tuple[str, int, int]]) -> None:
        run(parser, mutation.mutated(good, seed, chosen), folder)

    reads_or_refuses()


def test_a_fault_of_a_parser_is_seen(tmp_path: Path) -> None:
    """The harness takes our errors for refusals, and nothing else."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        if data == b"refused":
            raise InputError("bad")
        if data == b"broken":
            raise KeyError("fault")

    parser = parser_module.Parser("x", "x", read, lambda: [b""])
    assert parser.run(b"", tmp_path) and not parser.run(b"refused", tmp_path)
    with pytest.raises(KeyError):
        parser.run(b"broken", tmp_path)


def test_mutations_are_a_function_of_their_operations_and_reach_values_of_json() -> None:
    data = b'{"a": [1, {"b": 2}]}'
    for kind in mutation.KINDS:
        assert mutation.mutated([data, b"xyz"], 0, [(kind, 40_000, 7)]) == mutation.mutated(
            [data, b"xyz"], 0, [(kind, 40_000, 7)]
        )
        mutation.mutated([b""], 0, [(kind, 65_535, 65_535)])
    assert mutation.mutated([b"abcd"], 0, [("truncate", 32_768, 0)]) == b"ab"
    assert mutation.mutated([b"abcd", b"wxyz"], 0, [("splice", 32_768, 32_769)]) == b"abyz"
    changed = {mutation.mutated([data], 0, [("json", a, b)]) for a in range(7) for b in range(len(mutation.VALUES))}
    assert len(changed) > 100 and b'{"a": "os.system"}' in changed
