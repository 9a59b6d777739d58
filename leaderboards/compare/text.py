"""A comparison of two rows as markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from sidbench.leaderboards.board import columns as shown
from sidbench.leaderboards.board.comparability import short
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.compare.comparison import ALL, Comparison, Extreme, Line
from sidbench.leaderboards.render.formats import escaped, markdown_table, rounded

_READING = (
    "difference: left minus right, with its 95 % BCa bootstrap interval over users (the same draws for both). p: paired "
    "permutation test over users (each user's two results exchanged; AUC: signs of his DeLong components), two-sided; p "
    "Holm: adjusted over all tests of this page. left/right/equal: users with the higher value on that side. p seeds: "
    "permutation of the seeds' values between the sides, with the smallest p that so many seeds can reach. Where few "
    "users differ, trust p: it is exact then, and the interval too narrow. Users' intervals and tests hold the trained "
    "models fixed; only the test over seeds counts the doubt of training."
)


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.0e}"


def _line(line: Line) -> list[str]:
    digits, paired, seeds = line.column.digits, line.paired, line.seeds
    ends = users = "–"
    if paired is not None and paired.low is not None and paired.high is not None:
        ends = f"{paired.low:+.{digits}f} … {paired.high:+.{digits}f}"
    elif paired is None and line.task is None:
        ends = "exact" if seeds is None else "–"
    if paired is not None and paired.better is not None:
        users = f"{paired.better:,} / {paired.worse:,} / {paired.equal:,}"
    return [
        f"{line.column.heading}{'' if line.stratum == ALL else f' {line.stratum}'}",
        f"{line.left:.{digits}f}",
        f"{line.right:.{digits}f}",
        f"{line.difference:+.{digits}f}",
        ends,
        _p(None if paired is None else paired.test.p),
        _p(line.p_adjusted),
        users,
        "–" if paired is None else f"{paired.n_users:,}",
        "–" if seeds is None else f"{_p(seeds.p)} (smallest {_p(seeds.smallest)})",
    ]


_HEADS = ("metric", "left", "right", "difference", "95 %", "p", "p Holm", "users left / right / equal", "users", "p seeds")


def _runs(side: str, name: str, runs: Sequence[StoredRun]) -> str:
    each = ", ".join(f"`{r.record.run_id}` (seed {r.record.seed})" for r in runs)
    return f"- {side}: {escaped(name)}: {each}"


def _extreme(found: Extreme) -> list[str]:
    own = ["–" if v is None else f"{v:.4f}" for v in (found.left, found.right)]
    return [f"{found.kind} {escaped(found.name)}", f"{found.share:+.6f}", *own, f"{found.n:,}"]


def _markdown(found: Comparison) -> str:
    lines = [
        "# Comparison",
        "",
        _runs("left", found.left_name, found.left),
        _runs("right", found.right_name, found.right),
        "",
    ]
    if found.warnings:
        lines += [
            "**Warning: these runs are not comparable; nothing below can be put down to the rows alone.**",
            "",
            *(f"- {escaped(w)}" for w in found.warnings),
            "",
        ]
    lines += [_READING, ""]
    for task in dict.fromkeys(line.task for line in found.lines):
        chosen = [line for line in found.lines if line.task == task]
        lines += [f"## {task or 'SIDs'}", "", *markdown_table(_HEADS, [_line(line) for line in chosen])]
    lines += _most(found.extremes)
    lines += ["## What differs in the settings", ""]
    rows = [[escaped(name), escaped(short(a)), escaped(short(b))] for name, (a, b) in found.settings.items()]
    lines += markdown_table(("setting", "left", "right"), rows) if rows else ["Nothing.", ""]
    costs = [c for c in shown.COSTS if any(shown.cost(side, c) is not None for side in found.costs)]
    lines += [
        "## Costs",
        "",
        *markdown_table(
            ("cost", "left", "right"),
            [
                *([c.heading, *(shown.cost_text(side, c) for side in found.costs)] for c in costs),
                ["device", *(escaped(", ".join(d)) for d in found.devices)],
            ],
        ),
    ]
    if found.devices[0] != found.devices[1]:
        lines += ["The devices differ, so the seconds say nothing about the rows.", ""]
    if found.notes:
        lines += ["Notes:", "", *(f"- {escaped(n)}" for n in found.notes), ""]
    return "\n".join(lines)


def _most(extremes: Sequence[Extreme]) -> list[str]:
    if not extremes:
        return []
    lines = ["## Where they differ most", "", "share: what a user or item adds to the difference.", ""]
    for task, metric, kind in dict.fromkeys((e.task, e.metric, e.kind) for e in extremes):
        rows = [_extreme(e) for e in extremes if (e.task, e.metric, e.kind) == (task, metric, kind)]
        lines += [f"{task}, {metric}, by {kind}:", "", *markdown_table((kind, "share", "left", "right", "results"), rows)]
    return lines


def _plain(line: Line) -> dict[str, Any]:
    paired, seeds = line.paired, line.seeds
    values: dict[str, Any] = {
        "task": line.task,
        "stratum": line.stratum,
        "metric": line.column.metric,
        "left": line.left,
        "right": line.right,
        "difference": line.difference,
        **dict.fromkeys(_PAIRED),
        "p_holm": line.p_adjusted,
        "p_seeds": None,
        "smallest_p_seeds": None,
    }
    if paired is not None:
        values |= {
            "low": paired.low,
            "high": paired.high,
            "p": paired.test.p,
            "p_exact": paired.test.exact,
            "smallest_p": paired.test.smallest,
            "users_left": paired.better,
            "users_right": paired.worse,
            "users_equal": paired.equal,
            "n_users": paired.n_users,
            "n_units": paired.n_units,
        }
    if seeds is not None:
        values |= {"p_seeds": seeds.p, "smallest_p_seeds": seeds.smallest}
    return {name: rounded(value) for name, value in values.items()}


_PAIRED = ("low", "high", "p", "p_exact", "smallest_p", "users_left", "users_right", "users_equal", "n_users", "n_units")


def _csv(found: Comparison) -> str:
    out = io.StringIO()
    rows = [_plain(line) for line in found.lines]
    names = ["left_runs", "right_runs", "warning", *(rows[0] if rows else ())]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    sides = {
        f"{side}_runs": " ".join(r.record.run_id for r in runs)
        for side, runs in (("left", found.left), ("right", found.right))
    }
    writer.writerows({**sides, "warning": " ".join(found.warnings), **row} for row in rows)
    return out.getvalue()


def _json(found: Comparison) -> str:
    sides = {
        side: {
            "name": name,
            "runs": [r.record.run_id for r in runs],
            "seeds": [r.record.seed for r in runs],
            "devices": list(devices),
            "costs": {k: rounded(v) for k, v in vars(costs).items()},
        }
        for side, name, runs, devices, costs in zip(
            ("left", "right"),
            (found.left_name, found.right_name),
            (found.left, found.right),
            found.devices,
            found.costs,
            strict=True,
        )
    }
    return (
        json.dumps(
            {
                "warnings": list(found.warnings),
                **sides,
                "metrics": [_plain(line) for line in found.lines],
                "extremes": [{k: rounded(v) for k, v in vars(e).items()} for e in found.extremes],
                "settings": {name: {"left": a, "right": b} for name, (a, b) in found.settings.items()},
                "notes": list(found.notes),
            },
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


COMPARISON_FORMATS: dict[str, Callable[[Comparison], str]] = {"md": _markdown, "csv": _csv, "json": _json}
