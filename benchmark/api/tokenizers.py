"""One tokenizer in a notebook: ``fit`` and ``encode`` on features, with the seeds and the runtime of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from sidbench.benchmark.api.features import factors, rescaled
from sidbench.benchmark.api.saving import Saved, read_tokenizer, write_tokenizer
from sidbench.benchmark.api.settings import build_config
from sidbench.benchmark.plugins.live import installed_name, live_name, registered
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import default_reporter
from sidbench.benchmark.runtime.sharding import encode_catalogue
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.tokenizers.base import SemanticIds, Tokenizer


class SidTokenizer:
    """A tokenizer with its settings, before or after ``fit``. Made by ``sidbench.tokenizer`` and ``load_tokenizer``.

    name: of the plugin. config: its settings, a frozen dataclass. settings: those that were given by the caller. plugin:
    the tokenizer itself. diagnostics: numbers about the fit that only the method knows, empty before ``fit``.
    """

    def __init__(self, name: str, plugin: Tokenizer, settings: Mapping[str, Any]) -> None:
        self.name, self.plugin, self.settings = name, plugin, dict(settings)
        self.diagnostics: dict[str, float] = {}
        self._learned: dict[str, Any] | None = None  # where the state comes from, for the saved file

    @property
    def config(self) -> Any:
        return self.plugin.config

    @property
    def is_fitted(self) -> bool:
        return self._learned is not None

    def fit(self, features: ItemFeatures, seed: int = 0, device: str = "auto") -> Self:
        """Learn from ``features`` what a run with this seed, these settings and these features learns; returns itself.

        device: "auto", "cpu" or "cuda". Raises ``InputError`` for features that the method cannot use.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError("seed", got=repr(seed), wanted="a whole number from 0")
        runtime = LocalRuntime(device, reporter=default_reporter())
        self._learned = None
        self.plugin = type(self.plugin)(self.config)  # a second fit starts anew
        self.plugin.fit(_checked(features), Rng(int(seed)).child("tokenizer", self.name), runtime)
        self.diagnostics = {n: float(v) for n, v in self.plugin.diagnostics().items() if np.isfinite(v)}
        self._learned = {
            "seed": int(seed),
            "features": features.provenance,
            "n_items": features.n_items,
            "scales": {name: float(scale) for name, scale in features.scales.items()},
        }
        return self

    def encode(self, features: ItemFeatures, device: str = "auto") -> SemanticIds:
        """SIDs of all items in ``features``, which need not be those of ``fit``. Raises ``InputError`` before ``fit``.

        Embeddings are first brought to the scale of ``fit``, since other items have another mean norm; reconstructions
        come back in the scale of ``features``.
        """
        scales = self._fitted("encode")["scales"]
        there, back = factors(_checked(features).scales, scales), factors(scales, features.scales)
        seen = replace(features, modalities=rescaled(features.modalities, there)) if there else features
        sids = encode_catalogue(self.plugin, seen, LocalRuntime(device, reporter=default_reporter()))
        sids.check(features.n_items, f"tokenizer {self.name}")
        return replace(sids, reconstruction=rescaled(sids.reconstruction, back)) if there else sids

    def save(self, folder: str | Path) -> Path:
        """Write settings and learned state into ``folder``, as JSON and safetensors; returns the folder.

        A folder that holds an earlier saved tokenizer is replaced. Raises ``InputError`` before ``fit``, and for a
        folder with anything else in it.
        """
        learned = self._fitted("save")
        saved = Saved(self.name, self.config, self.settings, self.plugin.state_dict(), self.diagnostics, learned)
        return write_tokenizer(saved, Path(folder), self.plugin)

    def _fitted(self, what: str) -> dict[str, Any]:
        if self._learned is None:
            raise InputError(f"{what} of {self.name}", got="a tokenizer without fit", wanted="a fitted one", do="call fit")
        return self._learned

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"<sidbench.tokenizer({self.name!r}{given}), {'fitted' if self.is_fitted else 'not fitted'}>"


def tokenizer(name: str | type[Tokenizer], *, budget: str | None = None, **settings: Any) -> SidTokenizer:
    """The tokenizer ``name`` of ``list_tokenizers()``, or a class of one's own, with these settings.

    budget: steps and sizes as of ``bench run --budget``, under ``settings``; ``None`` for the defaults of the class.
    Raises ``InputError`` for an unknown name or setting (the nearest one is named), and for a value of the wrong type or
    out of its range.
    """
    if isinstance(name, type):
        known = installed_name(name, installed())
        with registered([] if known else [name]):  # refuses classes that could not run either
            cls, name = name, known or live_name(name)
    else:
        cls, name = installed().load("tokenizer", name), installed().find("tokenizer", name).name
    return SidTokenizer(name, cls(build_config(cls, settings, budget, f"tokenizer {name}")), settings)


def load_tokenizer(folder: str | Path, cls: type[Tokenizer] | None = None) -> SidTokenizer:
    """A tokenizer that ``save`` wrote, ready to ``encode``. Reads JSON and safetensors only, never code.

    cls: the class, where it is one of a notebook that is not registered. Raises ``InputError`` for a folder that is
    damaged or was written by another version, and for a state that the tokenizer cannot take.
    """
    saved, plugin = read_tokenizer(Path(folder), cls)
    loaded = SidTokenizer(saved.name, plugin, saved.settings)
    loaded.diagnostics, loaded._learned = dict(saved.diagnostics), dict(saved.learned)
    return loaded


def _checked(features: ItemFeatures) -> ItemFeatures:
    if not isinstance(features, ItemFeatures):
        raise InputError(
            "features",
            got=type(features).__name__,
            wanted="ItemFeatures",
            do="make them with sidbench.features_from_arrays(text=...)",
        )
    return features
