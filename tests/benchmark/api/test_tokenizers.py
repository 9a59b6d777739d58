"""A tokenizer of a notebook: settings that are checked, codes as the pipeline makes them, and a folder to keep it in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sidbench as sb
from sidbench.benchmark.api.settings import build_config, changed_settings, override
from sidbench.benchmark.config.compose import parse_override
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.rqkmeans import RqKMeans

FITTED = {"codebook_size": 8, "code_length": 3}


@pytest.fixture(scope="module")
def features() -> ItemFeatures:
    return replace(planted_features(120), provenance="planted")


@pytest.fixture(scope="module")
def fitted(features: ItemFeatures) -> sb.SidTokenizer:
    return sb.tokenizer("rqvae", budget="smoke", **FITTED).fit(features.take(np.arange(100)), seed=1)


@pytest.fixture
def folder(fitted: sb.SidTokenizer, tmp_path: Path) -> Path:
    return fitted.save(tmp_path / "tok")


# -- settings ------------------------------------------------------------------------------------------------------
def test_budget_then_settings() -> None:
    cls = type(sb.tokenizer("rqvae").plugin)
    assert sb.tokenizer("rqvae").config == cls.config_class()
    smoke = sb.tokenizer("rqvae", budget="smoke", beta=1).config
    assert smoke.steps == cls.budgets["smoke"]["steps"] and smoke.beta == 1.0 and isinstance(smoke.beta, float)
    assert sb.tokenizer("rqvae", hidden=[8, 4], codebook_size=np.int64(9)).config.hidden == (8, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rqvea", {}, "did you mean 'rqvae'"),
        ("rqvae", {"codebok_size": 3}, "did you mean 'codebook_size'"),
        ("rqvae", {"codebook_size": "64"}, r"codebook_size; got '64' \(str\); wanted int"),
        ("rqvae", {"codebook_size": 1.5}, "wanted int"),
        ("rqvae", {"codebook_size": True}, "wanted int"),
        ("rqvae", {"restart_dead_codes": 1}, "wanted bool"),
        ("rqvae", {"hidden": [8, "4"]}, r"wanted tuple\[int, ...\]"),
        ("rqvae", {"codebook_size": 0}, "1 <= codebook_size"),
        ("rqvae", {"budget": "smok"}, "did you mean 'smoke'"),
    ],
)
def test_wrong_names_and_types(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(sb.InputError, match=message):
        sb.tokenizer(name, **settings)


@pytest.mark.parametrize(
    "value",
    [
        "x\\\n",
        3,
        -0.5,
        1e-9,
        True,
        None,
        "a b",
        "it's",
        "c:\\x\\",
        "\\'",
        "",
        "null",
        "${x",
        (1, 2),
        ("a,b", "c"),
        (),
        ((1,),),
    ],
)
def test_overrides_read_back(value: Any) -> None:
    if isinstance(value, str) and "${" in value:
        with pytest.raises(sb.InputError):
            parse_override(override("tokenizer.x", value))
        return

    def listed(v: Any) -> Any:
        return [listed(part) for part in v] if isinstance(v, tuple) else v

    found = parse_override(override("tokenizer.x", value)).value()
    assert (found if not hasattr(found, "text") else found.text) == listed(value)


def test_changed_settings_are_those_that_differ_from_the_defaults() -> None:
    @dataclass(frozen=True)
    class Config:
        rows: int = setting(3, "rows")
        widths: list[int] = setting([1], "widths")

    class Plugin:
        config_class = Config
        budgets = {"smoke": {"rows": 1}}

    assert changed_settings(Config()) == {} and changed_settings(Config(4, [1])) == {"rows": 4}
    assert build_config(Plugin, {}, "smoke", "plugin").rows == 1
    assert build_config(Plugin, {"rows": 7}, "smoke", "plugin").rows == 7


# -- fit and encode ------------------------------------------------------------------------------------------------
def test_codes_are_those_of_the_class_with_the_seed_of_a_run(features: ItemFeatures) -> None:
    tok = sb.tokenizer("rqkmeans", **FITTED).fit(features, seed=3)
    runtime = LocalRuntime("cpu")
    own = RqKMeans(tok.config).fit(features, Rng(3).child("tokenizer", "rqkmeans"), runtime)
    assert np.array_equal(tok.encode(features).codes, own.encode(features, runtime).codes)
    assert tok.is_fitted and tok.fit(features, seed=4) is tok  # a second fit starts anew
    assert not np.array_equal(tok.encode(features).codes, own.encode(features, runtime).codes)


def test_new_items_are_read_in_the_scale_of_fit() -> None:
    """Arrays of few or large items have another mean norm, and still the codes that they had among all items."""
    draw = np.random.default_rng(0)
    text = draw.standard_normal((80, 6)) * np.linspace(0.2, 3, 80)[:, None]
    whole = sb.features_from_arrays(text=text, counts=np.ones(80, int))
    tok = sb.tokenizer("rqkmeans", **FITTED).fit(whole)
    codes = tok.encode(whole).codes
    few = sb.features_from_arrays(text=text[70:], counts=np.ones(10, int))
    assert few.scales["text"] > 1.5 * whole.scales["text"]
    found = tok.encode(few)
    assert np.array_equal(found.codes, codes[70:])
    ours = tok.encode(whole).reconstruction["text"][70:] * whole.scales["text"]
    assert np.allclose(found.reconstruction["text"] * few.scales["text"], ours, rtol=1e-5)


def test_what_needs_a_fit_says_so(features: ItemFeatures, tmp_path: Path) -> None:
    tok = sb.tokenizer("opq")
    for use in (lambda: tok.encode(features), lambda: tok.save(tmp_path / "tok")):
        with pytest.raises(sb.InputError, match="call fit"):
            use()
    with pytest.raises(sb.InputError, match="features_from_arrays"):
        tok.fit(np.zeros((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(sb.InputError, match="seed"):
        tok.fit(features, seed=-1)
    assert "not fitted" in repr(tok)


def test_a_class_of_ones_own_is_a_tokenizer(features: ItemFeatures, tmp_path: Path) -> None:
    class Mine(RqKMeans):
        """Residual k-means under a name of its own."""

    tok = sb.tokenizer(Mine, **FITTED).fit(features)
    assert tok.name == "mine"
    tok.save(tmp_path / "tok")
    assert np.array_equal(sb.load_tokenizer(tmp_path / "tok", Mine).encode(features).codes, tok.encode(features).codes)
    with pytest.raises(sb.InputError, match="unknown tokenizer"):
        sb.load_tokenizer(tmp_path / "tok")
    with pytest.raises(sb.InputError, match="wanted the tokenizer of RqKMeans"):
        sb.load_tokenizer(tmp_path / "tok", RqKMeans)


# -- save and load -------------------------------------------------------------------------------------------------
def test_a_saved_tokenizer_gives_equal_codes_also_for_new_items(
    fitted: sb.SidTokenizer, features: ItemFeatures, folder: Path
) -> None:
    loaded = sb.load_tokenizer(folder)
    new = features.take(np.arange(90, 120))
    assert np.array_equal(loaded.encode(new).codes, fitted.encode(new).codes)
    assert (loaded.config, loaded.settings, loaded.diagnostics) == (fitted.config, FITTED, fitted.diagnostics)
    assert {p.name for p in folder.iterdir()} == {"tokenizer.json", "state.safetensors"}
    loaded.save(folder)  # over itself
    assert np.array_equal(sb.load_tokenizer(folder).encode(new).codes, fitted.encode(new).codes)


def test_other_things_are_not_overwritten(fitted: sb.SidTokenizer, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(sb.InputError, match="other things"):
        fitted.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def change(**entries: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        about = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**about, **entries}))

    return changed


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-20])


def other_state(folder: Path) -> None:
    """The state of another plugin in place of the own one, as a copied file."""
    state = load_file(folder / "state.safetensors")
    save_file({f"other.{name}": array for name, array in state.items()}, folder / "state.safetensors")


def other_state_with_its_hash(folder: Path) -> None:
    from sidbench.datasets.foundation.hashing import hash_file

    other_state(folder)
    change(state_sha256=hash_file(folder / "state.safetensors"))(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no tokenizer.json"),
        (lose("tokenizer.json"), "no tokenizer.json"),
        (lose("state.safetensors"), "state.safetensors that is missing"),
        (cut("state.safetensors"), "not the one that was saved"),
        (cut("tokenizer.json"), "cannot read"),
        (other_state, "not the one that was saved"),
        (other_state_with_its_hash, "state"),
        (change(format=2), "update sidbench"),
        (change(format="1"), "format = '1'"),
        (change(version=7), "version 7 of the method"),
        (change(tokenizer="rqvea"), "did you mean 'rqvae'"),
        (change(tokenizer="opq"), "opq"),
        (change(config={"codebook_size": 9, "code_length": 3}), "state"),
        (change(config={"codebok_size": 9}), "did you mean 'codebook_size'"),
        (change(learned={"scales": {"text": "big"}}), "scales"),
        (change(diagnostics={"loss": "x"}), "no numbers"),
        (change(extra=1), "other entries"),
    ],
)
def test_a_folder_that_is_damaged_or_not_its_own(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(sb.InputError, match=message):
        sb.load_tokenizer(folder)
