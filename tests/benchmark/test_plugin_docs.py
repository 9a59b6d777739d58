"""The committed pages of the tokenizers are what their source says, and the generator says it faithfully."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from sidbench.benchmark.cli import invoke
from sidbench.benchmark.plugin_docs import INDEX, MARK, compare_pages, pages, tokenizer_page, write_pages
from sidbench.benchmark.registry import KINDS, ROOT, Registry, installed, load, plugins
from sidbench.datasets.foundation.errors import InputError

COMMITTED = ROOT / "docs" / "tokenizers"
IN_TREE = [n for n, p in plugins("tokenizer").items() if p.source == "sidbench"]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def test_the_committed_pages_are_up_to_date(made: dict[str, str]) -> None:
    assert compare_pages(made, COMMITTED) == {}, "run `make docs`"


def test_there_is_a_page_for_every_tokenizer_and_the_index_names_them_all(made: dict[str, str]) -> None:
    assert set(made) == {f"{n}.md" for n in IN_TREE} | {INDEX}
    assert all(f"[{n}]({n}.md)" in made[INDEX] for n in IN_TREE)


@pytest.mark.parametrize("name", IN_TREE)
def test_a_page_holds_every_setting_deviation_and_the_command(name: str, made: dict[str, str]) -> None:
    page, cls = made[f"{name}.md"], load("tokenizer", name)
    assert page.startswith(MARK) and f"# {cls.info.title}\n" in page
    assert f"    bench run --tokenizer {name} --dataset synthetic --budget quick" in page
    for field in fields(cls.config_class):
        assert f"| `{field.name}` |" in page
    assert page.count("\n- ") >= len(cls.info.deviations)
    widths = {line.replace(r"\|", "").count("|") for line in page.split("## Settings")[1].split("## Budgets")[0].splitlines()
              if line.startswith("|")}
    assert widths == {8}  # a bar in a cell is escaped
    assert str(ROOT) not in page and "/home/" not in page


def test_the_page_of_opq_by_hand(made: dict[str, str]) -> None:
    page = made["opq.md"]
    assert "| `init` | random |  | random \\| balanced | random |  | first rotation:" in page
    assert "``U S V^T = svd(X^T Y_hat)``" in page  # equations verbatim
    assert "| positions | unordered |" in page and "| length | fixed |" in page and "| needs | text or vision |" in page
    assert "| `paper` | beauty | code_length=32, codebook_size=256," in page
    assert "| length | varies" in made["adasid.md"] and "| kind | control |" in made["random.md"]


def test_presets_of_the_users_home_do_not_enter(home: Path, made: dict[str, str]) -> None:
    mine = home / "presets" / "opq" / "default" / "mine.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('source = "s"\n[tokenizer]\nwhiten = true\n')
    assert tokenizer_page(plugins("tokenizer")["opq"], installed()) == made["opq.md"]


def test_check_names_what_is_missing_stale_or_left_over(tmp_path: Path, made: dict[str, str],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert {p.name for p in write_pages(made, tmp_path)} == set(made)
    assert compare_pages(made, tmp_path) == {}
    (tmp_path / "opq.md").write_text("changed")
    (tmp_path / "random.md").unlink()
    (tmp_path / "gone.md").write_text(f"{MARK}\nold")
    (tmp_path / "notes.md").write_text("by hand")
    assert invoke(["plugin", "docs", "--check", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    for line in ("opq.md: out of date", "random.md: missing", "gone.md: of a tokenizer that is gone", "bench plugin docs"):
        assert line in told
    assert "notes.md" not in told
    assert invoke(["plugin", "docs", "--out", str(tmp_path)]) == 0
    assert invoke(["plugin", "docs", "--check", "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {*made, "notes.md"}


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for kind in KINDS.values():
        (tmp_path / kind.room).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / kind.room / "base.py", tmp_path / kind.room)
    (tmp_path / "tokenizers" / "torn.py").write_text("def (")
    with pytest.raises(InputError, match="torn: line 1"):
        pages(Registry(tmp_path))
