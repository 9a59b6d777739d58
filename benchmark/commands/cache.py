"""`bench cache ls | du | gc | verify`: the cache folder of this home."""

from __future__ import annotations

import sys
import time

from rich.filesize import decimal as size_text
from typer.exceptions import Exit

from sidbench.benchmark.commands.printing import print_json, print_table
from sidbench.benchmark.store.maintenance.collecting import ABANDONED_RUN, Outcome, Plan, Rules, carry_out, plan_collection
from sidbench.benchmark.store.maintenance.inventory import Needs, per_stage, record_needs, take_inventory
from sidbench.benchmark.store.maintenance.unfinished import unfinished_runs
from sidbench.benchmark.store.maintenance.units import age, age_text, parse_age, parse_size
from sidbench.benchmark.store.maintenance.verifying import set_aside, verify
from sidbench.benchmark.store.paths import cache_folder, home_folder
from sidbench.datasets.foundation.errors import unknown_name

KEY_CHARACTERS = 12


def _say_unreadable(needs: Needs) -> None:
    for path in needs.unreadable:
        sys.stderr.write(f"unreadable record, its needs are unknown: {path}\n")


def ls_command(stage: str, as_json: bool) -> None:
    """Print every entry. Raises ``InputError`` for a stage that has none."""
    needs, now = record_needs(home_folder()), time.time()
    inventory = take_inventory(cache_folder(), needs)
    entries = [e for e in inventory.entries if stage in ("", e.stage)]
    if stage and not entries:
        raise unknown_name("stage in the cache", stage, {e.stage for e in inventory.entries}, do="run `bench cache ls`")
    _say_unreadable(needs)
    if as_json:
        print_json(
            {
                "folder": str(inventory.root),
                "entries": [
                    {
                        "stage": e.stage,
                        "key": e.key,
                        "bytes": e.n_bytes,
                        "seconds_since_use": age(now, e.last_used),
                        "runs": list(e.runs),
                    }
                    for e in entries
                ],
            }
        )
        return
    print_table(
        ["stage", "key", "size", "used", "runs"],
        [
            [
                e.stage,
                e.key[:KEY_CHARACTERS],
                size_text(e.n_bytes),
                age_text(age(now, e.last_used)) + " ago",
                ", ".join(e.runs[:2]) + (f" and {len(e.runs) - 2} more" if len(e.runs) > 2 else ""),
            ]
            for e in entries
        ],
        right=("size", "used"),
    )
    sys.stdout.write(f"{len(entries)} entries, {size_text(sum(e.n_bytes for e in entries))} in {inventory.root}\n")


def du_command(as_json: bool) -> None:
    """Print sizes per stage, then of everything that is no entry."""
    needs = record_needs(home_folder())
    inventory = take_inventory(cache_folder(), needs)
    unfinished = unfinished_runs(home_folder())
    stages = list(per_stage(inventory))
    kinds = [(o.kind, o.n_bytes) for o in inventory.leftovers] + [(ABANDONED_RUN, u.n_bytes) for u in unfinished]
    others = [
        (kind, len(own), sum(own)) for kind in sorted({k for k, _ in kinds}) if (own := [n for k, n in kinds if k == kind])
    ]
    total = inventory.n_bytes + sum(u.n_bytes for u in unfinished)
    _say_unreadable(needs)
    if as_json:
        print_json(
            {
                "folder": str(inventory.root),
                "bytes": total,
                "stages": stages,
                "others": [{"kind": kind, "count": count, "bytes": n} for kind, count, n in others],
            }
        )
        return
    rows = [
        [r["stage"], str(r["entries"]), size_text(r["bytes"]), str(r["needed_entries"]), size_text(r["needed_bytes"])]
        for r in stages
    ]
    rows += [[f"({kind})", str(count), size_text(n), "", ""] for kind, count, n in others]
    print_table(
        ["stage", "entries", "size", "needed", "needed size"], rows, right=("entries", "size", "needed", "needed size")
    )
    sys.stdout.write(f"{size_text(total)} in {inventory.root}\n")


def gc_command(older_than: str, unused: bool, max_size: str, force: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what the rules allow, or with ``dry_run`` say what would go.

    Raises ``InputError`` for sizes and ages that cannot be read, a cache that cannot be written, and evictions while a
    record cannot be read.
    """
    rules = Rules(
        parse_age(older_than, "--older-than"), unused, parse_size(max_size, "--max-size") if max_size else None, force
    )
    needs = record_needs(home_folder())
    inventory = take_inventory(cache_folder(), needs)
    plan = plan_collection(inventory, unfinished_runs(home_folder()), needs, rules, time.time())
    outcome = Outcome(removed=list(plan.removals)) if dry_run else carry_out(plan, inventory)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "bytes": sum(r.n_bytes for r in outcome.removed),
                "over_bytes": plan.over_bytes,
                "claimed": plan.claimed,
                "removed": [
                    {"path": str(r.path), "bytes": r.n_bytes, "why": r.why, "needed": r.needed} for r in outcome.removed
                ],
                "in_use": [str(r.path) for r in outcome.busy],
                "locks": outcome.locks,
            }
        )
        return
    _say_outcome(plan, outcome, dry_run)


def _say_outcome(plan: Plan, outcome: Outcome, dry_run: bool) -> None:
    verb = "would remove" if dry_run else "removed"
    for r in outcome.removed:
        needed = ", although records need it" if r.needed else ""
        sys.stdout.write(f"{verb} {r.path.parent.name}/{r.path.name}: {r.why}{needed}, {size_text(r.n_bytes)}\n")
    for r in outcome.busy:
        sys.stdout.write(f"kept {r.path.parent.name}/{r.path.name}: in use by another command\n")
    sys.stdout.write(f"{verb} {len(outcome.removed)} things, {size_text(sum(r.n_bytes for r in outcome.removed))}\n")
    if plan.claimed:
        sys.stdout.write(f"kept {plan.claimed} entries that a run at work may have used\n")
    if plan.over_bytes:
        sys.stdout.write(
            f"still {size_text(plan.over_bytes)} above --max-size: records need the rest, or it is no entry. "
            "To do: remove runs (`bench runs rm`), or add --force.\n"
        )


def verify_command(repair: bool, as_json: bool) -> None:
    """Compare every entry with its checksums. Exits with 1 when one is damaged and not set aside."""
    inventory = take_inventory(cache_folder(), record_needs(home_folder()))
    damages = verify(inventory)
    if repair:
        set_aside(damages, inventory)
    if as_json:
        print_json(
            {
                "entries": len(inventory.entries),
                "bytes": sum(e.n_bytes for e in inventory.entries),
                "repaired": repair,
                "damaged": [
                    {"stage": d.entry.stage, "key": d.entry.key, "reason": d.reason, "runs": list(d.entry.runs)}
                    for d in damages
                ],
            }
        )
    else:
        for d in damages:
            sys.stdout.write(
                f"damaged: {d.entry.stage}/{d.entry.key[:KEY_CHARACTERS]}: {d.reason}{'; set aside' if repair else ''}\n"
            )
        sys.stdout.write(f"{len(inventory.entries)} entries read, {len(damages)} damaged\n")
        if damages and not repair:
            sys.stdout.write("To do: `bench cache verify --repair` sets them aside; the next run computes them again.\n")
    if damages and not repair:
        raise Exit(1)
