"""Presets: named settings of a tokenizer for a dataset, with the source they come from.

A preset is a TOML file ``presets/<tokenizer>/<dataset>/<name>.toml`` beside the plugin's own file (so a package of your
own ships its presets beside its module), or below ``$SIDBENCH_HOME``. The dataset ``default`` stands for every dataset
that has no preset of that name. Keys: ``source`` (required: paper and section, or the sweep with its study, trials,
budget and data hash), ``note`` (optional) and the table ``[tokenizer]`` of settings. A preset from a sweep has the table
``[effort]`` with ``trials`` and their ``seconds`` and, where it searched settings of recommenders too, a table
``[recommender.<name>]`` for each, which counts in runs of that recommender only.

A preset is laid over the budget and under the command line's settings. Published presets hold what the paper says about
the method, not the length of training, which is the budget's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidbench.benchmark.plugins.registry import Plugin, installed
from sidbench.benchmark.store.paths import home_folder
from sidbench.benchmark.store.records import DEFAULT_SETTINGS
from sidbench.datasets.foundation.errors import InputError, unknown_name

ANY_DATASET = "default"
FOLDER = "presets"
TUNED = "tuned"
MAX_BYTES = 1 << 20
_KEYS = {"source": str, "note": str, "tokenizer": dict, "recommender": dict, "effort": dict}
_TABLES = {
    "tokenizer": "a table with a setting",
    "recommender": "a table [recommender.<name>] with a setting",
    "effort": "a table of numbers",
}
_GROUPS = {"retrieval": "retriever", "ranking": "ranker"}
EFFORT = ("trials", "seconds")


@dataclass(frozen=True)
class Preset:
    """Settings of one tokenizer. dataset: for which, or "default". source: where the values come from. others: settings
    of other groups of the run, which preset files do not have but records do. recommenders: settings of each, for runs
    of it. effort: what finding the values cost, `EFFORT`."""

    name: str
    tokenizer: str
    dataset: str
    path: Path
    source: str
    settings: Mapping[str, Any]
    note: str = ""
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recommenders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effort: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """As ``--preset`` names it."""
        return self.name

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The preset as ``compose_run`` takes it."""
        own = {"tokenizer": dict(self.settings)} if self.settings else {}
        return own | {group: dict(fields) for group, fields in self.others.items()}

    def groups_for(self, recommenders: Sequence[str]) -> dict[str, dict[str, Any]]:
        """``groups`` with the preset's settings of those recommenders that run."""
        found = self.groups
        for name in recommenders:
            if name in self.recommenders:
                group = _GROUPS[str(installed().find("recommender", name).info["task"])]
                found[group] = {**dict(self.recommenders[name]), **found.get(group, {})}
        return found

    @property
    def label(self) -> str:
        """Name and source in one line, for records."""
        return f"preset {self.name} ({self.dataset}): {self.source}"


def preset_paths(plugin: Plugin) -> dict[tuple[str, str], Path]:
    """(dataset, name) -> file of every preset of a tokenizer, sorted; reads no file.

    One's own ``TUNED``, which `bench sweep apply` wrote, stands in for that of the project; its study is named on records.
    Raises ``InputError`` when two places hold any other preset of the same name for the same dataset.
    """
    places = [home_folder() / FOLDER / plugin.name]
    if plugin.path is not None:
        places.append(plugin.path.parent / FOLDER / plugin.name)
    found: dict[tuple[str, str], Path] = {}
    for path in (p for place in places for p in sorted(place.glob("*/*.toml"))):
        key = (path.parent.name, path.stem)
        if key in found and path.stem != TUNED:
            raise InputError(
                f"preset {path.stem} of {plugin.name} for {path.parent.name}",
                got=f"two files, {found[key]} and {path}",
                wanted="one",
                do="rename one of them",
            )
        found.setdefault(key, path)
    return dict(sorted(found.items()))


def read_preset(path: Path) -> Preset:
    """One preset file. Raises ``InputError`` naming the file and the key that is wrong, missing or unknown."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        content = tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the errors of TOML and of UTF-8 are ValueErrors
        raise InputError(
            f"preset {path}", got=f"{type(error).__name__}: {error}", wanted="a TOML file", do="fix this file"
        ) from error
    for key, value in content.items():
        if key not in _KEYS:
            raise unknown_name(f"key in preset {path}", key, _KEYS, do="use one of these keys")
        if not isinstance(value, _KEYS[key]) or not value:
            raise InputError(f"preset {path}: {key}", got=repr(value), wanted=_TABLES.get(key, "a text"), do="fix this file")
    lacking = {"source": "source" not in content, "tokenizer": not content.keys() & {"tokenizer", "recommender"}}
    if missing := [key for key, lacks in lacking.items() if lacks]:
        raise InputError(
            f"preset {path}",
            got=f"no {' and no '.join(missing)}",
            do="add it",
            wanted="the source of its values and a table [tokenizer]",
        )
    recommenders = content.get("recommender", {})
    for name, fields in recommenders.items():
        if not isinstance(fields, dict) or not fields:
            raise InputError(
                f"preset {path}: recommender.{name}", got=repr(fields), wanted=_TABLES["recommender"], do="fix this file"
            )
    effort = content.get("effort", {})
    for name, value in effort.items():
        if name not in EFFORT or isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
            raise InputError(
                f"preset {path}: effort.{name}",
                got=repr(value),
                wanted=f"numbers {' and '.join(EFFORT)}",
                do="fix this file",
            )
    settings = _settings(content.get("tokenizer", {}))
    return Preset(
        path.stem,
        path.parent.parent.name,
        path.parent.name,
        path,
        content["source"].strip(),
        settings,
        content.get("note", "").strip(),
        recommenders={n: _settings(f) for n, f in recommenders.items()},
        effort={name: float(value) for name, value in effort.items()},
    )


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as configs hold them: TOML knows arrays, configs tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


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
        known = sorted(
            {
                f"{preset} ({n}, {data})"
                for n, plugin in plugins.items()
                for data, preset in preset_paths(plugin)
                if data in (dataset, ANY_DATASET)
            }
        )
        raise InputError(
            f"preset {name!r} of {', '.join(plugins)} for {dataset}",
            got="no such preset",
            wanted=f"one of {', '.join(known)}" if known else "a tokenizer with presets",
            do="leave --preset out for the defaults, or see `bench show tokenizer NAME`",
        )
    lacking = [n for n in plugins if n not in found]
    return found, tuple(f"tokenizer {n} has no preset {name!r} for {dataset} and runs with its defaults" for n in lacking)


def settings_source(preset: Preset | None, overrides: Sequence[str] = ()) -> str:
    """Where a tokenizer's settings come from, for its record; ``overrides`` are those of a command line
    or of ``sidbench.run``."""
    source = DEFAULT_SETTINGS if preset is None else preset.label
    changed = [o.partition("=")[0].removeprefix("tokenizer.") for o in overrides if o.startswith("tokenizer.")]
    return f"{source}; set by hand: {', '.join(changed)}" if changed else source
