"""The whole report as one HTML text: template, style sheet, scripts and data put together under a strict policy.

The content security policy allows nothing but the page's own style sheet and scripts (by hash) and pictures inside the
page (``data:``), so that neither a mistake of ours nor a hostile item text can load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from itertools import groupby
from typing import Any

import jinja2
from markupsafe import Markup

from sidbench.leaderboards.board.values import Leaderboard, Table
from sidbench.leaderboards.report.details import ReportDetails
from sidbench.leaderboards.report.explorer import pack_explorer
from sidbench.leaderboards.report.profiles import strata_figures, utilisation_figure
from sidbench.leaderboards.report.scatter_plots import Figure, quality_figures
from sidbench.leaderboards.report.training_curves import line_figures
from sidbench.leaderboards.report.view import GROUPS, Head, TableView, table_view

_ROOM = "sidbench.leaderboards.report"
# Inside a script element these could end it, open a comment, or end a line of JavaScript.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Section:
    """A table with its plots."""

    view: TableView
    figures: tuple[Figure, ...]

    @property
    def major(self) -> tuple[Figure, ...]:
        """Plots that stand open."""
        return tuple(f for f in self.figures if f.svg is not None and not f.minor)

    @property
    def minor(self) -> tuple[Figure, ...]:
        """Plots that stand folded."""
        return tuple(f for f in self.figures if f.svg is not None and f.minor)

    @property
    def absent(self) -> tuple[Figure, ...]:
        """Plots without data."""
        return tuple(f for f in self.figures if f.svg is None)


def html_page(board: Leaderboard, details: ReportDetails | None = None) -> str:
    """The report of a leaderboard.

    Parameters
    ----------
    details: item keys, texts and pictures for the explorer; without it the page holds no data set content.

    Equal arguments give equal bytes.
    """
    explorer = pack_explorer(replace(board, tables=tuple(t.measured for t in board.tables)), details or ReportDetails())
    sections = [
        Section(table_view(table, place), figures_of(table.measured)) for place, table in enumerate(board.tables, start=1)
    ]
    style, scripts = _asset("report.css"), [_asset("report.js"), _asset("explorer.js")]
    return _template().render(
        board=board,
        sections=sections,
        groups=GROUPS,
        kinds=_kinds(board),
        explorer=explorer,
        policy=_policy(style, scripts),
        style=Markup(style),
        scripts=[Markup(text) for text in scripts],
        data=embedded_json(explorer.data),
        n_rows=sum(len(table.rows) for table in board.tables),
        spans=_spans,
    )


def figures_of(table: Table) -> tuple[Figure, ...]:
    """All plots of a table, drawn or with the reason why not."""
    return (*quality_figures(table), *strata_figures(table), utilisation_figure(table), *line_figures(table))


def embedded_json(value: Any) -> Markup:
    """JSON that is safe inside a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))


def _kinds(board: Leaderboard) -> list[str]:
    return list(dict.fromkeys(row.kind for table in board.tables for row in table.rows))


def _spans(heads: tuple[Head, ...]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: (group, number of columns)."""
    return [(group, len(list(members))) for group, members in groupby(heads, key=lambda h: h.group)]


def _policy(style: str, scripts: list[str]) -> str:
    hashes = " ".join(_hash(text) for text in scripts)
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {hashes}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files(_ROOM).joinpath("assets", name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.PackageLoader(_ROOM, "templates"),
    )
    return environment.get_template("page.html.jinja")
