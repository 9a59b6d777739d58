"""`bench sids inspect | export | import | diff`: looking at SID tables of runs and files, and moving them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidbench.benchmark.sids.difference import difference
from sidbench.benchmark.sids.inspection import item_keys, item_report, record_report, table_report
from sidbench.benchmark.store.paths import runs_folder
from sidbench.benchmark.store.records import RunRecord
from sidbench.datasets.foundation.errors import InputError, printable, unknown_name
from sidbench.leaderboards.board.store import read_runs
from sidbench.tokenizers.sid_tables.files import LOSES_SIZES, WRITE_FORMATS, read_table, write_table
from sidbench.tokenizers.sid_tables.matching import check_matched, match_rows
from sidbench.tokenizers.sid_tables.table import SidTable


@dataclass(frozen=True)
class Source:
    """A SID table by the name the user gave it, with the record of its run where it comes from one."""

    name: str
    table: SidTable
    record: RunRecord | None = None

    @property
    def ordered(self) -> bool:
        """Files that do not say are taken as ordered, as `imported` does."""
        return self.table.ordered is not False


def find_source(text: str) -> Source:
    """The table of a run (its id, or a prefix only it has) or of a file.

    Raises ``InputError`` for an unknown or ambiguous name, a run without SIDs, and a table that cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return Source(text, read_table(path))
    store = read_runs(runs_folder())
    found = [run for run in store.runs if run.record.run_id == text] or [
        run for run in store.runs if text and run.record.run_id.startswith(text)
    ]
    if len(found) > 1:
        raise InputError(
            f"run {text!r}",
            got=f"{len(found)} runs: {', '.join(run.record.run_id for run in found[:5])}",
            wanted="a prefix of one run id",
            do="write more of the id",
        )
    if not found:
        unreadable = [s for s in store.skipped if s.path.parent.name.startswith(text)]
        if unreadable:
            raise InputError(f"run {unreadable[0].path.parent.name}", got=unreadable[0].reason, wanted="a readable record")
        raise unknown_name(
            "run or SID file",
            text,
            (run.record.run_id for run in store.runs),
            do="give a run id of `bench leaderboard --format json`, or a file",
        )
    run = found[0]
    sids = run.record.sids
    if sids is None:
        raise InputError(f"run {run.record.run_id}", got="a baseline without semantic IDs", wanted="a run with a tokenizer")
    table = read_table(run.file(sids.file)).with_sizes(list(sids.sizes), run.record.run_id)
    return Source(run.record.run_id, replace(table, ordered=sids.ordered), run.record)


# -- inspect -----------------------------------------------------------------------------------------------------------
def inspect_command(source: str, item: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Print a table, or one item of it."""
    found = find_source(source)
    if item is not None:
        report = {"source": found.name, **item_report(found.table, item, found.ordered)}
        if found.record is not None:
            report |= known_texts(found.record, item, data_dir)
        _show(report, _item_lines, as_json)
        return
    report = {"source": found.name, **table_report(found.table, found.ordered)}
    if found.record is not None:
        report |= record_report(found.record)
    _show(report, _table_lines, as_json)


def known_texts(record: RunRecord, item: str, data_dir: Path | None) -> dict[str, Any]:
    """Title and category path of an item, from the run's data set if it lies on this machine; nothing is downloaded.

    ``title_unknown`` says why where there is none.
    """
    from sidbench.benchmark.commands.local_data import dataset_at_hand

    dataset = dataset_at_hand(record, data_dir)
    if isinstance(dataset, str):
        return {"title_unknown": dataset}
    row = dataset.catalog.keys.index(item)
    title = dataset.catalog.text.get("title")
    texts: dict[str, Any] = {"title": title[row]} if title is not None else {"title_unknown": "the data set has no titles"}
    if dataset.catalog.categories is not None:
        texts["categories"] = list(dataset.catalog.categories[row])
    return texts


def _item_lines(report: dict[str, Any]) -> list[str]:
    title = report.get("title") or f"no title ({report.get('title_unknown', 'a file knows none')})"
    lines = [f"{report['item']}: {title}"]
    if report.get("categories"):
        lines.append(f"  categories   {' > '.join(report['categories'])}")
    lines.append(f"  codes        {_sid(report['codes'])}")
    if "weights" in report:
        lines.append(f"  weights      {' '.join(f'{w:.3f}' for w in report['weights'])}")
    for part in report["shared"]:
        first = f": {', '.join(part['first'])}{' …' if part['others'] > len(part['first']) else ''}" if part["first"] else ""
        lines.append(f"  {part['part']:<12} {_sid(part['codes'])} shared with {part['others']} items{first}")
    return lines


def _table_lines(report: dict[str, Any]) -> list[str]:
    sizes = " ".join(map(str, report["sizes"])) + ("" if report["sizes_stated"] else " (largest codes + 1)")
    lines = [
        f"{report['source']}: {report['items']} items, {report['distinct_sids']} distinct SIDs, "
        f"{'ordered' if report['ordered'] else 'unordered'}, {report['mean_active']:.2f} codes an item",
        f"  {'codebook sizes':<46} {sizes}",
    ]
    for title, part in (
        ("codes and collisions", report["metrics"]),
        ("by position", report["vectors"]),
        *(
            (key.replace("_", " "), report[key])
            for key in ("before_collision_policy", "head_and_tail", "alignment", "activity", "diagnostics")
            if key in report
        ),
    ):
        lines += ["", title, *(f"  {name:<46} {_number(value)}" for name, value in part.items())]
    if report["largest_groups"]:
        lines += ["", "largest collision groups"]
        lines += [
            f"  {g['items']:>6} items {_sid(g['codes'])}: {', '.join(g['first'])}"
            f"{' …' if g['items'] > len(g['first']) else ''}"
            for g in report["largest_groups"]
        ]
    return lines


# -- export and import -------------------------------------------------------------------------------------------------
def export_command(source: str, form: str, out: Path) -> None:
    """Write a table in another format and say how to run it again."""
    if form not in WRITE_FORMATS:
        raise unknown_name("--format", form, WRITE_FORMATS, do="use one of these")
    found = find_source(source)
    write_table(out, found.table, form, item_keys(found.table))
    settings = {"ordered": found.ordered}
    if form in LOSES_SIZES:
        lost = [name for name, there in (("codebook sizes", True), ("weights", found.table.weights is not None)) if there]
        sys.stderr.write(f"{form} holds codes alone: {' and '.join(lost)} are left out (npz and parquet hold them)\n")
    _say_written(out, found.table, form, settings)


def import_command(
    file: Path,
    dataset_name: str,
    out: Path,
    *,
    form: str,
    layout: str,
    keys: str,
    missing: str,
    extra: str,
    ordered: bool,
    sizes: str,
    budget: str,
    data_dir: Path | None,
    overrides: Sequence[str],
) -> None:
    """Check a table made elsewhere against a catalogue, write it as parquet with item keys, and say how to run it."""
    from sidbench.benchmark.config.compose import compose_run
    from sidbench.benchmark.config.run_config import RunConfig
    from sidbench.benchmark.plugins.registry import installed
    from sidbench.benchmark.runtime.reporter import default_reporter
    from sidbench.benchmark.stages.dataset import dataset_stage
    from sidbench.benchmark.store.paths import cache_folder
    from sidbench.benchmark.store.stage_cache import StageCache
    from sidbench.datasets.reading.locate import LocalFiles

    name = installed().find("dataset", dataset_name).name
    config = compose_run(RunConfig(dataset=name, tokenizer=None, recommenders=(), budget=budget), overrides).dataset
    own = getattr(config, "path", "")
    locate = LocalFiles(data_dir or (Path(own) if own else None))
    places = [str(place) for place in locate.roots().values()]
    plugin = installed().load("dataset", name)(config)
    catalog = dataset_stage(StageCache(cache_folder(), default_reporter()), name, plugin, locate, places).value.catalog
    table = read_table(file, form, n_items=len(catalog), layout=layout)
    if sizes:
        table = table.with_sizes(_whole_numbers(sizes), "--sizes")
    if table.ordered is not None and table.ordered != ordered:
        raise InputError(
            f"{file} holds {'' if table.ordered else 'un'}ordered SIDs",
            wanted="the same on the command line",
            do="use --ordered" if table.ordered else "use --unordered",
        )
    matched = match_rows(table, catalog.keys, len(catalog), keys, str(file))
    check_matched(matched, table, catalog.keys, str(file), missing=missing, extra=extra)
    present = (matched.rows >= 0).nonzero()[0]
    order = [*matched.rows[present].tolist(), *matched.extra.tolist()]
    new_keys = [catalog.keys[i] for i in present] + ([] if table.keys is None else [table.keys[r] for r in matched.extra])
    whole = replace(
        table,
        codes=table.codes[order],
        keys=tuple(new_keys),
        ordered=ordered,
        weights=None if table.weights is None else table.weights[order],
    )
    write_table(out, whole, "parquet", new_keys)
    sys.stdout.write(
        f"{len(present)} of {len(catalog)} items of {name}, matched by "
        f"{'row number' if matched.by_row else 'item key'}; {len(matched.missing)} items without a SID, "
        f"{len(matched.extra)} rows of other items\n"
    )
    for what, count in table.counts.items():
        sys.stdout.write(f"{what}: {count}\n")
    settings: dict[str, Any] = {
        "ordered": ordered,
        **({"missing": missing} if len(matched.missing) else {}),
        **({"extra": extra} if len(matched.extra) else {}),
    }
    _say_written(out, whole, "parquet", settings, ["--dataset", name, "--budget", budget], overrides)


def _whole_numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(p.isascii() and p.isdigit() and len(p) < 12 for p in parts):
        raise InputError("--sizes", got=repr(text), wanted="whole numbers with commas", do="for example --sizes 256,256,256")
    return [int(p) for p in parts]


def _say_written(
    out: Path,
    table: SidTable,
    form: str,
    settings: dict[str, Any],
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> None:
    """Which file there is now, and the command that runs it."""
    words = [f"tokenizer.path={out}"]
    if form in LOSES_SIZES:
        words.append(f"tokenizer.sizes=[{','.join(map(str, table.sizes))}]")
    if form == "letter":
        words.append("tokenizer.keys=row")
    words += [f"tokenizer.{n}={v}" for n, v in settings.items() if n != "ordered"]
    words += [] if settings["ordered"] else ["tokenizer.ordered=false"]
    command = shlex.join(["bench", "run", "--tokenizer", "imported", *options, *words, *overrides])
    sys.stdout.write(f"wrote {out}: {table.n_items} items, {table.code_length} positions\nrun it: {command}\n")


# -- diff --------------------------------------------------------------------------------------------------------------
def diff_command(left: str, right: str, as_json: bool) -> None:
    """Print how two tables differ."""
    a, b = find_source(left), find_source(right)
    if a.ordered != b.ordered:
        raise InputError(
            "two tables of different kinds",
            got=f"{a.name} {'is' if a.ordered else 'is not'} ordered, {b.name} {'is' if b.ordered else 'is not'}",
            wanted="both ordered or both unordered",
            do="import a file with --ordered or --unordered so that it says which",
        )
    report = {"left": a.name, "right": b.name, "ordered": a.ordered, **difference(a.table, b.table, a.ordered)}
    _show(report, _difference_lines, as_json)


def _difference_lines(report: dict[str, Any]) -> list[str]:
    items = report["items"]
    lines = [
        f"{report['left']} -> {report['right']}",
        f"  items: {items['common']} in both, {items['added']} added, {items['removed']} removed",
    ]
    for side, length, sizes in zip(("left", "right"), report["code_length"], report["sizes"], strict=True):
        lines.append(f"  {side:<5} {length} positions of {_number(sizes)} codes")
    moved = "the lengths differ" if report["moved"] is None else f"{report['moved']:.4f}"
    lines += [
        "",
        "codes as they are named (two fits may name the same clusters differently)",
        f"  items with any changed code                   {moved}",
        f"  changed, by position                          {_number(report['churn_by_position'])}",
    ]
    if "prefix_equal" in report:
        lines += [
            f"  equal prefix, by length                       {_number(report['prefix_equal'])}",
            f"  mean length of the common prefix              {report['mean_common_prefix']:.4f}",
        ]
    what = "prefix" if report["ordered"] else "position"
    lines += [
        "",
        "whatever the names of codes",
        f"  {f'NMI of the partitions, by {what}':<46}{_number(report['agreement']['nmi'])}",
        f"  {f'AMI (chance = 0), by {what}':<46}{_number(report['agreement']['ami'])}",
    ]
    return lines + [
        f"  {f'collisions: {name}'.replace('_', ' '):<46}{_number(value)}" for name, value in report["collisions"].items()
    ]


# -- printing ----------------------------------------------------------------------------------------------------------
def _show(report: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], as_json: bool) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False) if as_json else printable("\n".join(lines(report)))
    sys.stdout.write(text + "\n")


def _sid(codes: Sequence[int]) -> str:
    return "(" + " ".join("-" if code < 0 else str(code) for code in codes) + ")"


def _number(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_number, value))
    return str(int(value)) if float(value).is_integer() and abs(value) >= 2 else f"{value:.4f}"
