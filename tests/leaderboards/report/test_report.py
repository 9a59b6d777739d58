"""The HTML report as text: nothing runs or loads that is not ours, every number is there, packing loses nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidbench.benchmark.commands.report import catalogue_texts, report_details
from sidbench.benchmark.metrics.metric import Metric
from sidbench.benchmark.store.records import (
    DatasetRecord,
    EnvironmentRecord,
    PluginRecord,
    RunRecord,
    SidsRecord,
    StageRecord,
    TaskRecord,
)
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.synthetic import Synthetic, SyntheticConfig
from sidbench.leaderboards.board.columns import column_of
from sidbench.leaderboards.board.store import Skipped, StoredRun
from sidbench.leaderboards.board.values import EXACT, OVER_USERS, Cell, Leaderboard, Row, Table
from sidbench.leaderboards.report import explorer, points
from sidbench.leaderboards.report.details import CatalogueTexts, PictureSheet, ReportDetails
from sidbench.leaderboards.report.figures import write_figures
from sidbench.leaderboards.report.page import embedded_json, figures_of, html_page
from sidbench.leaderboards.report.points import Interval, Point, pareto
from sidbench.leaderboards.report.scatter_plots import place_labels
from sidbench.leaderboards.report.svg import Axis, Drawing, axis_over, number, spread
from sidbench.leaderboards.report.view import table_view

RECALL, AUC = column_of("item_recall_at_10", "retrieval"), column_of("auc", "ranking")
ENTROPY = column_of("entropy", None)
HOSTILE = '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">\' & \u2028'
CODES = np.array([[0, 1], [0, 1], [0, 2], [3, -1]])


def record(
    name: str,
    *,
    codes: np.ndarray | None = None,
    curves: Mapping[str, tuple[float, ...]] | None = None,
    diagnostics: Mapping[str, float] | None = None,
    vectors: Mapping[str, tuple[float, ...]] | None = None,
    strata: bool = False,
    command: tuple[str, ...] = ("bench", "run", "--tokenizer", "x y"),
    content: str = "d",
    retriever_curves: Mapping[str, tuple[float, ...]] | None = None,
) -> RunRecord:
    found = {"item_recall_at_10": 0.1} | ({f"item_recall_at_10_{s}": 0.1 for s in ("head", "tail")} if strata else {})
    length = 2 if codes is None else codes.shape[1]
    task = TaskRecord(
        task="retrieval",
        recommender=PluginRecord(name="mtp", config={}, curves=dict(retriever_curves or {})),
        protocol={},
        metrics={k: Metric(value=v, n=9, low=v - 0.01, high=v + 0.01) for k, v in found.items()},
        users_file="",
        users_hash="",
        comparability_key="k",
        protocol_key="p",
    )
    return RunRecord(
        run_id="run-" + re.sub(r"\W", "", name),
        created="2025-01-01T00:00:00",
        budget="quick",
        seed=0,
        dataset=DatasetRecord(name="made", config={}, content_hash=content, counts={}),
        features=None,
        tokenizer=PluginRecord(name=name, config={}, diagnostics=dict(diagnostics or {}), curves=dict(curves or {})),
        sids=SidsRecord(
            code_length=length,
            sizes=(4,) * length,
            ordered=True,
            mean_active=2.0,
            content_hash="s",
            file="sids.parquet",
            metrics={},
            vectors=dict(vectors or {}),
        ),
        tasks=(task,),
        comparability_key="k",
        protocol_key="p",
        stages=(
            StageRecord(name="tokenizer", key="a", cached=False, wall_seconds=2.0, cpu_seconds=1.0, peak_memory_bytes=1),
            StageRecord(name="sids", key="b", cached=False, wall_seconds=0.5, cpu_seconds=1.0, peak_memory_bytes=1),
        ),
        environment=EnvironmentRecord(
            device="cpu",
            precision="fp32",
            threads=1,
            allocator="",
            python="3.11",
            versions={},
            git_commit="0123456789abcdef",
            git_dirty=True,
            code="c",
            command_line=command,
            platform="linux",
        ),
    )


def write_sids(
    folder: Path, codes: np.ndarray, keys: Sequence[str] | None = None, weights: np.ndarray | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"item": list(keys or [f"k{i}" for i in range(len(codes))]), "codes": codes.tolist()}
    if weights is not None:
        columns["weights"] = weights.tolist()
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "sids.parquet")
    return folder


def row(
    run: RunRecord,
    folder: Path,
    *,
    kind: str = "tokenizer",
    settings: str = "",
    recall: float = 0.1,
    stale: tuple[str, ...] = (),
) -> Row:
    cells = {
        "item_recall_at_10": Cell(recall, 90, 0.01, None, "best", recall - 0.01, recall + 0.01, OVER_USERS),
        "auc": Cell(0.6, 50, interval=OVER_USERS, low=0.55, high=0.65),
        "entropy": Cell(1.25, 4, interval=EXACT),
    }
    name = run.tokenizer.name if run.tokenizer is not None else "none"
    return Row(
        name,
        kind,
        settings,
        "2",
        "4",
        cells,
        12.0,
        ("cpu",),
        (0,),
        (StoredRun(run, folder),),
        {"item_recall_at_10": 1},
        {"item_recall_at_10": 0.125},
        stale=stale,
    )


def board(rows: Sequence[Row], notes: tuple[str, ...] = (), **more: Any) -> Leaderboard:
    table = Table(
        "key1",
        {"dataset": "made", "budget": "quick", "retrieval": "mtp, k < 10"},
        (RECALL, AUC, ENTROPY),
        tuple(rows),
        notes,
        (RECALL,),
    )
    return Leaderboard((table,), more.pop("skipped", ()), more.pop("superseded", ()), **more)


class Page(HTMLParser):
    """Elements, attributes and the text of style and script elements of a page, as a browser would find them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self._open: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in ("script", "style") else None
        if self._open:
            self.inside.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[-1] = (self._open, self.inside[-1][1] + data)


def explorer_json(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A page with markup in every text that can reach it."""
    folder = write_sids(tmp_path / "run", CODES, [HOSTILE, "b", "c", "d"])
    run = record(HOSTILE[:30], codes=CODES, command=("bench", HOSTILE), curves={f"{HOSTILE}_loss": (1.0, 0.5)})
    texts = CatalogueTexts({HOSTILE: HOSTILE, "b": "plain"}, {"b": HOSTILE}, notes=(HOSTILE,))
    rows = [row(run, folder, settings=HOSTILE, kind="control", stale=(HOSTILE,))]
    made = board(rows, (HOSTILE,), title=HOSTILE, superseded=(HOSTILE,), skipped=(Skipped(Path("a/b"), HOSTILE),))
    return html_page(made, ReportDetails({"d": texts}, keys=True))


def test_texts_with_markup_stay_texts(hostile: str) -> None:
    page = Page(hostile)
    scripts = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
    assert scripts == ["application/json", None, None]
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "embed", "base")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"]
    data = explorer_json(hostile)
    assert data["catalogues"][0]["titles"] == [HOSTILE, "plain", "", ""]
    assert data["catalogues"][0]["keys"][0] == HOSTILE


def test_nothing_comes_from_outside(hostile: str) -> None:
    """Links lead into the page, the style sheet names no address, and nothing is fetched from a script."""
    for _, attributes in Page(hostile).elements:
        for name in ("src", "href", "action", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    ours = re.sub(r'<script type="application/json".*?</script>', "", hostile, flags=re.S)
    assert not re.findall(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|eval\(|innerHTML", ours)


def test_the_policy_names_the_hash_of_every_script_and_style(hostile: str) -> None:
    page = Page(hostile)
    policy = next(a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    ours = [text for (tag, text) in page.inside if not text.startswith('{"catalogues"')]
    assert len(ours) == 3
    for text in ours:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_embedded_json_reads_back_and_cannot_end_its_element(value: Any) -> None:
    text = str(embedded_json(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_equal_boards_give_equal_pages(tmp_path: Path) -> None:
    folder = write_sids(tmp_path, CODES)
    made = board([row(record("a", codes=CODES), folder), row(record("b", codes=CODES), folder, recall=0.2)])
    assert html_page(made) == html_page(made)


def test_a_page_without_details_holds_no_data_set_content(tmp_path: Path) -> None:
    folder = write_sids(tmp_path, CODES, ["secret-key-1", "secret-key-2", "secret-key-3", "secret-key-4"])
    html = html_page(board([row(record("a", codes=CODES), folder)]))
    assert "secret-key" not in html
    catalogue = explorer_json(html)["catalogues"][0]
    assert catalogue["keys"] is None and "published" in catalogue["notes"][0]


# -- tables ------------------------------------------------------------------------------------------------------------
def test_cells_carry_value_interval_mark_and_sort_key(tmp_path: Path) -> None:
    view = table_view(board([row(record("a"), tmp_path)]).tables[0], 1)
    cells = dict(zip([h.heading for h in view.heads], view.rows[0].cells, strict=True))
    assert (cells["R@10"].text, cells["R@10"].sort, cells["R@10"].doubt) == ("0.1000", "0.1", "0.0900–0.1100")
    assert cells["R@10"].mark == "best" and "n = 90" in cells["R@10"].tip and "over users" in cells["R@10"].tip
    assert cells["entropy"].text == "1.250" and cells["entropy"].doubt == "exact"
    assert cells["rank"].text == "1" and cells["improv."].text == "+12.5"
    assert cells["tokenizer"].text == "2.5" and cells["bits"].text == "4.0"
    assert "encode" not in cells  # no row has it
    # A phone has no pointer to rest on a cell: what stands in the tips is in the opened row.
    assert view.rows[0].numbers[0] == f"R@10 0.1000 (0.0900–0.1100): {cells['R@10'].tip}"
    entropy = next(text for text in view.rows[0].numbers if text.startswith("entropy"))
    assert entropy.startswith("entropy 1.250: exact for this SID table")
    assert "<li>R@10 0.1000 (0.0900–0.1100): 95 % interval over users" in html_page(board([row(record("a"), tmp_path)]))


def test_columns_of_a_group_stand_together(tmp_path: Path) -> None:
    groups = [h.group for h in table_view(board([row(record("a"), tmp_path)]).tables[0], 1).heads]
    assert groups == sorted(groups, key=["", "retrieval", "ranking", "sids", "cost"].index)


def test_provenance_badges_and_what_is_in_no_table_are_shown(tmp_path: Path) -> None:
    rows = [row(record("a"), tmp_path, kind="control", stale=("its code changed",))]
    html = html_page(board(rows, superseded=("old-run",), skipped=(Skipped(Path("x/record.json"), "schema 9"),)))
    assert "0123456789ab with local changes" in html and "bench run --tokenizer &#39;x y&#39;" in html
    assert '<span class="badge control">control</span>' in html and "its code changed" in html
    assert "<code>old-run</code>" in html and "schema 9" in html
    assert "not beside the record" in html  # its SID table


# -- plots -------------------------------------------------------------------------------------------------------------
WITH_DATA = {
    "strata-retrieval": {"strata": True},
    "utilisation": {"vectors": {"utilisation_by_position": (1.0, 0.995)}},
    "router": {"diagnostics": {f"mean_active_behaviour_count_q{q}": q / 2 for q in (1, 2, 3, 4)}},
    "codes-in-use": {"vectors": {"active_codes_by_quartile": (1.0, 1.5, 1.5, 2.0)}},
    "weight": {"diagnostics": {f"w_at_{i / 10:.1f}": i / 10 for i in range(11)}},
    "retriever-curves": {"retriever_curves": {"mtp_validation": (0.1, 0.2)}},
    "curve-a-loss": {"curves": {"a_loss": (3.0, 2.0, 1.0)}},
}


@pytest.mark.parametrize("name", WITH_DATA)
def test_a_plot_stands_where_its_data_are_and_a_sentence_where_not(name: str, tmp_path: Path) -> None:
    there = {f.name: f for f in figures_of(board([row(record("a", **WITH_DATA[name]), tmp_path)]).tables[0])}
    assert there[name].svg is not None and "<svg" in there[name].svg and not there[name].why
    bare = {f.name: f for f in figures_of(board([row(record("a"), tmp_path)]).tables[0])}
    missing = bare["tokenizer-curves" if name.startswith("curve-") else name]
    assert missing.svg is None and missing.why.endswith(".")
    assert missing.why in html_page(board([row(record("a"), tmp_path)]))


def test_quality_plots_of_every_task_and_their_front(tmp_path: Path) -> None:
    rows = [row(record("a"), tmp_path), row(record("b"), tmp_path, recall=0.3)]
    found = {f.name: f for f in figures_of(board(rows).tables[0])}
    for name in ("bits-retrieval", "seconds-retrieval", "bits-ranking", "seconds-ranking", "pareto"):
        svg = found[name].svg
        assert svg is not None and ">a</text>" in svg and ">b</text>" in svg


def test_values_that_are_not_finite_are_counted_and_single_values_told(tmp_path: Path) -> None:
    broken = {"a_loss": (3.0, float("nan"), 1.0), "a_validation": (2.5,)}
    found = {f.name: f for f in figures_of(board([row(record("a", curves=broken), tmp_path)]).tables[0])}
    assert "1 values are not finite" in found["curve-a-loss"].note
    assert found["curve-a-validation"].svg is None and "a 2.5" in found["curve-a-validation"].why


def test_a_line_passes_through_its_points() -> None:
    drawing = Drawing(100, 100)
    x, y = Axis(0, 10, 0, 100), Axis(0, 1, 100, 0)
    drawing.path([(x(0), y(0)), (x(5), y(1))], "series")
    assert 'd="M0.0 100.0 L50.0 0.0"' in drawing.svg("n")


@pytest.mark.parametrize(("active", "bits"), [((1.0, 0.5), 3.5), ((), 2.5), ((1.0,), 2.5)])
def test_code_bits_by_hand(active: tuple[float, ...], bits: float, tmp_path: Path) -> None:
    """Positions of 4 and 8 codes: 2 bits + half of 3 bits; without the vector, 1 of 2 positions used: (2 + 3) / 2."""
    run = record("a", vectors={"active_by_position": active})
    assert run.sids is not None
    sids = run.sids.model_copy(update={"sizes": (4, 8), "mean_active": 1.0})
    assert points.code_bits(row(run.model_copy(update={"sids": sids}), tmp_path)) == pytest.approx(bits)


_COORDINATES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(_COORDINATES, st.booleans())
def test_the_front_is_what_no_point_beats(values: list[tuple[int, int]], less_x: bool) -> None:
    """Oracle: every point against every other one."""
    made = [Point(str(i), "tokenizer", Interval(x), Interval(y)) for i, (x, y) in enumerate(values)]
    sign = -1 if less_x else 1

    def beaten(x: int, y: int) -> bool:
        return any(sign * u >= sign * x and v >= y and (u, v) != (x, y) for u, v in values)

    front = {(p.x.value, p.y.value) for p in pareto(made, less_x=less_x)}
    assert front == {(x, y) for x, y in values if not beaten(x, y)}


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20))
def test_spread_labels_keep_order_distance_and_bounds(wanted: list[float]) -> None:
    placed = spread(wanted, 0, 300, gap=13)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= 13 - 1e-6).all()
    assert min(placed) >= -1e-6 and max(placed) <= 300 + 1e-6


def test_lone_labels_stay_where_they_want_to_be() -> None:
    assert spread([10.0, 100.0], 0, 300) == [10.0, 100.0]


def test_labels_of_points_on_one_spot_do_not_cover_each_other() -> None:
    placed = place_labels(["alpha", "beta", "gamma", "delta"], [(200.0, 150.0)] * 4)
    assert len({(round(x), round(y)) for x, y in placed}) == 4


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_inside_and_few(low: float, width: float) -> None:
    axis = axis_over([low, low + width], 0, 100)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(-1e-6 <= axis(t) <= 100 + 1e-6 for t in ticks)


def test_tick_words() -> None:
    assert [number(v) for v in (0.0, 0.25, 12000.0, 1e-7, 5.0)] == ["0", "0.25", "12,000", "1e-7", "5"]
    assert Axis(0.05, 300, 0, 1, True).ticks() == pytest.approx([0.1, 1, 10, 100])
    assert Axis(1, 3, 0, 1, whole=True).ticks() == [1, 2, 3]


# -- explorer ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "kind"), [(4, "u1"), (255, "u1"), (256, "u2"), (70_000, "i4")])
def test_packed_codes_read_back(size: int, kind: str, tmp_path: Path) -> None:
    codes = np.array([[0, size - 1], [size - 1, -1]])
    run = record("a", codes=codes)
    assert run.sids is not None
    run = run.model_copy(update={"sids": run.sids.model_copy(update={"sizes": (size, size)})})
    packed = explorer.pack_explorer(board([row(run, write_sids(tmp_path, codes))]), ReportDetails()).data["runs"][0]
    types = {"u1": np.uint8, "u2": "<u2", "i4": "<i4"}
    assert packed["type"] == kind
    raw = np.frombuffer(base64.b64decode(packed["codes"]), types[kind]).astype(int)
    assert (raw.reshape(2, 2) - 1).tolist() == codes.tolist()


def test_weights_are_packed_only_where_they_say_something(tmp_path: Path) -> None:
    equal = np.ones((4, 2), np.float32)
    other = np.array([[2.0, 1.0], [2, 0], [1, 1], [2, 0]], np.float32)
    for weights in (equal, other):
        folder = write_sids(tmp_path / str(weights[0, 0]), CODES, weights=weights)
        packed = explorer.pack_explorer(board([row(record("a", codes=CODES), folder)]), ReportDetails()).data["runs"][0]
        assert ("weights" in packed) == (weights is other)
    shares = np.frombuffer(base64.b64decode(packed["weights"]), np.uint8)
    assert packed["top"] == 2.0 and shares.reshape(4, 2).tolist() == [[255, 128], [255, 0], [128, 128], [255, 0]]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("bytes", "cannot be read"),
        ("range", "outside its codebooks"),
        ("length", "cannot be read"),
        ("columns", "cannot be read"),
    ],
)
def test_damaged_sid_tables_are_named_and_left_out(damage: str, says: str, tmp_path: Path) -> None:
    write_sids(tmp_path, {"range": CODES + 9, "length": CODES[:, :1]}.get(damage, CODES))
    if damage == "bytes":
        (tmp_path / "sids.parquet").write_bytes(b"PAR1 no table")
    if damage == "columns":
        pyarrow.parquet.write_table(pyarrow.table({"other": [1]}), tmp_path / "sids.parquet")
    packed = explorer.pack_explorer(board([row(record("a", codes=CODES), tmp_path)]), ReportDetails())
    assert packed.n_rows == 0 and says in packed.notes[0] and "run-a" in packed.notes[0]
    assert says in html_page(board([row(record("a", codes=CODES), tmp_path)]))


def test_a_full_beauty_board_stays_small(tmp_path: Path) -> None:
    """Twenty rows of 12,101 items, six codes of 100, and titles of 70 signs: below ten megabytes."""
    generator = np.random.default_rng(0)
    keys = [f"B{i:09}" for i in range(12_101)]
    codes = generator.integers(0, 100, (len(keys), 6))
    folder, rows = write_sids(tmp_path, codes, keys), []
    for i in range(20):
        run = record(f"t{i}", codes=codes)
        assert run.sids is not None
        rows.append(row(run.model_copy(update={"sids": run.sids.model_copy(update={"sizes": (100,) * 6})}), folder))
    texts = CatalogueTexts({key: f"{key} {'title ' * 10}" for key in keys}, {key: f"a › {key[-2:]}" for key in keys})
    html = html_page(board(rows), ReportDetails({"d": texts}, keys=True))
    assert len(html.encode()) < 10e6 and len(explorer_json(html)["runs"]) == 20


def test_rows_beyond_the_size_limit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MAX_CODE_BYTES", 12)  # one row: eight bytes, twelve in base64
    rows = [row(record(name, codes=CODES), write_sids(tmp_path / name, CODES)) for name in ("a", "b")]
    packed = explorer.pack_explorer(board(rows), ReportDetails())
    assert [r["label"] for r in packed.data["runs"]] == ["a"] and "b (run-b) is left out" in packed.notes[0]


def test_categories_are_numbered_and_pictures_travel(tmp_path: Path) -> None:
    texts = CatalogueTexts({}, {"k0": "x", "k2": "x", "k3": "y"}, PictureSheet(b"\xff\xd8", 40, 32, (True,) * 4))
    packed = explorer.pack_explorer(
        board([row(record("a", codes=CODES), write_sids(tmp_path, CODES))]), ReportDetails({"d": texts}, keys=True)
    ).data["catalogues"][0]
    assert [packed["paths"][i] for i in packed["categories"]] == ["x", "", "x", "y"]
    assert base64.b64decode(packed["pictures"]["data"]) == b"\xff\xd8"


# -- texts and licences ------------------------------------------------------------------------------------------------
@pytest.fixture
def synthetic(tmp_path: Path) -> Leaderboard:
    config = SyntheticConfig(n_items=40, n_users=30, branching=(2, 2, 2), picture_size=8)
    content = Synthetic(config).load(LocalFiles(tmp_path, sources={})).content_hash()
    run = record("a", content=content)
    plain = {**vars(config), "branching": [2, 2, 2]}
    return board(
        [
            row(
                run.model_copy(
                    update={"dataset": DatasetRecord(name="synthetic", config=plain, content_hash=content, counts={})}
                ),
                tmp_path,
            )
        ]
    )


@pytest.mark.usefixtures("home")
def test_auto_shows_texts_and_pictures_of_free_data_sets(synthetic: Leaderboard) -> None:
    details = report_details(synthetic)
    texts = next(iter(details.items.values()))
    assert details.keys and len(texts.titles) == 40 and texts.pictures is not None and all(texts.pictures.present)
    assert all(" › " in path for path in texts.categories.values())


@pytest.mark.usefixtures("home")
def test_auto_withholds_texts_that_may_not_be_passed_on(synthetic: Leaderboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidbench.benchmark.commands.report.REDISTRIBUTABLE", frozenset({"MIT"}))
    details = report_details(synthetic)
    assert not details.items and "Apache-2.0" in next(iter(details.withheld.values())) and details.keys
    assert report_details(synthetic, "yes").items


@pytest.mark.usefixtures("home")
def test_no_shows_nothing_and_other_words_are_refused(synthetic: Leaderboard) -> None:
    assert report_details(synthetic, "no") == ReportDetails()
    with pytest.raises(InputError, match="--texts"):
        report_details(synthetic, "maybe")


@pytest.mark.usefixtures("home")
def test_data_that_are_another_set_than_the_run_saw_are_not_shown(synthetic: Leaderboard) -> None:
    run = synthetic.tables[0].rows[0].runs[0].record
    other = run.model_copy(update={"dataset": run.dataset.model_copy(update={"content_hash": "x"})})
    details = report_details(board([row(other, Path())]))
    assert not details.items and "another one than the run saw" in details.withheld["x"]


def test_pictures_of_large_catalogues_are_left_out_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidbench.benchmark.commands.report.MAX_PICTURES", 39)
    config = SyntheticConfig(n_items=40, n_users=30, branching=(2, 2, 2), picture_size=8)
    texts = catalogue_texts(Synthetic(config).load(LocalFiles(tmp_path, sources={})))
    assert texts.pictures is None and "40 items" in texts.notes[0]


# -- figures for markdown ----------------------------------------------------------------------------------------------
def test_markdown_figures_are_stable_files_without_dates(tmp_path: Path) -> None:
    table = board([row(record("a"), tmp_path), row(record("$b_1$"), tmp_path, recall=0.3, kind="control")]).tables[0]
    table = replace(table, columns=(RECALL,))
    first, second = write_figures(table, tmp_path / "1"), write_figures(table, tmp_path / "2")
    assert [p.name for p in first] == ["key1-bits-retrieval.svg", "key1-seconds-retrieval.svg"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    text = first[0].read_text()
    assert "dc:date" not in text and "$b_1$" in text and len(text) < 60_000
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == sorted(p.name for p in first)


def test_names_stand_beside_their_points_and_apart_from_each_other(tmp_path: Path) -> None:
    """Four rows of equal code bits, three of nearly equal value, and one with other bits between them."""
    values = {"one": 0.100, "two": 0.101, "three": 0.102, "four": 0.3}
    rows = [row(record(name), tmp_path, recall=value) for name, value in values.items()]
    wide = record("wide")
    assert wide.sids is not None
    rows.append(
        row(wide.model_copy(update={"sids": wide.sids.model_copy(update={"sizes": (64, 64)})}), tmp_path, recall=0.1011)
    )
    table = replace(board(rows).tables[0], columns=(RECALL,))
    text = write_figures(table, tmp_path / "figures")[0].read_text()
    names = [*values, "wide"]
    found = {
        name: re.search(rf'<text [^>]*? x="([\d.]+)" y="([\d.]+)"[^>]*>{name}</text>', text) for name in names
    }  # no blank before the name: browsers drop those, and the name covers its point
    places = {name: (float(m[1]), float(m[2])) for name, m in found.items() if m is not None}
    assert set(places) == set(names)
    heights = sorted(places[name][1] for name in values)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 7  # the size of the letters
    dots = [float(y) for y in re.findall(r'<use xlink:href="[^"]*" x="[\d.]+" y="([\d.]+)" style="fill', text)]
    assert min(abs(places["wide"][1] - y) for y in dots) < 4  # nobody stands beside it, so it stays
