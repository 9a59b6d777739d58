"""The committed pages of tokenizers and recommenders are what their source says, and the generator says it faithfully."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.cli.app import invoke
from sidbench.benchmark.config.describe import setting_number, setting_range
from sidbench.benchmark.pages.build import INDEX, MARKS, compare_pages, pages, write_pages
from sidbench.benchmark.pages.recommenders import GROUPS, recommender_page
from sidbench.benchmark.pages.tokenizers import tokenizer_page
from sidbench.benchmark.plugins.registry import KINDS, ROOT, Registry, installed, load, plugins
from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.recommenders import check_recommender, make_retrieval, make_sids
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.recommenders.base import TargetRanks
from sidbench.tokenizers.base import SemanticIds

DOCS = ROOT / "docs"
IN_TREE = [n for n, p in plugins("tokenizer").items() if p.source == "sidbench"]
RECOMMENDERS = [n for n, p in plugins("recommender").items() if p.source == "sidbench"]
RETRIEVERS = [n for n in RECOMMENDERS if plugins("recommender")[n].info["task"] == "retrieval"]
EXACT, SEARCH, BOTH = "every item of the catalogue, exactly", "by beam search, down to", "exactly; with `decoding="


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def row(page: str, name: str) -> str:
    """The cell beside ``name`` in the table of facts."""
    return re.search(rf"^\| {name} \| (.*) \|$", page, re.MULTILINE).group(1)  # type: ignore[union-attr]


def test_the_committed_pages_are_up_to_date(made: dict[str, str]) -> None:
    assert compare_pages(made, DOCS) == {}, "run `make docs`"


def test_there_is_a_page_for_every_plugin_and_the_indices_name_them_all(made: dict[str, str]) -> None:
    assert set(made) == {f"tokenizers/{n}.md" for n in [*IN_TREE, "README"]} | {
        f"recommenders/{n}.md" for n in [*RECOMMENDERS, "README"]
    }
    assert all(f"| [{n}]({n}.md) |" in made[f"tokenizers/{INDEX}"] for n in IN_TREE)
    assert all(f"| [{n}]({n}.md) |" in made[f"recommenders/{INDEX}"] for n in RECOMMENDERS)


def check_page(page: str, kind: str, name: str) -> None:
    cls = load(kind, name)
    assert page.startswith(MARKS[f"{kind}s"]) and f"# {cls.info.title}\n" in page
    for field in fields(cls.config_class):
        assert f"| `{field.name}` |" in page
    assert page.count("\n- ") >= len(cls.info.deviations)
    widths = {
        line.replace(r"\|", "").count("|")
        for line in page.split("## Settings")[1].split("## Budgets")[0].splitlines()
        if line.startswith("|")
    }
    assert widths == {8}  # a bar in a cell is escaped
    assert str(ROOT) not in page and "/home/" not in page
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert link == cls.info.url or (DOCS / f"{kind}s" / link).is_file(), link
    assert (f"]({cls.info.url})" in page) == bool(cls.info.url)
    assert (f"## Cite\n\n```bibtex\n{cls.info.bibtex}\n```" in page) == bool(cls.info.bibtex)
    assert (f"| year | {cls.info.year} |" in page) == (cls.info.year is not None) and "None" not in page
    assert f"| version | {cls.info.version} |" in page


@pytest.mark.parametrize("name", IN_TREE)
def test_a_page_holds_every_setting_deviation_and_the_command(name: str, made: dict[str, str]) -> None:
    page = made[f"tokenizers/{name}.md"]
    check_page(page, "tokenizer", name)
    assert f"    bench run --tokenizer {name} --dataset synthetic --budget quick" in page


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_a_recommenders_page_too(name: str, made: dict[str, str]) -> None:
    page, info = made[f"recommenders/{name}.md"], load("recommender", name).info
    check_page(page, "recommender", name)
    tokenizer = "rqkmeans" if info.needs_sids else "none"
    assert f"    bench run --tokenizer {tokenizer} --recommender {name} --dataset synthetic --budget quick\n" in page
    assert f"`{GROUPS[info.task]}.<setting>=<value>`" in page
    assert row(page, "reads SIDs").startswith("yes" if info.needs_sids else "no")
    assert (info.task == "retrieval") == ("| ranks |" in page)


def test_the_page_of_opq_by_hand(made: dict[str, str]) -> None:
    page = made["tokenizers/opq.md"]
    assert "| `init` | random |  | random \\| balanced | random |  | first rotation:" in page
    assert "``U S V^T = svd(X^T Y_hat)``" in page  # equations verbatim
    assert "| positions | unordered |" in page and "| length | fixed |" in page and "| needs | text or vision |" in page
    assert "| `paper` | beauty | code_length=32, codebook_size=256," in page
    assert "| length | varies" in made["tokenizers/adasid.md"] and "| kind | control |" in made["tokenizers/random.md"]


def test_pages_of_recommenders_by_hand(made: dict[str, str]) -> None:
    page = made["recommenders/ntp.md"]
    assert "| `cover` | 100 |  | 1..2^20 |  |  | items a ranking must cover" in page
    assert row(page, "ranks") == "by beam search, down to at least `cover`=100 items beyond the history"
    assert row(page, "source") == "[recommenders/ntp.py](../../recommenders/ntp.py)"
    assert row(page, "task").startswith("retrieval:") and row(made["recommenders/din.md"], "task").startswith("ranking:")
    assert row(made["recommenders/ppnet.md"], "reads SIDs") == "yes, but not with `representation=item_id`"
    assert (
        "    bench run --tokenizer none --recommender ppnet --dataset synthetic --budget quick "
        "ranker.representation=item_id\n" in made["recommenders/ppnet.md"]
    )
    index = made[f"recommenders/{INDEX}"]
    retrieval, ranking = index.split("## Ranking")
    assert "[sasrec](sasrec.md)" in retrieval and "[sasrec]" not in ranking
    assert "[din](din.md)" in ranking and "[din]" not in retrieval


def ranks_with(name: str, **settings: Any) -> TargetRanks:
    """Ranks among 120 items by a model of the smoke budget; of ``settings``, those that it has."""
    cls = load("recommender", name)
    known = {f.name for f in fields(cls.config_class)}
    smoke = {**cls.budgets["smoke"], **{k: v for k, v in {"epochs": 1, **settings}.items() if k in known}}
    codes = np.random.default_rng(0).integers(8, size=(120, 4)).astype(np.int32)  # nearly as many SIDs as items
    data = make_retrieval(n_items=120)
    sids = SemanticIds(codes, np.full(4, 8, np.int32), ordered=True) if cls.info.needs_sids else None
    model = cls(cls.config_class(**smoke)).fit(data, sids, Rng(0), local_runtime())
    ranks: TargetRanks = model.rank_targets(data.test_history, data.test_target, sids, local_runtime())
    return ranks


@pytest.mark.parametrize("name", RETRIEVERS)
def test_what_a_page_says_about_ranking_is_what_the_model_does(name: str, made: dict[str, str]) -> None:
    said = row(made[f"recommenders/{name}.md"], "ranks")
    narrow = {"beam": 1, "n_beams": 4, "cover": 4}
    plain = ranks_with(name, **narrow)
    assert said == EXACT or said.startswith(SEARCH) or BOTH in said
    assert bool((plain.depth == 120).all()) == (EXACT in said)
    assert bool((plain.depth < 120).all()) == said.startswith(SEARCH)
    assert (plain.depth >= 4).all()
    for choice in re.findall(r"`decoding=(\w+)`", said):
        assert (ranks_with(name, **narrow, decoding=choice).depth < 120).all()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1, 1 << 30, "1..2^30"),
        (1, 65_536, "1..65536"),
        (0, 1 << 17, "0..2^17"),
        (1e-8, 1, "1e-08..1"),
        (None, 0.9, "..0.9"),
        (1, 10_000_000, "1..1e+07"),
        (2, 100_000, "2..100000"),
    ],
)
def test_ranges_are_read_by_people(low: float | None, high: float, said: str) -> None:
    assert setting_range({"choices": None, "low": low, "high": high}) == said
    assert setting_number(96) == "96"


def test_presets_of_the_users_home_do_not_enter(home: Path, made: dict[str, str]) -> None:
    mine = home / "presets" / "opq" / "default" / "mine.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('source = "s"\n[tokenizer]\nwhiten = true\n')
    assert tokenizer_page(plugins("tokenizer")["opq"], installed()) == made["tokenizers/opq.md"]
    assert recommender_page(plugins("recommender")["mtp"], installed()) == made["recommenders/mtp.md"]


def test_check_names_what_is_missing_stale_or_left_over(
    tmp_path: Path, made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert {p.relative_to(tmp_path).as_posix() for p in write_pages(made, tmp_path)} == set(made)
    assert compare_pages(made, tmp_path) == {}
    tokens, models = tmp_path / "tokenizers", tmp_path / "recommenders"
    (tokens / "opq.md").write_text("changed")
    (tokens / "random.md").unlink()
    (models / "mtp.md").unlink()
    (tokens / "gone.md").write_text(f"{MARKS['tokenizers']}\nold")
    (models / "lost.md").write_text(f"{MARKS['recommenders']}\nold")
    (models / "notes.md").write_text("by hand")
    (tmp_path / "guide.md").write_text("by hand")
    assert invoke(["plugin", "docs", "--check", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    for line in (
        "opq.md: out of date",
        "random.md: missing",
        "recommenders/mtp.md: missing",
        "bench plugin docs",
        "gone.md: of a tokenizer that is gone",
        "lost.md: of a recommender that is gone",
    ):
        assert line in told
    assert "notes.md" not in told and "guide.md" not in told
    assert invoke(["plugin", "docs", "--out", str(tmp_path)]) == 0
    assert invoke(["plugin", "docs", "--check", "--out", str(tmp_path)]) == 0
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.md")}
    assert left == {*made, "recommenders/notes.md", "guide.md"}


@pytest.mark.parametrize("kind", ["tokenizer", "recommender"])
def test_a_plugin_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    for other in KINDS.values():
        (tmp_path / other.room).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / other.room / "base.py", tmp_path / other.room)
    (tmp_path / KINDS[kind].room / "torn.py").write_text("def (")
    with pytest.raises(InputError, match=f"{kind}s without a page.*torn: line 1"):
        pages(Registry(tmp_path))


def test_the_recommender_of_the_guide_conforms_and_learns_a_chain(tmp_path: Path) -> None:
    guide = (DOCS / "add-a-recommender.md").read_text()
    path = tmp_path / "code_chain.py"
    path.write_text(re.search(r"```python\n(.*?)```", guide, re.DOTALL).group(1))  # type: ignore[union-attr]
    spec = importlib.util.spec_from_file_location("code_chain", path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["code_chain"] = module
    spec.loader.exec_module(module)
    check_recommender(module.CodeChain)
    data, sids = make_retrieval(), make_sids()
    model = module.CodeChain(module.CodeChainConfig()).fit(data, sids, Rng(0), local_runtime())
    better = model.rank_targets(data.test_history, data.test_target, sids, local_runtime()).better
    assert better.mean() < 7  # targets lie one or two steps ahead of 23 items; a random order has 11 above


def test_names_of_the_recommender_guide_exist() -> None:
    guide = (DOCS / "add-a-recommender.md").read_text()
    for room, name in re.findall(r"`((?:blocks|decoding)\.\w+)\.(\w+)`", guide):
        assert hasattr(importlib.import_module(f"sidbench.recommenders.{room}"), name), f"{room}.{name}"
    for link in re.findall(r"\]\(([^)]+)\)", guide):
        assert (DOCS / link).is_file(), link
