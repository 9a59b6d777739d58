"""Classes in memory as plugins: names, refusals, and fingerprints that no edit escapes."""

from __future__ import annotations

import linecache
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sidbench.benchmark.plugins.identity import plugin_code, plugin_version
from sidbench.benchmark.plugins.live import LIVE, live_name, live_plugin, register, registered
from sidbench.benchmark.plugins.live_code import Unknown, live_fingerprint
from sidbench.benchmark.plugins.registry import find, installed, load
from sidbench.datasets.foundation.errors import InputError
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerInfo
from sidbench.tokenizers.opq import Opq

CELL = """
from dataclasses import dataclass
import numpy as np
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo

SHIFT = 0
UNUSED = 0
TABLE = np.arange(4)

def helper(codes):
    return codes + SHIFT

@dataclass(frozen=True)
class MineConfig(TokenizerConfig):
    width: int = setting(3, "columns", low=1)

class Mine(Tokenizer):
    info = TokenizerInfo(title="Mine", paper="none", year=2026, modalities=(), ordered=False)
    config_class = MineConfig
    budgets = {"smoke": {"width": 2}}

    def fit(self, features, rng, runtime):
        return self

    def encode(self, features, runtime):
        rows = helper(np.zeros((features.n_items, 1), np.int32))
        return SemanticIds(rows, np.full(1, len(TABLE), np.int32), ordered=False)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        (lambda: state)()
"""


def run_cell(text: str, number: int = 1, known: bool = True) -> dict[str, Any]:
    """Execute a cell as a notebook does: its text is in the line cache (``known``), its module is ``__main__``."""
    name = f"<cell {number}>"
    if known:
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), space)  # noqa: S102 - the test's own text
    return space


def fingerprint(text: str, number: int = 1) -> str:
    return live_fingerprint(run_cell(text, number)["Mine"])


def test_equal_cells_have_equal_fingerprints() -> None:
    assert fingerprint(CELL) == fingerprint(CELL, 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rows = helper(", "rows = 1 + helper("),  # the method
        ("return codes + SHIFT", "return codes - SHIFT"),  # a function it calls
        ("SHIFT = 0", "SHIFT = 1"),  # a global that this function reads
        ("np.arange(4)", "np.arange(5)"),  # an array
        ('setting(3, "columns"', 'setting(4, "columns"'),  # a default of its settings
        ("low=1", "low=2"),
        ('{"width": 2}', '{"width": 1}'),  # a budget
        ("(lambda: state)()", "(lambda: dict(state))()"),  # a function inside a function
    ],
)
def test_an_edit_changes_the_fingerprint(old: str, new: str) -> None:
    assert old in CELL
    assert fingerprint(CELL) != fingerprint(CELL.replace(old, new))


def test_what_the_class_does_not_use_leaves_the_fingerprint() -> None:
    assert fingerprint(CELL) == fingerprint(CELL.replace("UNUSED = 0", "UNUSED = 1"))


def test_code_that_was_edited_on_disk_but_runs_unedited_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran before the edit must not be found by what runs after it, though both see the same text."""
    path = tmp_path / "mine_on_disk.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    edited = CELL.replace("return codes + SHIFT", "return codes * SHIFT")

    def imported() -> ModuleType:
        sys.modules.pop("mine_on_disk", None)
        linecache.clearcache()
        return __import__("mine_on_disk")

    path.write_text(CELL)
    old = imported()
    before = live_fingerprint(old.Mine)
    path.write_text(edited)
    stale = live_fingerprint(old.Mine)
    path.with_name("__pycache__").rename(tmp_path / "old_cache") if path.with_name("__pycache__").exists() else None
    after = live_fingerprint(imported().Mine)
    sys.modules.pop("mine_on_disk")
    assert len({before, stale, after}) == 3


def test_helpers_in_the_users_own_module_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    cell = CELL.replace("def helper(codes):\n    return codes + SHIFT", "import own_helpers\nhelper = own_helpers.helper")
    found = []
    for body in ("codes", "codes + 1"):
        sys.modules.pop("own_helpers", None)
        (tmp_path / f"{len(found)}").mkdir()
        monkeypatch.syspath_prepend(str(tmp_path / f"{len(found)}"))
        (tmp_path / f"{len(found)}" / "own_helpers.py").write_text(f"def helper(codes):\n    return {body}\n")
        found.append(fingerprint(cell))
    sys.modules.pop("own_helpers")
    assert found[0] != found[1]


def test_without_source_nothing_is_reused_and_a_warning_says_so() -> None:
    cls = run_cell(CELL, 99, known=False)["Mine"]
    with pytest.raises(Unknown, match="has no source"):
        live_fingerprint(cls)
    with pytest.warns(UserWarning, match="nothing of it is kept"):
        first = live_plugin(cls)
    with pytest.warns(UserWarning):
        assert live_plugin(cls).fingerprint != first.fingerprint


def test_a_class_that_exec_made_without_a_module_is_no_builtin() -> None:
    space: dict[str, Any] = {}
    exec(CELL, space)  # noqa: S102 - the test's own text
    with pytest.raises(Unknown):
        live_fingerprint(space["Mine"])


def test_a_value_that_cannot_be_told_is_named() -> None:
    cell = CELL.replace("SHIFT = 0", "SHIFT = open('/dev/null')")
    with pytest.raises(Unknown, match="global SHIFT.*TextIOWrapper"):
        fingerprint(cell)


class Sums(Tokenizer):
    """Sums of text embeddings, cut into bins."""

    info = TokenizerInfo(title="Sums", paper="none", year=2026, modalities=("text",), ordered=False)

    def fit(self, features: Any, rng: Any, runtime: Any) -> Sums:
        return self

    def encode(self, features: Any, runtime: Any) -> SemanticIds:
        codes = np.zeros((features.n_items, 1), np.int32)
        return SemanticIds(codes, np.full(1, 2, np.int32), ordered=False)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def test_names() -> None:
    names = [live_name(type(n, (), {})) for n in ("MyTokenizer", "OPQ", "RQVAEPlus", "Das2")]
    assert names == ["my_tokenizer", "opq", "rqvae_plus", "das2"]


def test_a_registered_class_is_found_loaded_and_forgotten() -> None:
    with registered([Sums]):
        plugin = find("tokenizer", "sums")
        assert plugin.source == LIVE and plugin.title == "Sums" and load("tokenizer", "sums") is Sums
        assert plugin_code("tokenizer", "sums") == plugin.fingerprint == live_fingerprint(Sums)
        assert plugin_version("tokenizer", "sums") == f"1+{plugin.fingerprint[:12]}"
    with pytest.raises(InputError, match="unknown tokenizer"):
        find("tokenizer", "sums")


def test_what_was_registered_before_comes_back() -> None:
    try:
        assert register(Sums) is Sums
        with registered([Sums]):
            pass
        assert load("tokenizer", "sums") is Sums
    finally:
        installed().forget("tokenizer", "sums")


def test_two_classes_of_one_name_are_refused() -> None:
    again = type("Sums", (Sums,), {"__module__": __name__})
    with pytest.raises(InputError, match="two classes of this name"), registered([Sums, again]):
        pass
    taken = type("Opq", (Opq,), {"__module__": __name__})
    with pytest.raises(InputError, match=r"two classes of this name.*opq\.py"), registered([taken]):
        pass
    assert load("tokenizer", "opq") is Opq


def test_a_cell_that_is_run_again_replaces_its_class() -> None:
    try:
        register(run_cell(CELL)["Mine"])
        latest = register(run_cell(CELL.replace("SHIFT = 0", "SHIFT = 1"), 2)["Mine"])
        assert load("tokenizer", "mine") is latest
    finally:
        installed().forget("tokenizer", "mine")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (type("Plain", (), {}), "extends Tokenizer or Recommender"),
        (type("Half", (Tokenizer,), {"info": Sums.info}), "without encode, fit"),
        (type("Silent", (Sums,), {"info": None}), "info = TokenizerInfo"),
        (type("Größe", (Sums,), {}), "letters, digits and _"),
    ],
)
def test_classes_that_are_no_plugins(cls: type[Any], message: str) -> None:
    with pytest.raises(InputError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live_plugin(cls)
