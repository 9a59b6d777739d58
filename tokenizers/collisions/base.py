"""The contract of a collision policy, and what a policy reports.

Life cycle. After ``encode`` the pipeline constructs the policy with its frozen config and calls ``resolve`` once per
(SIDs, config, seed). The policy sees codes, never who interacts with what: rank order inside a group of items that share
a SID is their order in the catalogue, so that popularity and evaluation data cannot leak into codes. ``resolve`` must
not change its arguments; all randomness comes from ``rng``.

*Prefix group*: items that agree in every position but the last one in use. A policy that moves items changes their code
at that position only; an item without a code there (PAD) stays as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from sidbench.datasets.foundation.plugin import PluginBase
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import check_settings
from sidbench.tokenizers.base import PAD, SemanticIds
from sidbench.tokenizers.collisions._costs import Costs as Costs
from sidbench.tokenizers.collisions._groups import group_ids, last_used


@dataclass(frozen=True)
class CollisionInfo:
    """Static metadata, read from the plugin's source without importing it: keep every argument a literal.

    source: who uses it. unique: afterwards every item has a SID of its own, or ``resolve`` raises. adds: appends a
    position. moves: changes codes that the tokenizer gave. deviations: from the source, one sentence each.
    url: page of the source (arXiv or DOI); bibtex: its key or whole entry; both empty without one.
    version: raised by its author when the numbers it computes change; part of stage keys, run ids and comparability.
    """

    title: str
    source: str
    unique: bool = False
    adds: bool = False
    moves: bool = False
    deviations: tuple[str, ...] = ()
    version: int = 1
    url: str = ""
    bibtex: str = ""


@dataclass(frozen=True)
class CollisionConfig:
    """Settings every policy shares: none."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class CollisionReport:
    """What a policy did.

    items_moved: items with another code than the tokenizer gave, in a position that the tokenizer has.
    extra_distortion: (cost of the new codes - cost of the old codes) / cost of the old codes, each summed over the moved
        items: the share by which the last position fits them worse. 0 when nothing moved; ``None`` when the new codes
        have no cost (``bucket``), the old ones cost nothing in sum, or items moved from or to PAD.
    extra_cost_per_item: the same difference in the unit of the costs, over all items of the catalogue.
    tokens_added: sum of codebook sizes afterwards minus before; negative where a codebook became smaller.
    items_with_extra_token: items that have a code in an appended position.
    collision_rate_before, collision_rate_after: ``(N - U) / N`` with ``U`` distinct SIDs.
    cost_source: "tokenizer" (its own distances), "estimated" (see ``Costs``), "" when no cost was needed.
    notes: what a reader of the numbers must know, one sentence each.
    """

    collision_rate_before: float
    collision_rate_after: float
    items_moved: int = 0
    extra_distortion: float | None = None
    extra_cost_per_item: float | None = None
    tokens_added: int = 0
    items_with_extra_token: int = 0
    cost_source: str = ""
    notes: tuple[str, ...] = ()

    def numbers(self) -> dict[str, float]:
        """The numeric fields that are defined, for the record."""
        return {name: float(value) for name, value in vars(self).items() if isinstance(value, (int, float))}


@dataclass(frozen=True)
class Resolved:
    """SIDs after a policy, and its report."""

    sids: SemanticIds
    report: CollisionReport


class CollisionPolicy(PluginBase):
    """Base of every collision policy; constructor and ``name`` are those of ``PluginBase``."""

    entry_points: ClassVar[str] = "sidbench.collisions"
    info: ClassVar[CollisionInfo]
    config_class: ClassVar[type[Any]] = CollisionConfig

    @abstractmethod
    def resolve(self, sids: SemanticIds, costs: Costs, rng: Rng) -> Resolved:
        """New SIDs of the same items. Raises ``InputError`` naming the setting that makes them impossible."""


def collision_rate(codes: np.ndarray) -> float:
    """``(N - U) / N`` of codes ``[N, L]``; PAD is compared like a code."""
    return 1.0 - (int(group_ids(codes).max(initial=-1)) + 1) / max(len(codes), 1)


def unchanged(sids: SemanticIds, cost_source: str = "", notes: Sequence[str] = ()) -> Resolved:
    """The SIDs as they are, with reconstruction and weights."""
    rate = collision_rate(sids.codes)
    return Resolved(
        sids,
        CollisionReport(
            rate,
            rate,
            extra_distortion=0.0,
            extra_cost_per_item=0.0,
            cost_source=cost_source,
            notes=(*notes, *_left_over(sids.codes)),
        ),
    )


def appended(sids: SemanticIds, column: np.ndarray, size: int, name: str) -> Resolved:
    """One position more: codes int ``[N]`` (or PAD) of a codebook of ``size``.

    The tokenizer's codes stay, so the reconstruction does too; weights are 1 where the new code is used, 0 at PAD.
    """
    codes = np.concatenate([sids.codes, column[:, None].astype(np.int32)], axis=1)
    used = column != PAD
    names = sids.position_names or tuple(f"position {p + 1}" for p in range(sids.code_length))
    made = replace(
        sids,
        codes=codes,
        sizes=np.append(sids.sizes, size).astype(np.int32),
        position_names=(*names, name),
        weights=None
        if sids.weights is None
        else np.concatenate([sids.weights, used[:, None].astype(sids.weights.dtype)], axis=1),
    )
    report = CollisionReport(
        collision_rate(sids.codes),
        collision_rate(codes),
        extra_distortion=0.0,
        extra_cost_per_item=0.0,
        tokens_added=size,
        items_with_extra_token=int(used.sum()),
        notes=_left_over(codes),
    )
    return Resolved(made, report)


def moved(
    sids: SemanticIds,
    column: np.ndarray,
    costs: Costs | None,
    *,
    size: int | None = None,
    name: str = "",
    notes: Sequence[str] = (),
) -> Resolved:
    """Other codes int ``[N]`` at the last used position; ``costs`` is ``None`` where the new codes have no cost.

    size, name: of the position's new codebook, by default as before. Reconstruction and weights belong to the codes of
    the tokenizer and are dropped as soon as one item moves.
    """
    position = last_used(sids.codes)
    old = sids.codes[:, position]
    sizes, codes = sids.sizes.copy(), sids.codes.copy()
    sizes[position] = sizes[position] if size is None else size
    codes[:, position] = column
    rows = np.flatnonzero(old != column)
    if not len(rows) and size is None:
        return unchanged(sids, "" if costs is None else costs.source, notes)
    names = list(sids.position_names)
    if name:
        names = names or [f"position {p + 1}" for p in range(sids.code_length)]
        names[position] = name
    made = replace(sids.with_codes(codes, sizes), position_names=tuple(names))
    lost = [word for word, had in (("reconstruction", sids.reconstruction), ("weights", sids.weights is not None)) if had]
    said = [f"{' and '.join(lost)} dropped: they belong to the codes before {len(rows)} items moved"] if lost else []
    extra, per_item = _extra_cost(costs, rows, old, codes[:, position])
    report = CollisionReport(
        collision_rate(sids.codes),
        collision_rate(codes),
        items_moved=len(rows),
        extra_distortion=extra,
        extra_cost_per_item=per_item,
        tokens_added=int(sizes.sum()) - int(sids.sizes.sum()),
        cost_source="" if costs is None else costs.source,
        notes=(*notes, *said, *_left_over(codes)),
    )
    return Resolved(made, report)


def _extra_cost(
    costs: Costs | None, rows: np.ndarray, old: np.ndarray, new: np.ndarray
) -> tuple[float | None, float | None]:
    """Extra cost of the moved ``rows``: relative to what they cost before, and absolute per item of the catalogue."""
    if costs is None or (old[rows] == PAD).any():
        return None, None
    before, after = costs.totals(rows, old[rows], new[rows])
    return (after - before) / before if before > 0 else None, (after - before) / max(len(old), 1)


def _left_over(codes: np.ndarray) -> tuple[str, ...]:
    sizes = np.bincount(group_ids(codes))
    shared = sizes[sizes > 1]
    if not len(shared):
        return ()
    return (f"{int(shared.sum())} items in {len(shared)} groups still share a SID, up to {int(shared.max())} of them",)
