"""The manifest of a cache entry: every flipped byte is found."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.store.cache_entries import (
    MANIFEST,
    check_files,
    damaged_folder,
    discard,
    read_manifest,
    touch,
    write_manifest,
)
from sidbench.datasets.foundation.hashing import hash_json

COST = {"name": "tokenizer", "key": "k", "wall_seconds": 1.5, "cpu_seconds": 1.25, "peak_memory_bytes": 10}


def entry(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "value.bin").write_bytes(bytes(range(50)))
    (folder / "more.json").write_text("{}")
    write_manifest(folder, COST, {"seed": 0, "sizes": (1, 2)}, ["a warning"])
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = entry(tmp_path / "e")
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    assert manifest["cost"] == COST
    assert set(manifest["files"]) == {"deep/value.bin", "more.json"}
    assert (manifest["depends"], manifest["warnings"]) == ({"seed": 0, "sizes": [1, 2]}, ["a warning"])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([MANIFEST, "deep/value.bin", "more.json"]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, name: str, at: float, bit: int) -> None:
    folder = entry(tmp_path_factory.mktemp("flip") / "e")
    data = bytearray((folder / name).read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    (folder / name).write_bytes(data)
    with pytest.raises((ValueError, OSError)):
        check_files(folder, read_manifest(folder))


def test_a_manifest_without_its_checksum_is_no_manifest(tmp_path: Path) -> None:
    folder = entry(tmp_path / "e")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["checksum"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="fields of a manifest"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "change", [{"files": []}, {"cost": 1}, {"files": {"../../etc/passwd": "0"}}, {"files": {"/dev/zero": "0"}}, {"extra": 1}]
)
def test_manifests_of_another_shape(tmp_path: Path, change: dict[str, object]) -> None:
    folder = entry(tmp_path / "e")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["checksum"]
    manifest |= change
    (folder / MANIFEST).write_text(json.dumps({**manifest, "checksum": hash_json(manifest)}))
    with pytest.raises(ValueError, match=MANIFEST):
        read_manifest(folder)


def test_last_use_is_the_time_of_the_manifest_and_never_needed(tmp_path: Path) -> None:
    folder = entry(tmp_path / "e")
    os.utime(folder / MANIFEST, (1.0, 1.0))
    touch(folder)
    assert (folder / MANIFEST).stat().st_mtime > 1e9
    touch(tmp_path / "absent")  # evicted meanwhile, or on a disk that cannot be written


def test_discarded_whole_and_again_after_a_kill(tmp_path: Path) -> None:
    folder = entry(tmp_path / "e")
    child = os.fork()
    if not child:
        os.rmdir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        discard(folder)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not folder.exists()
    assert (tmp_path / "e.gone").exists()
    discard(entry(folder))
    assert list(tmp_path.iterdir()) == []


def test_the_first_free_name_for_damage(tmp_path: Path) -> None:
    (tmp_path / "k.damaged-1").mkdir()
    assert damaged_folder(tmp_path / "k").name == "k.damaged-2"
