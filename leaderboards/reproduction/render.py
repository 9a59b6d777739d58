"""The side-by-side as markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sidbench.benchmark.metrics.catalogue import heading
from sidbench.leaderboards.reproduction.evidence import Estimate
from sidbench.leaderboards.reproduction.figures import alignment_curve
from sidbench.leaderboards.reproduction.papers import OTHER_QUANTITY, our_metric
from sidbench.leaderboards.reproduction.sidebyside import Change, SideBySide, SideCell, SideFigure, SideLine, SideTable
from sidbench.leaderboards.reproduction.verdicts import Verdict

_NOTHING, _MARK, _OTHER = "–", "†", "‡"
_READING = (
    "Every row has the published value, ours ± half-width of its 95 % interval over users (mean over the seeds; sd over "
    "seeds behind it), and ours minus published. † marks a published value that takes part in a broken bound (below), ‡ a "
    "column beside which ours measures something else. Numbers of SID tables are exact for one table and have no interval "
    "over users. A difference of levels means little unless data, protocol, encoders and budget agree; what the paper "
    "claims is tested below, from our records alone."
)
_WEIGHT_POINTS = tuple(i / 10 for i in range(11))


def render_side_by_side(found: SideBySide, form: str, pictures: Mapping[str, str] | None = None) -> str:
    """The comparison as text; ``form`` is one of ``FORMATS``. pictures: figure number -> file beside the text, linked in
    markdown."""
    return FORMATS[form](found, pictures or {})


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, signed: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{value:+.4f}".replace("-", "−") if signed else f"{value:.4f}"


def _ours(known: Estimate | None) -> str:
    if known is None:
        return _NOTHING
    text = _number(known.value) + (f" ±{known.half_width:.4f}" if known.half_width is not None else "")
    return text + (f" (sd {known.seed_sd:.4f})" if known.seed_sd is not None else "")


def _changed(change: Change | None) -> str:
    if change is None or change.ours is None:
        return _NOTHING
    text = _number(change.ours, signed=True)
    if change.low is not None and change.high is not None:
        text += f" [{_number(change.low, True)}, {_number(change.high, True)}]"
    return text


def _grid(heads: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> list[str]:
    rule = "|" + ":--|" * left + "--:|" * (len(heads) - left)
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(map(_cell, line)) + " |" for line in lines)]


def _markdown(found: SideBySide, pictures: Mapping[str, str]) -> str:
    paper = found.paper
    lines = [
        f"# {paper.title}: published and ours",
        "",
        f"Published: arXiv {paper.arxiv}, metrics count {_level(paper.level)}. Ours: dataset {found.dataset}, budget "
        f"{found.budget}. What may be compared: {paper.compare}.",
        "",
        "The paper's protocol:",
        "",
        *(f"- {p}" for p in paper.protocol),
        "",
    ]
    if found.settings:
        lines += ["Ours had:", "", *(f"- {what}: {_cell(text)}" for what, text in found.settings.items()), ""]
    else:
        lines += ["No run of ours stands in these rows yet.", ""]
    lines += [_READING, ""]
    for table in found.tables:
        lines += _markdown_table(table, found)
    for figure in found.figures:
        lines += _markdown_figure(figure, pictures.get(figure.number, ""))
    if found.verdicts:
        lines += _markdown_verdicts(found.verdicts)
    if found.missing:
        lines += [
            "## Rows without a run",
            "",
            *(f"- {', '.join(rows)}: {_code(why)}" for why, rows in _by_reason(found.missing.items())),
            "",
        ]
    lines += ["## Notes", "", *(f"- {_cell(n)}" for n in (*paper.notes, *found.notes)), ""]
    return "\n".join(lines)


def _level(level: str) -> str:
    return {"item": "items", "SID": "SIDs"}.get(level, "items or SIDs, which is not stated; ours count items")


def _code(why: str) -> str:
    return f"`{why}`" if why.startswith("bench ") else why


def _by_reason(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Rows that share a reason, or a command: several rows of a paper may be one run of ours."""
    found: dict[str, list[str]] = {}
    for row, why in reasons:
        found.setdefault(why, []).append(row)
    return list(found.items())


def _markdown_table(side: SideTable, found: SideBySide) -> list[str]:
    table = side.table
    lines = [f"## {table.label}", "", f"Source: {found.paper.source}; copied from {table.copied_from}."]
    if not side.dataset:
        lines[-1] += " These data are not public, so nothing of ours stands beside them."
    elif side.dataset != table.dataset:
        lines[-1] += (
            f" Published on {table.dataset}, ours on {side.dataset}: other data, so compare orderings and signs, not levels."
        )
    body = [cells for line in side.lines for cells in _table_lines(line, side)]
    others = [c for c in table.columns if c in OTHER_QUANTITY and side.dataset]
    lines += ["", *_grid(["row", "", *(f"{c} {_OTHER}" if c in others else c for c in table.columns)], body, 2), ""]
    lines += [
        f"- {_OTHER} {c}: ours is `{our_metric(c, found.paper.level)[1]}`, another quantity, so no difference is taken"
        for c in others
    ]
    if table.reference and side.dataset:
        lines += [f"Change: against {table.reference}, with the 95 % interval of ours over users and seeds.", ""]
    absent = _by_reason((line.row, _reason(line.absent)) for line in side.lines if line.absent)
    lines += [f"- nothing of ours: {', '.join(rows)}{why}" for why, rows in absent]
    lines += [f"- {line.row}: {'; '.join(map(_cell, line.differs))}" for line in side.lines if line.differs]
    by_rule: dict[str, list[str]] = {}
    for violation in side.violations:
        by_rule.setdefault(violation.rule, []).append(f"{violation.row} ({violation.left:.4f} > {violation.right:.4f})")
    lines += [f"- {_MARK} {rule} does not hold for {', '.join(rows)}" for rule, rows in by_rule.items()]
    return [*lines, ""]


def _reason(why: str) -> str:
    """Commands stand once, in the list of rows without a run."""
    return "" if why.startswith("bench ") else f" ({why})"


def _table_lines(line: SideLine, side: SideTable) -> Iterator[list[str]]:
    columns, cells = side.table.columns, line.cells
    shown = [_number(cells[c].published) + (f" {_MARK}" if cells[c].marked else "") for c in columns]
    yield [line.row, "published", *shown]
    if side.dataset and line.runs:
        seeds = f"ours, seed{'s'[: len(line.seeds) - 1]} {','.join(map(str, line.seeds))}"
        yield ["", seeds, *(_ours(cells[c].ours) for c in columns)]
        yield ["", "difference", *(_number(cells[c].difference, signed=True) for c in columns)]
    if any(cells[c].change is not None for c in columns):
        yield [
            "",
            "published change",
            *(_number(None if (d := cells[c].change) is None else d.published, True) for c in columns),
        ]
        if line.runs:
            yield ["", "our change", *(_changed(cells[c].change) for c in columns)]


def _markdown_figure(figure: SideFigure, picture: str) -> list[str]:
    lines = [f"## Figure {figure.number}: {figure.title}", "", figure.reading, ""]
    if picture:
        lines += [f"![Figure {figure.number}: {figure.title}]({picture})", ""]
    if figure.number == "4":
        pairs = ((10, 9), (20, 7), (20, 9), (20, 14))
        curves = [[f"alpha {a}, beta {b}", *(f"{w:.4f}" for w in alignment_curve(a, b, _WEIGHT_POINTS))] for a, b in pairs]
        lines += [*_grid(["w at N =", *(f"{n:.1f}" for n in _WEIGHT_POINTS)], curves, 1), ""]
    notes = list(dict.fromkeys(n for row in figure.rows for n in row.notes))
    names = [heading(m) for m in figure.metrics]
    body = [
        [
            row.row,
            *(_ours(row.values.get(m)) for m in figure.metrics),
            *(f"{row.notes[n]:.4f}" if n in row.notes else _NOTHING for n in notes),
        ]
        for row in figure.rows
    ]
    lines += [*_grid(["row", *names, *notes], body, 1), ""]
    if figure.differences:
        changes = [
            [row, *(_changed(by_metric.get(m)) for m in figure.metrics)] for row, by_metric in figure.differences.items()
        ]
        lines += [f"Difference to {figure.reference}:", "", *_grid(["row", *names], changes, 1), ""]
    return lines


def _markdown_verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    body = []
    for v in verdicts:
        interval = _NOTHING if v.difference is None else _changed(Change(None, v.difference, v.low, v.high))
        p = _NOTHING if v.p is None else "< 0.001" if v.p < 0.001 else f"{v.p:.3f}"
        evidence = f"{interval} ({v.pair})" if v.pair else interval
        claim = v.hypothesis
        body.append([claim.claim, claim.source, heading(claim.metric), f"**{v.verdict}**", evidence, p, v.reason])
    heads = ["claim", "source", "metric", "verdict", "difference that decides it, 95 %", "p (Holm)", "remark"]
    return [
        "## The paper's claims",
        "",
        *_grid(heads, body, len(heads)),
        "",
        "A claim about several rows is supported only if each of its differences holds (largest p of all); it is "
        "contradicted if one goes the other way by more than noise. p-values are adjusted over the claims listed here.",
        "",
    ]


def _csv(found: SideBySide, pictures: Mapping[str, str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "paper",
            "table",
            "published_dataset",
            "our_dataset",
            "budget",
            "row",
            "column",
            "metric",
            "published",
            "breaks_bound",
            "ours",
            "half_width",
            "seed_sd",
            "n",
            "seeds",
            "difference",
            "published_change",
            "our_change",
            "our_change_low",
            "our_change_high",
            "our_change_p",
            "runs",
        ]
    )
    for table in found.tables:
        for line in table.lines:
            for column, cell in line.cells.items():
                ours, change = cell.ours, cell.change or Change(None, None)
                known = [None] * 4 if ours is None else [ours.value, ours.half_width, ours.seed_sd, ours.n]
                writer.writerow(
                    [
                        found.paper.name,
                        table.table.number,
                        table.table.dataset,
                        table.dataset,
                        found.budget,
                        line.row,
                        column,
                        our_metric(column, found.paper.level)[1],
                        cell.published,
                        int(cell.marked),
                        *known,
                        " ".join(map(str, line.seeds)),
                        cell.difference,
                        change.published,
                        change.ours,
                        change.low,
                        change.high,
                        change.p,
                        " ".join(line.runs),
                    ]
                )
    return out.getvalue()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _json_known(known: Estimate | None) -> dict[str, Any] | None:
    if known is None:
        return None
    return {
        "value": known.value,
        "half_width": known.half_width,
        "seed_sd": known.seed_sd,
        "n": known.n,
        "seeds": list(known.seeds),
    }


def _json_change(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else {name: _finite(value) for name, value in vars(change).items()}


def _json_cell(cell: SideCell) -> dict[str, Any]:
    return {
        "published": cell.published,
        "breaks_bound": cell.marked,
        "ours": _json_known(cell.ours),
        "difference": cell.difference,
        "change": _json_change(cell.change),
    }


def _json(found: SideBySide, pictures: Mapping[str, str]) -> str:
    paper = found.paper
    tables = [
        {
            "number": t.table.number,
            "title": t.table.title,
            "published_dataset": t.table.dataset,
            "our_dataset": t.dataset,
            "evidence": t.table.evidence,
            "reference": t.table.reference,
            "rows": [
                {
                    "row": line.row,
                    "runs": list(line.runs),
                    "absent": line.absent,
                    "differs": list(line.differs),
                    "cells": {c: _json_cell(cell) for c, cell in line.cells.items()},
                }
                for line in t.lines
            ],
            "violations": [{"row": b.row, "rule": b.rule, "left": b.left, "right": b.right} for b in t.violations],
        }
        for t in found.tables
    ]
    figures = [
        {
            "number": f.number,
            "title": f.title,
            "reading": f.reading,
            "reference": f.reference,
            "rows": [
                {"row": r.row, "values": {m: _json_known(k) for m, k in r.values.items()}, "notes": dict(r.notes)}
                for r in f.rows
            ],
            "differences": {row: {m: _json_change(c) for m, c in by.items()} for row, by in (f.differences or {}).items()},
        }
        for f in found.figures
    ]
    verdicts = [
        {
            "id": v.hypothesis.id,
            "claim": v.hypothesis.claim,
            "source": v.hypothesis.source,
            "metric": v.hypothesis.metric,
            "rule": v.hypothesis.rule,
            "verdict": v.verdict,
            "p_holm": v.p,
            "difference": _finite(v.difference),
            "low": _finite(v.low),
            "high": _finite(v.high),
            "pair": v.pair,
            "remark": v.reason,
        }
        for v in found.verdicts
    ]
    return (
        json.dumps(
            {
                "paper": paper.name,
                "title": paper.title,
                "arxiv": paper.arxiv,
                "compare": paper.compare,
                "level": paper.level,
                "dataset": found.dataset,
                "budget": found.budget,
                "settings": dict(found.settings),
                "tables": tables,
                "figures": figures,
                "pictures": dict(pictures),
                "claims": verdicts,
                "missing": dict(found.missing),
                "notes": [*paper.notes, *found.notes],
            },
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


FORMATS: dict[str, Callable[[SideBySide, Mapping[str, str]], str]] = {"md": _markdown, "csv": _csv, "json": _json}
