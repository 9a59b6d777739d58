"""Imported SIDs: a table of codes made elsewhere, ranked like any other tokenizer without training it again.

Published indices (LETTER's and LC-Rec's ``*.index.json``, GRID's saved tensors), csv, JSON and what ``bench sids export``
writes are read by ``tokenizers/sid_tables``. Rows are matched to the catalogue by item key or by row number; an item that
the table lacks is an error, or (``missing=share``) stays in every metric with one SID that all such items share.

This is the one stage that reads a file: ``fit`` does, and ``content_files`` names it, so that its bytes and not its path
decide whether a cached result is used. ``code_length``, ``codebook_size`` and ``fit_items`` do not apply: the table says
how long SIDs are, and the file (or ``sizes``) how many codes a position has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import PAD, SemanticIds, Tokenizer, TokenizerConfig, TokenizerInfo
from sidbench.tokenizers.blocks.training.content import state_entry
from sidbench.tokenizers.sid_tables.files import LAYOUTS, READ_FORMATS, read_table
from sidbench.tokenizers.sid_tables.matching import EXTRA, IDENTITIES, MISSING, Matched, check_matched, match_rows
from sidbench.tokenizers.sid_tables.table import SidTable, looks_offset

INFO = TokenizerInfo(
    title="Imported SIDs",
    version=1,
    paper="",
    modalities=(),
    ordered=True,
    variable_length=True,
    needs_settings=("path",),
    deviations=(
        "Codes come from a file: how they were made, on which data and with which budget, is not known here.",
        "An item that the table lacks cannot be encoded from its content.",
    ),
)


@dataclass(frozen=True)
class ImportedConfig(TokenizerConfig):
    """Where the table lies and how it is to be read."""

    path: str = setting("", "file with the SID table")
    format: str = setting(
        "auto", "format of the file; auto goes by its name, and for JSON by its content", choices=("auto", *READ_FORMATS)
    )
    ordered: bool = setting(True, "whether a position is meaningful only given those before it (residual codes)")
    keys: str = setting("auto", "what the file's keys are: item keys, or row numbers of the catalogue", choices=IDENTITIES)
    layout: str = setting("auto", "axes of a saved tensor; auto goes by the size of the catalogue", choices=LAYOUTS)
    sizes: tuple[int, ...] = setting(
        (), "codebook size of each position; empty: as the file says, else the largest code plus one", unit="codes"
    )
    missing: str = setting("refuse", "items that the table lacks: an error, or one SID that they share", choices=MISSING)
    extra: str = setting(
        "refuse", "rows of items that the catalogue lacks: an error, or kept for items that come later", choices=EXTRA
    )

    def content_files(self) -> tuple[str, ...]:
        """The table's file. Raises ``InputError`` when none is set or it is not there."""
        if not self.path:
            raise InputError(
                "imported: path", got="nothing", wanted="the file with the SID table", do="set tokenizer.path=FILE"
            )
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise InputError(
                f"imported: {path}", got="no file of that name", wanted="a SID table", do="check tokenizer.path"
            )
        return (str(path),)


class Imported(Tokenizer):
    """Imported SIDs.

    codes_: int32 ``[M, L]`` rows of the table; keys_: their item keys, ``None`` when rows stand in catalogue order;
    sizes_: int32 ``[L]``; n_shared_: items of the catalogue without a row at fit, which share one SID (0 for none).
    """

    info = INFO
    itemwise = False
    config_class = ImportedConfig
    expected_failures = {
        "one code": "the table says how many codes there are",
        "more codes than items": "the table says how many codes there are",
    }
    codes_: np.ndarray
    keys_: tuple[str, ...] | None
    sizes_: np.ndarray
    weights_: np.ndarray | None
    n_shared_: int

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: ImportedConfig = self.config
        where = c.content_files()[0]
        table = read_table(Path(where), c.format, n_items=features.n_items, layout=c.layout)
        if c.sizes:
            table = table.with_sizes(c.sizes, f"{self.name}: sizes")
        if table.ordered is not None and table.ordered != c.ordered:
            raise InputError(
                f"{self.name}: {where} holds {'' if table.ordered else 'un'}ordered SIDs",
                got=f"ordered={str(c.ordered).lower()}",
                wanted=f"ordered={str(table.ordered).lower()}",
                do=f"set tokenizer.ordered={str(table.ordered).lower()}",
            )
        matched = match_rows(table, features.item_keys, features.n_items, c.keys, where)
        check_matched(matched, table, features.item_keys, where, missing=c.missing, extra=c.extra)
        if not table.sizes_stated and looks_offset(table):
            runtime.warn(
                f"{self.name}: codes of {where} count on from position to position, so every codebook but the first "
                "seems larger than it is; subtract the offsets, or utilisation and perplexity are too low"
            )
        self._learn(table, matched, features.item_keys)
        self._counts = {
            "items_missing": len(matched.missing),
            "rows_extra": len(matched.extra),
            "matched_by_row": int(matched.by_row),
            **table.counts,
        }
        return self

    def _learn(self, table: SidTable, matched: Matched, item_keys: tuple[str, ...] | None) -> None:
        # With item keys at hand, rows matched by number get them too: then a part of the catalogue can be encoded.
        if matched.by_row and item_keys is not None:
            present = np.flatnonzero(matched.rows >= 0)
            order, keys = matched.rows[present], tuple(item_keys[i] for i in present)
        elif matched.by_row:
            order, keys = matched.rows, None
        else:
            order, keys = np.arange(table.n_items), table.keys
        self.codes_ = np.where((order < 0)[:, None], PAD, table.codes[order]).astype(np.int32)
        self.weights_ = None if table.weights is None else np.where((order < 0)[:, None], 0, table.weights[order])
        self.keys_, self.sizes_, self.n_shared_ = keys, table.sizes, len(matched.missing)

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        c: ImportedConfig = self.config
        rows = self._rows_of(features)
        lacking = (rows < 0) | (self.codes_[rows] == PAD).all(axis=1)
        if lacking.any() and not self.n_shared_:
            first = int(np.flatnonzero(lacking)[0])
            who = f"row {first}" if features.item_keys is None else repr(features.item_keys[first])
            raise InputError(
                f"{self.name}: items without a SID in the table",
                got=f"{int(lacking.sum())} (first: {who})",
                wanted="items of the table",
                do="complete the table and fit again",
            )
        sizes = self.sizes_ + np.int32(self.n_shared_ > 0)  # one more code a position: the SID of the items without row
        codes = np.where(lacking[:, None], self.sizes_[None, :], self.codes_[rows]).astype(np.int32)
        weights = None
        if self.weights_ is not None:
            weights = np.where(lacking[:, None], 1, self.weights_[rows]).astype(np.float32)
        return SemanticIds(codes, sizes.astype(np.int32), c.ordered, weights)

    def _rows_of(self, features: ItemFeatures) -> np.ndarray:
        if self.keys_ is None:
            if features.n_items != len(self.codes_):
                raise InputError(
                    f"{self.name}: catalogue to encode",
                    got=f"{features.n_items} items without keys",
                    wanted=f"the {len(self.codes_)} items of the fit, since rows are matched by number",
                    do="use features with item keys",
                )
            return np.arange(features.n_items)
        if features.item_keys is None:
            raise InputError(f"{self.name}: features to encode", got="no item keys", wanted="item keys, as at fit")
        place = {key: row for row, key in enumerate(self.keys_)}
        return np.array([place.get(key, -1) for key in features.item_keys], np.int64)

    def state_dict(self) -> dict[str, np.ndarray]:
        state = {"codes": self.codes_, "sizes": self.sizes_, "n_shared": np.array(self.n_shared_, np.int64)}
        if self.weights_ is not None:
            state["weights"] = self.weights_.astype(np.float32)
        if self.keys_ is not None:
            encoded = [key.encode() for key in self.keys_]
            state["keys"] = np.frombuffer(b"".join(encoded), np.uint8).copy()
            state["key_ends"] = np.cumsum([len(key) for key in encoded], dtype=np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.codes_ = state_entry(state, "codes", (None, None), self.name)
        n_rows, length = self.codes_.shape
        self.sizes_ = state_entry(state, "sizes", (length,), self.name)
        self.n_shared_ = int(state_entry(state, "n_shared", (), self.name))
        self.weights_ = state_entry(state, "weights", (n_rows, length), self.name) if "weights" in state else None
        self.keys_ = None
        if "key_ends" in state:
            ends = state_entry(state, "key_ends", (n_rows,), self.name).tolist()
            raw = state_entry(state, "keys", (None,), self.name).tobytes()
            self.keys_ = tuple(raw[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True))

    def diagnostics(self) -> dict[str, float]:
        """Counts of the match: items without a row, rows without an item, short rows; 1 when matched by row number."""
        return {name: float(n) for name, n in getattr(self, "_counts", {}).items()}

    @property
    def n_parameters(self) -> int:
        return 0  # nothing was learned here
