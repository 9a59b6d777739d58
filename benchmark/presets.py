"""Presets: named settings of a tokenizer for a dataset, with the source they come from.

A preset is a TOML file ``presets/<tokenizer>/<dataset>/<name>.toml`` beside the plugin's own file (so a package of your
own ships its presets beside its module), or below ``$SIDBENCH_HOME``. The dataset ``default`` stands for every dataset
that has no preset of that name. Keys: ``source`` (required: paper and section, or the sweep with its study, trials,
budget and data hash), ``note`` (optional) and the table ``[tokenizer]`` of settings.

A preset is laid over the budget and under the command line's settings. Published presets hold what the paper says about
the method, not the length of training, which is the budget's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidbench.benchmark.home import home_folder
from sidbench.benchmark.records import DEFAULT_SETTINGS
from sidbench.benchmark.registry import Plugin
from sidbench.datasets.foundation.errors import InputError, unknown_name

ANY_DATASET = "default"
FOLDER = "presets"
_KEYS = {"source": str, "note": str, "tokenizer": dict}


@dataclass(frozen=True)
class Preset:
    """Settings of one tokenizer. dataset: for which, or "default". source: where the values come from."""

    name: str
    tokenizer: str
    dataset: str
    path: Path
    source: str
    settings: Mapping[str, Any]
    note: str = ""

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The preset as ``compose_run`` takes it."""
        return {"tokenizer": dict(self.settings)}

    @property
    def label(self) -> str:
        """Name and source in one line, for records."""
        return f"preset {self.name} ({self.dataset}): {self.source}"


def preset_paths(plugin: Plugin) -> dict[tuple[str, str], Path]:
    """(dataset, name) -> file of every preset of a tokenizer, sorted; reads no file.

    Raises ``InputError`` when two places hold a preset of the same name for the same dataset.
    """
    places = [home_folder() / FOLDER / plugin.name]
    if plugin.path is not None:
        places.append(plugin.path.parent / FOLDER / plugin.name)
    found: dict[tuple[str, str], Path] = {}
    for path in (p for place in places for p in sorted(place.glob("*/*.toml"))):
        key = (path.parent.name, path.stem)
        if key in found:
            raise InputError(f"preset {path.stem} of {plugin.name} for {path.parent.name}",
                             got=f"two files, {found[key]} and {path}", wanted="one", do="rename one of them")
        found[key] = path
    return dict(sorted(found.items()))


def read_preset(path: Path) -> Preset:
    """One preset file. Raises ``InputError`` naming the file and the key that is wrong, missing or unknown."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"preset {path}", got=f"{type(error).__name__}: {error}", wanted="a TOML file",
                         do="fix this file") from error
    for key, value in content.items():
        if key not in _KEYS:
            raise unknown_name(f"key in preset {path}", key, _KEYS, do="use one of these keys")
        if not isinstance(value, _KEYS[key]) or not value:
            kind = "a table with a setting" if key == "tokenizer" else "a text"
            raise InputError(f"preset {path}: {key}", got=repr(value), wanted=kind, do="fix this file")
    if missing := [k for k in ("source", "tokenizer") if k not in content]:
        raise InputError(f"preset {path}", got=f"no {' and no '.join(missing)}", do="add it",
                         wanted="the source of its values and a table [tokenizer]")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in content["tokenizer"].items()}
    return Preset(path.stem, path.parent.parent.name, path.parent.name, path, content["source"].strip(), settings,
                  content.get("note", "").strip())


def presets_of(plugin: Plugin) -> list[Preset]:
    """Every preset of a tokenizer, by dataset and name. Raises ``InputError`` for a file that cannot be used."""
    return [read_preset(path) for path in preset_paths(plugin).values()]


def find_preset(plugin: Plugin, dataset: str, name: str) -> Preset | None:
    """The preset ``name`` of a tokenizer for ``dataset``, else the one for every dataset, else ``None``."""
    paths = preset_paths(plugin)
    chosen = paths.get((dataset, name), paths.get((ANY_DATASET, name)))
    return None if chosen is None else read_preset(chosen)


def choose_presets(plugins: Mapping[str, Plugin], dataset: str, name: str) -> tuple[dict[str, Preset], tuple[str, ...]]:
    """Tokenizer -> its preset ``name`` for ``dataset``, and a line for every tokenizer that has none.

    Several tokenizers: those without the preset run with their defaults and the line says so. Raises ``InputError``
    when no tokenizer has it, naming the presets there are.
    """
    found = {n: p for n, plugin in plugins.items() if (p := find_preset(plugin, dataset, name)) is not None}
    if not found:
        known = sorted({f"{preset} ({n}, {data})" for n, plugin in plugins.items()
                        for data, preset in preset_paths(plugin) if data in (dataset, ANY_DATASET)})
        raise InputError(f"preset {name!r} of {', '.join(plugins)} for {dataset}", got="no such preset",
                         wanted=f"one of {', '.join(known)}" if known else "a tokenizer with presets",
                         do="leave --preset out for the defaults, or see `bench show tokenizer NAME`")
    lacking = [n for n in plugins if n not in found]
    return found, tuple(f"tokenizer {n} has no preset {name!r} for {dataset} and runs with its defaults" for n in lacking)


def settings_source(preset: Preset | None, overrides: Sequence[str] = ()) -> str:
    """Where a tokenizer's settings come from, for its record; ``overrides`` are those of the command line."""
    source = DEFAULT_SETTINGS if preset is None else preset.label
    changed = [o.partition("=")[0].removeprefix("tokenizer.") for o in overrides if o.startswith("tokenizer.")]
    return f"{source}; on the command line: {', '.join(changed)}" if changed else source
