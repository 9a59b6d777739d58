"""What `bench cache gc` may remove, from caches made by hand with known sizes and times."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.store.cache_entries import MANIFEST, lock_path
from sidbench.benchmark.store.maintenance.collecting import Plan, Rules, carry_out, plan_collection
from sidbench.benchmark.store.maintenance.inventory import Entry, Inventory, Needs, record_needs, take_inventory
from sidbench.benchmark.store.maintenance.unfinished import UnfinishedRun
from sidbench.datasets.foundation.errors import InputError

NOW, DAY = 1_000_000_000.0, 86_400.0
KEYS = [f"{n:064x}" for n in range(10)]
NOBODY = Needs({})


def entry(root: Path, n: int, n_bytes: int = 100, days: float = 1.0, stage: str = "tokenizer") -> Path:
    """An entry of ``n_bytes`` beside its manifest of 0, last used ``days`` before ``NOW``."""
    folder = root / stage / KEYS[n]
    folder.mkdir(parents=True)
    (folder / "value").write_bytes(bytes(n_bytes))
    (folder / MANIFEST).write_text("")
    os.utime(folder / MANIFEST, (NOW - days * DAY,) * 2)
    return folder


def beside(root: Path, n: int, end: str, days: float = 0.0) -> Path:
    path = root / "tokenizer" / f"{KEYS[n]}{end}"
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(10))
    for p in (path / "file", path):
        os.utime(p, (NOW - days * DAY,) * 2)
    return path


def plan(root: Path, rules: Rules, needs: Needs = NOBODY, unfinished: tuple[UnfinishedRun, ...] = ()) -> Plan:
    return plan_collection(take_inventory(root, needs), unfinished, needs, rules, NOW)


def names(found: Plan) -> list[str]:
    return [r.path.name for r in found.removals]


def test_without_wishes_only_what_killed_commands_left_goes(tmp_path: Path) -> None:
    entry(tmp_path, 0, days=1000)
    beside(tmp_path, 1, ".damaged-1")
    beside(tmp_path, 2, ".tmp")
    beside(tmp_path, 3, ".gone")
    beside(tmp_path, 4, ".partial", days=6.9)
    beside(tmp_path, 5, ".partial", days=7.1)
    (tmp_path / "tokenizer" / "notes.txt").write_text("not ours")
    assert names(plan(tmp_path, Rules(7 * DAY))) == [
        f"{KEYS[1]}.damaged-1",
        f"{KEYS[2]}.tmp",
        f"{KEYS[3]}.gone",
        f"{KEYS[5]}.partial",
    ]


def test_unused_takes_what_no_record_needs_and_nobody_used_lately(tmp_path: Path) -> None:
    for n, days in enumerate((1.0, 8.0, 9.0, 10.0)):
        entry(tmp_path, n, days=days)
    needs = Needs({KEYS[2]: ("run",)})
    assert names(plan(tmp_path, Rules(7 * DAY, unused=True), needs)) == [KEYS[3], KEYS[1]]


def test_size_evicts_the_least_recent_first_and_stops_before_what_records_need(tmp_path: Path) -> None:
    for n, days in enumerate((4.0, 3.0, 2.0, 1.0)):
        entry(tmp_path, n, days=days)
    needs = Needs({KEYS[0]: ("run",)})
    assert names(plan(tmp_path, Rules(0.0, max_bytes=250), needs)) == [KEYS[1], KEYS[2]]
    strict = plan(tmp_path, Rules(0.0, max_bytes=50), needs)
    assert names(strict) == [KEYS[1], KEYS[2], KEYS[3]]
    assert strict.over_bytes == 50
    forced = plan(tmp_path, Rules(0.0, max_bytes=50, force=True), needs)
    assert names(forced) == [KEYS[1], KEYS[2], KEYS[3], KEYS[0]]
    assert [r.needed for r in forced.removals] == [False, False, False, True]
    assert forced.over_bytes == 0


def test_a_clock_that_was_set_back_makes_nothing_old(tmp_path: Path) -> None:
    entry(tmp_path, 0, days=-1000)
    beside(tmp_path, 1, ".partial", days=-1000)
    assert names(plan(tmp_path, Rules(1.0, unused=True))) == []
    assert names(plan(tmp_path, Rules(0.0, unused=True))) == [f"{KEYS[1]}.partial", KEYS[0]]


def test_entries_used_since_a_run_began_stay(tmp_path: Path) -> None:
    entry(tmp_path, 0, days=3)
    entry(tmp_path, 1, days=1)
    alive = UnfinishedRun(tmp_path / ".a.1-0.tmp", 10, NOW, since=NOW - 2 * DAY)
    dead = UnfinishedRun(tmp_path / ".b.2-0.tmp", 10, NOW - 8 * DAY, since=None)
    found = plan(tmp_path, Rules(0.0, unused=True, max_bytes=0, force=True), unfinished=(alive, dead))
    assert names(found) == [".b.2-0.tmp", KEYS[0]]
    assert found.claimed == 1


def test_records_that_cannot_be_read_stop_evictions(tmp_path: Path) -> None:
    home = tmp_path
    (home / "runs" / "broken").mkdir(parents=True)
    (home / "runs" / "broken" / "record.json").write_text("{")
    (home / "runs" / "old").mkdir()
    (home / "runs" / "old" / "record.json").write_text(json.dumps({"schema_version": 0, "stages": [{"key": KEYS[0]}]}))
    (home / "runs" / ".half.1-0.tmp").mkdir()
    (home / "runs" / ".half.1-0.tmp" / "record.json").write_text("{")
    needs = record_needs(home)
    assert needs.runs == {KEYS[0]: ("old",)}  # also of a schema that this release cannot read
    assert [p.parent.name for p in needs.unreadable] == ["broken"]
    entry(home / "cache", 1)
    for rules in (Rules(0.0, unused=True), Rules(0.0, max_bytes=0)):
        with pytest.raises(InputError, match="broken.*--force"):
            plan(home / "cache", rules, needs)
    assert names(plan(home / "cache", Rules(0.0, unused=True, force=True), needs)) == [KEYS[1]]
    assert names(plan(home / "cache", Rules(0.0), needs)) == []


def test_removed_under_the_lock_with_the_lock_of_what_is_gone(tmp_path: Path) -> None:
    folders = [entry(tmp_path, n) for n in range(3)]
    for folder in folders[:2]:
        lock_path(folder).touch()
    beside(tmp_path, 1, ".partial", days=-1)  # keeps the lock of its entry
    inventory = take_inventory(tmp_path, NOBODY)
    outcome = carry_out(plan_collection(inventory, (), NOBODY, Rules(1.0, unused=True), NOW), inventory)
    assert [r.path for r in outcome.removed] == folders
    assert outcome.locks == 1
    assert not any(f.exists() for f in folders)
    assert sorted(p.name for p in (tmp_path / "tokenizer").iterdir()) == [
        f"{KEYS[1]}.lock",
        f"{KEYS[1]}.partial",
        f"{KEYS[2]}.lock",
    ]


def _hold(path: str, ready: multiprocessing.synchronize.Event, over: multiprocessing.synchronize.Event) -> None:
    with FileLock(path):
        ready.set()
        over.wait(30)


def test_what_another_process_holds_or_has_used_since_stays(tmp_path: Path) -> None:
    held, used, free = (entry(tmp_path, n) for n in range(3))
    inventory = take_inventory(tmp_path, NOBODY)
    found = plan_collection(inventory, (), NOBODY, Rules(1.0, unused=True), NOW)
    os.utime(used / MANIFEST)
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(lock_path(held)), ready, over))
    holder.start()
    ready.wait(30)
    outcome = carry_out(found, inventory)
    over.set()
    holder.join()
    assert {r.path for r in outcome.busy} == {held, used}
    assert [r.path for r in outcome.removed] == [free]
    assert held.exists() and used.exists() and not free.exists()


entries = st.lists(st.tuples(st.integers(0, 50), st.floats(-5, 20), st.booleans()), max_size=8)


@settings(max_examples=200, deadline=None)
@given(entries, st.floats(0, 10), st.booleans(), st.one_of(st.none(), st.integers(0, 300)), st.booleans())
def test_no_plan_breaks_the_promises(
    facts: list[tuple[int, float, bool]], days: float, unused: bool, size: int | None, force: bool
) -> None:
    inventory = Inventory(
        Path("c"),
        tuple(
            Entry("s", KEYS[n], Path("c/s") / KEYS[n], n_bytes, NOW - age * DAY, ("r",) if needed else ())
            for n, (n_bytes, age, needed) in enumerate(facts)
        ),
    )
    found = plan_collection(inventory, (), NOBODY, Rules(days * DAY, unused, size, force), NOW)
    gone = {r.path for r in found.removals}
    assert len(gone) == len(found.removals)
    assert force or not any(e.runs for e in inventory.entries if e.folder in gone)
    left = inventory.n_bytes - sum(r.n_bytes for r in found.removals)
    if size is not None:
        assert left <= size or found.over_bytes == left - size
        assert left <= size or all(e.runs for e in inventory.entries if e.folder not in gone)  # only needed ones are left
        assert not (force and left > size)
    if not unused and size is None:
        assert not gone
