"""What stands for an item in a ranker: its ID, its SID, or both; the one thing that ranking rows compare.

``d_i`` is ``item_width``, ``d_s`` is ``code_width``, ``e`` are rows of a table, ``c_p`` codes, PAD is the zero vector.

    item_id      e[item]                                     a row an item
    hashed_id    e[hash(item) mod R]                         R rows: as many scalars as ``sid_concat`` has
    sid_concat   W [w_1 e_1[c_1]; ...; w_L e_L[c_L]] + b     a row a code, concatenated, linear to d_i
    sid_sum      sum_p w_p e_p[c_p]                          a row a code
    sid_prefix   sum_p w_p e[hash(c_1..c_p) mod prefix_rows] a row a hashed prefix, for ordered SIDs only
    sid+id       sid_concat + item_id

``w_p`` is 1, or the SID's own weight with ``code_weights`` (router weights of ADA-SID). The hash is that of ``hashing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.recommenders.base import SAME
from sidbench.recommenders.blocks.hashing import prefix_hashes
from sidbench.recommenders.blocks.sid_tables import CodeLayout, CodeTable, fused_rows, weights_of_codes
from sidbench.tokenizers.base import PAD, SemanticIds

BY_ID = ("item_id", "hashed_id", "sid+id")
BY_CODE = ("sid_concat", "sid_sum", "sid_prefix", "sid+id")


@dataclass(frozen=True)
class RepresentationConfig:
    """Settings of the item representation, the same in every ranker and for every tokenizer."""

    representation: str = setting(
        "sid_concat",
        "what stands for an item",
        choices=("item_id", "hashed_id", "sid_concat", "sid_sum", "sid_prefix", "sid+id"),
    )
    item_width: int = setting(32, "width of item and user representations", unit="dimensions", low=1, high=512)
    code_width: int = setting(16, "width of code tables (sid_concat) and side fields", unit="dimensions", low=1, high=512)
    prefix_rows: int = setting(1 << 16, "rows that prefixes are hashed to (sid_prefix)", unit="rows", low=1, high=1 << 24)
    code_weights: bool = setting(False, "scale code embeddings by the weights of the SIDs (router weights)")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.code_weights and self.representation not in BY_CODE:
            raise InputError(
                "setting code_weights=true",
                got=f"representation={self.representation}",
                wanted=f"one with codes: {', '.join(BY_CODE)}",
                do="set code_weights=false",
            )


def sid_concat_parameters(config: RepresentationConfig, layout: CodeLayout) -> int:
    """Learned scalars of ``sid_concat``: ``sum_p K_p d_s + L d_s d_i + d_i``; PAD rows, always zero, do not count."""
    return int(layout.sizes.sum()) * config.code_width + (layout.length * config.code_width + 1) * config.item_width


def item_table_rows(config: RepresentationConfig, n_items: int, layout: CodeLayout | None) -> int:
    """Rows of the item table; 0 without one.

    A hashed table has the scalars of ``sid_concat`` to the nearest row, and never more than one row an item.
    """
    if config.representation == "hashed_id" and layout is not None:
        return max(1, min(n_items, round(sid_concat_parameters(config, layout) / config.item_width)))
    return n_items if config.representation in BY_ID else 0


def layout_for(config: RepresentationConfig, sids: SemanticIds | None, who: str) -> CodeLayout | None:
    """Layout of ``sids``, or ``None`` for ``item_id``. Raises ``InputError`` when SIDs are needed and absent."""
    if config.representation == "item_id":
        return None
    if sids is None:
        raise InputError(
            f"{who} with representation={config.representation}: semantic IDs",
            got="none",
            wanted="SIDs of the whole catalogue",
            do="name a tokenizer or set representation=item_id",
        )
    return CodeLayout.of(sids)


# Figures of ``ItemLookup.notes``: they follow from the SIDs and the config, so every process has the same.
REPRESENTATION_COMBINE = dict.fromkeys(
    (
        "hashed_id_rows",
        "hashed_id_parameters",
        "hashed_id_items_sharing_a_row",
        "sid_concat_parameters",
        "distinct_prefixes",
        "prefixes_sharing_a_row",
    ),
    SAME,
)


@dataclass(frozen=True)
class ItemLookup:
    """Where the representation of every item of a catalogue is read.

    ids: int64 ``[N]`` rows of the item table. rows: int64 ``[N, P]`` rows of the code table, ``P`` = 0 without one.
    weights: float32 ``[N, P]`` or ``None`` for ones. notes: figures for the record.
    """

    ids: np.ndarray
    rows: np.ndarray
    weights: np.ndarray | None = None
    notes: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(
        config: RepresentationConfig, layout: CodeLayout | None, sids: SemanticIds | None, n_items: int, who: str
    ) -> ItemLookup:
        """The lookup for ``sids`` as a model with ``layout`` reads them.

        Raises ``InputError`` for SIDs of another catalogue or layout, unordered ones with ``sid_prefix``, and ones
        without weights with ``code_weights``.
        """
        ids, none = np.arange(n_items), np.zeros((n_items, 0), np.int64)
        if layout is None or sids is None:
            layout_for(config, sids, who)
            return ItemLookup(ids, none)
        rows = fused_rows(layout, sids, n_items, who)
        if config.representation == "hashed_id":
            return _hashed_ids(config, layout, n_items)
        weights = weights_of_codes(sids, who) if config.code_weights else None
        if config.representation == "sid_prefix":
            rows, notes = _prefix_rows(config, layout, sids, who)
            return ItemLookup(ids, rows, weights, notes)
        return ItemLookup(ids, rows, weights)


def _hashed_ids(config: RepresentationConfig, layout: CodeLayout, n_items: int) -> ItemLookup:
    """IDs hashed to the budget of ``sid_concat``; where that gives every item a row, every item gets its own."""
    table, ids = item_table_rows(config, n_items, layout), np.arange(n_items)
    if table < n_items:
        ids = (prefix_hashes(ids[:, None])[:, 0] % np.uint64(table)).astype(np.int64)
    shared = int((np.bincount(ids, minlength=table)[ids] > 1).sum())
    return ItemLookup(
        ids,
        np.zeros((n_items, 0), np.int64),
        notes={
            "hashed_id_rows": float(table),
            "hashed_id_parameters": float(table * config.item_width),
            "hashed_id_items_sharing_a_row": float(shared),
            "sid_concat_parameters": float(sid_concat_parameters(config, layout)),
        },
    )


def _prefix_rows(
    config: RepresentationConfig, layout: CodeLayout, sids: SemanticIds, who: str
) -> tuple[np.ndarray, dict[str, float]]:
    """Hashed rows int64 ``[N, L]`` of all prefixes, and figures; a prefix that ends in PAD has the PAD row."""
    if not sids.ordered:
        raise InputError(
            f"{who} with representation=sid_prefix: semantic IDs",
            got="SIDs without an order of positions",
            wanted="ordered SIDs, whose prefixes mean something",
            do="name an ordered tokenizer (residual codes), or set representation=sid_concat",
        )
    padded = sids.codes == PAD
    hashes = prefix_hashes(np.where(padded, layout.sizes, sids.codes))
    rows = np.where(padded, config.prefix_rows, (hashes % np.uint64(config.prefix_rows)).astype(np.int64))
    prefixes = np.unique(hashes[~padded])
    held = np.bincount((prefixes % np.uint64(config.prefix_rows)).astype(np.int64), minlength=1)
    return rows, {"distinct_prefixes": float(len(prefixes)), "prefixes_sharing_a_row": float(held[held > 1].sum())}


class ItemRepresentation(nn.Module):
    """Items to float ``[M, item_width]``, by ID, by SID, or both.

    table_rows: rows of the item table, as ``item_table_rows`` gives them. layout: of the SIDs, ``None`` for ``item_id``.
    """

    def __init__(self, config: RepresentationConfig, table_rows: int, layout: CodeLayout | None) -> None:
        super().__init__()
        kind, self.width = config.representation, config.item_width
        self.item_table = nn.Parameter(torch.zeros(table_rows, self.width)) if kind in BY_ID else None
        self.codes: CodeTable | None = None
        self.project: nn.Linear | None = None
        if layout is None or kind not in BY_CODE:
            return
        if kind == "sid_prefix":
            layout = CodeLayout(np.array([config.prefix_rows], np.int32), np.array([layout.has_pad.any()]))
        concat = kind in ("sid_concat", "sid+id")
        self.codes = CodeTable(layout, config.code_width if concat else config.item_width)
        self.project = nn.Linear(layout.length * config.code_width, config.item_width) if concat else None

    def forward(self, items: Tensor, rows: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of items, and the squared norm of the table rows used.

        items: int64 ``[M]`` rows of the item table. rows: int64 ``[M, P]`` rows of the code table. weights: float
        ``[M, P]`` strengths of the codes, ``None`` for ones.
        """
        total = rows.new_zeros(len(rows), self.width, dtype=torch.float32)
        penalty = total.new_zeros(())
        if self.item_table is not None:
            total = F.embedding(items, self.item_table)
            penalty = total.square().sum()
        if self.codes is not None:
            codes = F.embedding(rows, self.codes.inputs())
            penalty = penalty + codes.square().sum()
            if weights is not None:
                codes = codes * weights[..., None]
            total = total + (codes.sum(dim=1) if self.project is None else self.project(codes.flatten(1)))
        return total, penalty

    def embedding_parameters(self) -> int:
        """Learned scalars: tables and projection, without PAD rows, which are always zero."""
        unused = 0 if self.codes is None else len(self.codes.layout.pad_rows) * self.codes.table.shape[1]
        return sum(p.numel() for p in self.parameters()) - unused
