"""The HTML report in a real browser: sorting, filtering, explorer, keyboard, phone, themes; nothing foreign runs or loads.

Screenshots are kept in ``build/screenshots/``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

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
from sidbench.leaderboards.board.columns import column_of
from sidbench.leaderboards.board.store import StoredRun
from sidbench.leaderboards.board.values import EXACT, OVER_USERS, Cell, Costs, Leaderboard, Row, Table
from sidbench.leaderboards.report.details import CatalogueTexts, ReportDetails
from sidbench.leaderboards.report.page import html_page

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed (Debian: chromium-driver)"
)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
)
SCREENSHOTS = Path(__file__).resolve().parents[3] / "build" / "screenshots"
HOSTILE = '<img src=x onerror="window.pwned=1"><b>bold</b>'
RECALL, ENTROPY = column_of("item_recall_at_10", "retrieval"), column_of("entropy", None)
# tokenizer, kind, recall (None: undefined): neither sorted nor in the order of their words
ROWS = (("beta", "tokenizer", 0.09), ("alpha", "tokenizer", 0.3), ("random", "control", 0.101), ("gamma", "tokenizer", None))
CODES = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 0], [3, 0, 0], [3, 1, 2], [1, 1, 1]])
KEYS = [f"key{i}" for i in range(len(CODES))]
TITLES = dict(
    zip(KEYS, ["red cup", "red plate", "blue cup", HOSTILE, "</script><script>window.pwned=1</script>", "lamp"], strict=True)
)


def make_row(folder: Path, place: int, name: str, kind: str, recall: float | None) -> Row:
    folder.mkdir()
    codes = (CODES + place) % 4
    pyarrow.parquet.write_table(pyarrow.table({"item": KEYS, "codes": codes.tolist()}), folder / "sids.parquet")
    value = recall or 0.0
    diagnostics = {f"w_at_{i / 10:.1f}": (i / 10) ** 2 for i in range(11)}
    task = TaskRecord(
        task="retrieval",
        recommender=PluginRecord(name="mtp", config={}, curves={"mtp_validation": (0.1, 0.2, value)}),
        protocol={},
        users_file="",
        users_hash="",
        comparability_key="k",
        protocol_key="p",
        metrics={
            f"item_recall_at_10{s}": Metric(value=value, n=9, low=value - 0.01, high=value + 0.02)
            for s in ("", "_head", "_torso", "_tail")
        },
    )
    record = RunRecord(
        run_id=f"run-{name}",
        created="2025-01-01T00:00:00",
        budget="quick",
        seed=0,
        features=None,
        dataset=DatasetRecord(name="made", config={}, content_hash="d", counts={}),
        tokenizer=PluginRecord(name=name, config={}, diagnostics=diagnostics),
        sids=SidsRecord(
            code_length=3,
            sizes=(4, 4, 4),
            ordered=place % 2 == 0,
            mean_active=3.0,
            content_hash="s",
            file="sids.parquet",
            metrics={},
            vectors={"utilisation_by_position": (1.0, 0.75, 0.25)},
        ),
        tasks=(task,),
        comparability_key="k",
        protocol_key="p",
        stages=(
            StageRecord(
                name="tokenizer", key="a", cached=False, wall_seconds=3.0**place, cpu_seconds=1.0, peak_memory_bytes=1
            ),
        ),
        environment=EnvironmentRecord(
            device="cpu",
            precision="fp32",
            threads=1,
            allocator="",
            python="3.11",
            versions={},
            git_commit="0123456789",
            git_dirty=False,
            code="c",
            command_line=("bench", "run", "--tokenizer", name),
            platform="linux",
        ),
    )
    cells = {"entropy": Cell(1.0 + place, 6, interval=EXACT)}
    if recall is not None:
        cells["item_recall_at_10"] = Cell(
            recall, 9, 0.01, None, "best" if name == "alpha" else "", recall - 0.01, recall + 0.02, OVER_USERS
        )
    return Row(
        name,
        kind,
        HOSTILE if name == "gamma" else "",
        "3",
        "4",
        cells,
        12.0 * 10**place,
        ("cpu",),
        (0,),
        (StoredRun(record, folder),),
        costs=Costs(ms_per_user=place + 0.5),
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rows = tuple(make_row(folder / name, i, name, kind, recall) for i, (name, kind, recall) in enumerate(ROWS))
    caption = {"dataset": "made", "budget": "quick", "retrieval": "mtp, leave last out " * 12, "key": "0123456789abcdef" * 4}
    board = Leaderboard((Table("k", caption, (RECALL, ENTROPY), rows, (HOSTILE,), (RECALL,)),), (), ("old",))
    page = folder / "report.html"
    page.write_text(html_page(board, ReportDetails({"d": CatalogueTexts(TITLES, {"key0": HOSTILE})}, keys=True)))
    return page


class Browser:
    """One headless browser with an empty profile; ``js`` runs a script in the page and returns its value."""

    def __init__(self, profile: Path) -> None:
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(service=Service(executable_path=DRIVER), options=options)

    def open(self, page: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        self.driver.get(page.as_uri())
        self.js("try { localStorage.clear() } catch (error) {}")

    def js(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def press(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center', behavior: 'instant'})", selector)
        self.driver.find_element("css selector", selector).click()

    def type(self, selector: str, words: str) -> None:
        self.driver.find_element("css selector", selector).send_keys(words)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that are visible."""
        return list(
            self.js(
                "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
                ".map(e => e.textContent.trim())",
                selector,
            )
        )

    def shoot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        assert self.driver.save_screenshot(str(path))
        return path

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def events(self) -> list[dict[str, Any]]:
        """What the browser's network did since the last call."""
        return [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]

    def requested(self) -> list[str]:
        messages = self.events()
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "chrome"))]  # chrome..: the browser's own first tab


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started: Browser, report: Path) -> Iterator[Browser]:
    """The report freshly opened at desk size; at the end: no complaint, no request but the file, nothing foreign ran."""
    started.complaints(), started.requested()
    started.open(report)
    yield started
    assert started.js("return window.pwned") is None
    assert started.complaints() == []
    assert set(started.requested()) <= {report.as_uri()}


def names(browser: Browser) -> list[str]:
    return browser.texts(".board .row-name")


def click_head(browser: Browser, heading: str) -> str:
    """Press the head of a column; returns its aria-sort."""
    return str(
        browser.js(
            "const b = [...document.querySelectorAll('.board thead th button')]"
            ".find(b => b.firstChild.textContent.trim() === arguments[0]); b.click();"
            "return b.parentNode.getAttribute('aria-sort')",
            heading,
        )
    )


def test_columns_sort_by_number_with_the_best_first_and_missing_last(browser: Browser) -> None:
    assert names(browser) == ["beta", "alpha", "random", "gamma"]
    assert click_head(browser, "R@10") == "descending"
    assert names(browser) == ["alpha", "random", "beta", "gamma"]
    assert click_head(browser, "R@10") == "ascending"
    assert names(browser) == ["beta", "random", "alpha", "gamma"]  # gamma has no value: last both ways
    assert click_head(browser, "row") == "ascending"
    assert names(browser) == ["alpha", "beta", "gamma", "random"]
    assert click_head(browser, "tokenizer") == "descending"  # 27, 9, 3, 1 seconds
    assert names(browser) == ["gamma", "random", "alpha", "beta"]
    assert browser.js("return document.querySelectorAll('th[aria-sort]:not([aria-sort=none])').length") == 1


def test_rows_filter_by_words_and_kind_and_columns_by_group(browser: Browser) -> None:
    browser.type("#filter", "a TO")  # every word must be in name, settings or kind: "to" is in tokenizer, not in control
    assert names(browser) == ["beta", "alpha", "gamma"]
    assert browser.texts(".count") == ["3 of 4 rows"]
    browser.js("document.querySelector('#filter').value = ''")
    browser.press("input[name=kind][value=tokenizer]")
    assert names(browser) == ["random"]
    browser.press("input[name=kind][value=tokenizer]")
    before = browser.texts(".board thead th")
    browser.press("input[name=group][value=cost]")
    after = browser.texts(".board thead th")
    assert "R@10" in before and set(before) - set(after) == {"tokenizers", "inferencems/user", "all stagess", "device"}
    browser.press("input[name=group][value=doubt]")
    assert browser.texts(".doubt") == []


def test_a_row_opens_to_its_provenance(browser: Browser) -> None:
    browser.press("tbody:nth-of-type(2) .open")
    assert browser.texts(".command code") == ["bench run --tokenizer alpha"]
    assert browser.js("return document.querySelector('tbody:nth-of-type(2) .open').getAttribute('aria-expanded')") == "true"
    browser.press("tbody:nth-of-type(2) .copy")
    assert click_head(browser, "R@10") == "descending"
    assert browser.js("return document.querySelector('tbody:nth-of-type(1) .more').hidden") is False  # travels with its row


def test_explorer_finds_items_and_their_neighbours(browser: Browser) -> None:
    browser.type("#x-search", "CUP")
    found = browser.texts("#x-results .x-entry")
    assert len(found) == 2 and "red cup" in found[0] and "blue cup" in found[1]
    browser.press("#x-results .x-entry")
    assert browser.texts("#x-item h3") == ["red cup"]
    buttons = browser.texts(".codes button")
    # key0 has codes 0 1 2 in the first, ordered row: prefix (0) has three items, (0, 1) two, the whole SID one.
    assert buttons == ["prefix 103 items", "prefix 212 items", "prefix 321 item", "all codesSID1 item"]
    browser.press(".codes li:nth-child(2) button")
    assert browser.texts("#x-item h4") == ["2 items with prefix 2 = 0 · 1"]
    assert [t.split("key")[0] for t in browser.texts(".x-group .x-entry")] == ["red cup", "red plate"]
    assert len(browser.texts(".x-table tbody tr")) == len(ROWS)
    browser.press(".x-group li:nth-child(2) .x-entry")
    assert browser.texts("#x-item h3") == ["red plate"]


def test_explorer_reads_unordered_rows_by_position_and_keeps_the_item(browser: Browser) -> None:
    browser.press("#x-results .x-entry")
    browser.js("const s = document.querySelector('#x-run'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    assert browser.texts("#x-item h3") == ["red cup"]
    # Codes of the second row are (CODES + 1) mod 4: key0 has 1 2 3; four items have 2 at position 1, two have 3 at 2.
    assert browser.texts(".codes button") == [
        "position 013 items",
        "position 124 items",
        "position 232 items",
        "all codesSID1 item",
    ]


def test_texts_with_markup_do_not_run(browser: Browser) -> None:
    for key in ("key3", "key4", "key0"):
        browser.js(
            "const s = document.querySelector('#x-search'); s.value = arguments[0];s.dispatchEvent(new Event('input'))", key
        )
        browser.press("#x-results .x-entry")
        browser.press(".codes li:last-child button")
    assert browser.js("return document.images.length") == 0
    browser.js(
        "document.querySelector('#x-search').value = 'key3';"
        "document.querySelector('#x-search').dispatchEvent(new Event('input'))"
    )
    browser.press("#x-results .x-entry")
    assert browser.texts("#x-item h3") == [HOSTILE]


def test_the_policy_stops_what_an_injection_would_try(started: Browser, report: Path) -> None:
    """Were markup ever inserted by a mistake of ours, the browser itself would refuse to run or load it."""
    from selenium.webdriver.support.ui import WebDriverWait

    started.open(report)
    started.complaints(), started.requested()
    markup = '<img src="https://example.org/x.png" onerror="window.pwned=1"><p onclick="window.pwned=1" id="evil">x</p>'
    started.js(
        "document.body.insertAdjacentHTML('beforeend', arguments[0]); document.getElementById('evil').click();"
        "const s = document.createElement('script'); s.textContent = 'window.pwned=1'; document.body.append(s)",
        markup,
    )
    WebDriverWait(started.driver, 5).until(lambda _: any("example.org" in c for c in started.complaints()))
    assert started.js("return window.pwned") is None
    events = started.events()
    tried = {
        e["params"]["requestId"]
        for e in events
        if e["method"] == "Network.requestWillBeSent" and "example.org" in e["params"]["request"]["url"]
    }
    blocked = {
        e["params"]["requestId"]
        for e in events
        if e["method"] == "Network.loadingFailed" and e["params"].get("blockedReason") == "csp"
    }
    assert tried and tried <= blocked


def test_everything_works_by_keyboard(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.keys(Keys.TAB)
    assert browser.js("return document.activeElement.className") == "skip"
    browser.keys(Keys.ENTER)
    assert browser.js("return document.activeElement.id") == "main"
    seen: list[str] = []
    for _ in range(120):
        browser.keys(Keys.TAB)
        where = browser.js(
            "const e = document.activeElement; if (e === document.body) return null;"
            "const o = getComputedStyle(e); return [e.tagName, e.id, e.textContent.trim().slice(0, 20),"
            "o.outlineStyle]"
        )
        if where is None:
            break
        assert where[3] != "none", f"no visible focus on {where}"
        seen.append(" ".join(where[:3]))
    assert where is None, "the focus never leaves the page"
    order = [next(i for i, s in enumerate(seen) if words in s) for words in ("filter", "R@10", "beta", "x-run", "x-search")]
    assert order == sorted(order)
    browser.js("[...document.querySelectorAll('.board thead button')].find(b => b.textContent.startsWith('R@10')).focus()")
    browser.keys(Keys.ENTER)
    assert names(browser)[0] == "alpha"
    browser.js("document.querySelector('#x-search').focus()")
    browser.keys("lamp", Keys.ARROW_DOWN)
    assert browser.js("return document.activeElement.dataset.item") == "5"
    browser.keys(Keys.ENTER)
    assert browser.texts("#x-item h3") == ["lamp"]
    assert browser.js("return document.activeElement.tagName") == "H3"


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "light"), ("phone-dark", 360, "dark")],
)
def test_page_fits_the_window_and_follows_the_theme(
    browser: Browser, report: Path, name: str, width: int, scheme: str
) -> None:
    browser.open(report, width, 780, scheme)
    overhang = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.js(overhang) == 0 and browser.js("return innerWidth") == width  # wide tables scroll inside themselves
    browser.press("tbody .open")
    assert browser.js(overhang) == 0
    assert browser.js("const r = document.querySelector('.inner').getBoundingClientRect(); return r.right <= innerWidth")
    red, green, blue = browser.js("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (red + green + blue > 700) == (scheme == "light")
    browser.js("scrollTo({top: 0, behavior: 'instant'})")
    path = browser.shoot(f"report-{name}")
    assert path.stat().st_size > 10_000
    browser.js("document.querySelector('.figures').scrollIntoView({behavior: 'instant'})")
    browser.shoot(f"report-{name}-plots")


def test_the_theme_button_overrides_the_system(browser: Browser) -> None:
    colours = []
    for word in ("system", "light", "dark"):
        assert browser.texts("#theme") == [f"Theme: {word}"]
        colours.append(browser.js("return getComputedStyle(document.body).backgroundColor"))
        browser.press("#theme")
    assert colours[0] == colours[1] != colours[2]


def test_words_and_marks_keep_their_contrast(browser: Browser, report: Path) -> None:
    """WCAG AA: 4.5 to 1 for words against the page, in both themes."""
    for scheme in ("light", "dark"):
        browser.open(report, 1280, 900, scheme)
        for selector in (
            "body",
            ".muted",
            ".doubt",
            ".badge",
            ".skip",
            "summary",
            ".plot .tick",
            ".plot text.s0",
            ".plot .label.control",
            ".unit",
        ):
            found = browser.js(
                "const e = document.querySelector(arguments[0]); const s = getComputedStyle(e); return ["
                "e.namespaceURI.endsWith('svg') ? s.fill : s.color, getComputedStyle(document.body).backgroundColor]",
                selector,
            )
            assert contrast(*found) >= 4.5, (scheme, selector, found)


def contrast(left: str, right: str) -> float:
    """The contrast ratio of two colours as ``rgb(r, g, b)``, by WCAG 2."""

    def luminance(words: str) -> float:
        parts = [int(v) / 255 for v in words[words.index("(") + 1 : words.index(")")].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    one, two = sorted((luminance(left), luminance(right)))
    return (two + 0.05) / (one + 0.05)
