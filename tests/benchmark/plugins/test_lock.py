"""The lock of the code: a change of what code does is said, by a higher version or by a reason; wording changes no key."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.plugins.code_hash import ROOT
from sidbench.benchmark.plugins.current_code import current_entries
from sidbench.benchmark.plugins.lock import (
    Declaration,
    Entry,
    Lock,
    compare_lock,
    read_lock,
    renewed,
    write_lock,
)
from sidbench.datasets.foundation.errors import InputError

LOCK = Lock({"tokenizer a": Entry(1, "aa"), "tokenizer b": Entry(2, "bb"), "unit metrics": Entry(1, "mm")})


def test_the_lock_holds_for_the_code_as_it_is() -> None:
    assert compare_lock(read_lock(), current_entries()).problems() == ()
    assert invoke(["plugin", "lock", "--check"]) == 0


def test_every_kind_of_difference_is_told_apart() -> None:
    now = {"tokenizer a": Entry(1, "ax"), "tokenizer b": Entry(1, "bb"), "tokenizer c": Entry(1, "cc")}
    changes = compare_lock(LOCK, now)
    assert changes.unsaid == ("tokenizer a",) and changes.lowered == ("tokenizer b",)
    assert changes.added == ("tokenizer c",) and changes.removed == ("unit metrics",) and not changes.raised
    assert len(changes.problems()) == 4 and all("To do: " in told for told in changes.problems())
    raised = compare_lock(LOCK, {**LOCK.entries, "tokenizer a": Entry(2, "ax")})
    assert raised.raised == ("tokenizer a",) and not raised.unsaid
    assert compare_lock(LOCK, LOCK.entries).problems() == ()


def test_changed_code_needs_a_word() -> None:
    now = {**LOCK.entries, "tokenizer a": Entry(1, "ax")}
    with pytest.raises(InputError, match="tokenizer a"):
        renewed(LOCK, now)
    said = renewed(LOCK, now, "a loop became a product")
    assert said.entries == now and said.declarations == (Declaration(("tokenizer a",), "a loop became a product"),)
    with pytest.raises(InputError, match="no changed code"):
        renewed(LOCK, LOCK.entries, "nothing")
    with pytest.raises(InputError, match="lower version"):
        renewed(LOCK, {**LOCK.entries, "tokenizer b": Entry(1, "bx")}, "same")
    raised = {**LOCK.entries, "tokenizer a": Entry(2, "ax")}
    assert renewed(LOCK, raised) == Lock(raised)  # a higher version is word enough


def test_the_file_reads_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    full = Lock(LOCK.entries, (Declaration(("tokenizer a", "tokenizer b"), 'said "so"'),))
    for lock in (LOCK, full):
        write_lock(lock, path)
        assert read_lock(path) == lock
    path.write_text('{"entries": {"tokenizer a": 3}}')
    read_lock.cache_clear()
    with pytest.raises(InputError, match=r"lock\.json"):
        read_lock(path)


DRIVER = """
import contextlib, io, json, sys
from sidbench.benchmark.cli.app import invoke
out = io.StringIO()
with contextlib.redirect_stdout(out):
    run = invoke(["run", "--tokenizer", "opq", "--dataset", "synthetic", "--budget", "smoke", "--dry-run", "--json"])
    lock = [invoke(["plugin", "lock", *words]) for words in json.loads(sys.argv[1])]
print(json.dumps({"run": json.loads(out.getvalue().splitlines()[0])["runs"][0]["run_id"], "lock": lock}))
"""


def tell(copy: Path, home: Path, *locks: list[str]) -> tuple[str, list[int]]:
    """Run id of a run on the copied source tree, which holds the versions in its keys, and exit codes of lock commands."""
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "SIDBENCH_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(locks)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return told["run"], told["lock"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def edit_all(copy: Path, pattern: str, new: str) -> None:
    for file in copy.rglob("*.py"):
        text = file.read_text()
        if (edited := re.sub(pattern, new, text, flags=re.MULTILINE)) != text:
            file.write_text(edited)


def test_wording_changes_no_key_and_an_equation_needs_a_version(tmp_path: Path) -> None:
    copy, home = tmp_path / "sidbench", tmp_path / "home"
    for room in ("benchmark", "datasets", "leaderboards", "recommenders", "tokenizers"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", "boards", "studies"))
    for file in ROOT.glob("*.py*"):
        if file.suffix in (".py", ".pyi"):
            shutil.copy(file, copy / file.name)
    check = ["--check"]
    before = tell(copy, home, check)
    assert before[1] == [0]

    blocks = copy / "tokenizers" / "blocks"
    edit(copy / "datasets" / "foundation" / "settings.py", "one of {", "any of {")  # an error is reworded
    edit(copy / "tokenizers" / "opq.py", "deviations=(", 'deviations=(\n        "Told in a test.",')
    (blocks / "clustering" / "kmeans.py").rename(blocks / "quantisers" / "lloyd.py")  # a file moves
    edit_all(copy, r"blocks\.clustering\.kmeans\b", "blocks.quantisers.lloyd")
    edit_all(copy, r"\bOpq\b", "OptimisedProductQuantisation")  # a class gets another name
    assert tell(copy, home, check) == before

    edit(blocks / "quantisers" / "lloyd.py", "(centres * centres).sum(1)", "(centres * centres).sum(1) * 0.5")  # an equation
    changed = tell(copy, home, check, [])
    assert changed[0] != before[0] and changed[1] == [1, 2]  # no version was raised, and nobody said why not
    edit_all(copy, r"^    version=1,$", "    version=2,")
    raised = tell(copy, home, check, [], check)
    assert raised[0] not in (before[0], changed[0]) and raised[1] == [1, 0, 0]
