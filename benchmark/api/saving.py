"""A fitted tokenizer as a folder: ``tokenizer.json`` (what it is) and ``state.safetensors`` (what it learned)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sidbench.benchmark.api.settings import build_config
from sidbench.benchmark.plugins.live import installed_name, live_name
from sidbench.benchmark.plugins.registry import installed
from sidbench.datasets.foundation.disk import storing
from sidbench.datasets.foundation.errors import InputError, SidbenchError
from sidbench.datasets.foundation.hashing import canonical_json, hash_file
from sidbench.datasets.foundation.strict_json import read_json
from sidbench.tokenizers.base import Tokenizer

FORMAT = 1  # of the folder; raised when a reader of today could not use it
ABOUT, STATE = "tokenizer.json", "state.safetensors"
_KEYS: Mapping[str, type] = {
    "format": int,
    "tokenizer": str,
    "version": int,
    "config": dict,
    "settings": dict,
    "diagnostics": dict,
    "learned": dict,
    "state_sha256": str,
}


@dataclass(frozen=True)
class Saved:
    """A tokenizer as it is kept. settings: those the user gave. learned: seed, and features,
    number of items and scales of the fit."""

    name: str
    config: Any
    settings: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    diagnostics: Mapping[str, float]
    learned: Mapping[str, Any]


def write_tokenizer(saved: Saved, folder: Path, plugin: Tokenizer) -> Path:
    """Write beside ``folder`` and rename, so that it is whole or absent; returns it. Raises as ``SidTokenizer.save``."""
    if folder.exists() and not (folder.is_dir() and ({p.name for p in folder.iterdir()} <= {ABOUT, STATE})):
        raise InputError(
            f"folder {folder}",
            got="a file, or a folder with other things in it",
            wanted="a new folder, or that of an earlier saved tokenizer",
            do="choose another folder",
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.saving")
    with storing(f"tokenizer {saved.name}", folder.parent):
        try:
            partial.mkdir(parents=True)
            save_file({name: np.asarray(a, order="C") for name, a in saved.state.items()}, partial / STATE)
            about = {
                "format": FORMAT,
                "tokenizer": saved.name,
                "version": plugin.info.version,
                "config": json.loads(canonical_json(saved.config)),
                "settings": json.loads(canonical_json(saved.settings)),
                "diagnostics": saved.diagnostics,
                "learned": saved.learned,
                "state_sha256": hash_file(partial / STATE),
            }
            (partial / ABOUT).write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def read_tokenizer(folder: Path, cls: type[Tokenizer] | None) -> tuple[Saved, Tokenizer]:
    """What ``write_tokenizer`` wrote, and the tokenizer with its state. Raises ``InputError`` as ``load_tokenizer``."""
    about = _about(folder)
    name = about["tokenizer"]
    if cls is not None and name != (installed_name(cls, installed()) or live_name(cls)):
        raise InputError(f"tokenizer in {folder}", got=name, wanted=f"the tokenizer of {cls.__name__}")
    cls = installed().load("tokenizer", name) if cls is None else cls
    config = build_config(cls, about["config"], None, f"tokenizer {name} in {folder}")
    plugin: Tokenizer = cls(config)
    if about["version"] != plugin.info.version:
        raise InputError(
            f"tokenizer {name} in {folder}",
            got=f"version {about['version']} of the method",
            wanted=f"version {plugin.info.version}, which is installed and computes other codes",
            do="fit it again, or install the release that saved it",
        )
    if not (folder / STATE).is_file() or hash_file(folder / STATE) != about["state_sha256"]:
        raise _damaged(folder, f"a {STATE} that is missing or not the one that was saved")
    try:
        state = load_file(folder / STATE)
        plugin.load_state_dict(state)
    except InputError:
        raise
    except (SafetensorError, SidbenchError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(folder, f"a state that {name} cannot take ({type(error).__name__}: {str(error)[:120]})") from error
    return Saved(name, config, about["settings"], state, about["diagnostics"], about["learned"]), plugin


def _about(folder: Path) -> dict[str, Any]:
    """The checked content of ``tokenizer.json``."""
    if not (folder / ABOUT).is_file():
        raise InputError(f"folder {folder}", got=f"no {ABOUT}", wanted="a folder that SidTokenizer.save wrote")
    about = read_json(folder / ABOUT, wanted="what SidTokenizer.save wrote", do="fit and save the tokenizer again")
    form = about.get("format") if isinstance(about, dict) else None
    if type(form) is int and form != FORMAT:
        raise InputError(
            f"tokenizer in {folder}",
            got=f"format {form}",
            wanted=f"format {FORMAT}",
            do="update sidbench" if form > FORMAT else "fit and save the tokenizer again",
        )
    if not isinstance(about, dict) or about.keys() != _KEYS.keys():
        raise _damaged(folder, f"other entries in {ABOUT}")
    for key, kind in _KEYS.items():
        if type(about[key]) is not kind:
            raise _damaged(folder, f"{key} = {about[key]!r}"[:120])
    scales = about["learned"].get("scales")
    numbers = [*about["diagnostics"].values(), *(scales.values() if isinstance(scales, dict) else [None])]
    if not all(type(v) in (int, float) for v in numbers) or min(scales.values(), default=1) <= 0:
        raise _damaged(folder, "diagnostics or scales that are no numbers")
    return about


def _damaged(folder: Path, got: str) -> InputError:
    return InputError(
        f"tokenizer in {folder}", got=got, wanted="what SidTokenizer.save wrote", do="fit and save the tokenizer again"
    )
