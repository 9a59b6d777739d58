"""Work on items, users and rows shared by the processes of a command: each does a part, all get the whole.

Users and rows are cut into as many contiguous parts as there are processes, so none is lost or counted twice; a part may
be empty. Large catalogues are encoded in the same blocks of items whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import StageError
from sidbench.datasets.splits.base import Sequences
from sidbench.recommenders.base import Ranker, RankingData, Retriever, TargetRanks
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.tokenizers.base import SemanticIds, Tokenizer
from sidbench.tokenizers.blocks.quantisers.streaming import encode_in_blocks

BLOCK_ITEMS = 65_536  # catalogues of more items are encoded in blocks, where the tokenizer treats items one by one
# Words in the names of diagnostics that tell how those of several parts of the users become one number.
ADDED, LARGEST, SMALLEST = {"truncated", "widened", "dropped"}, {"widest", "longest"}, {"covered", "shortest"}


def part_of(n: int, rank: int, size: int) -> slice:
    """The ``rank``-th of ``size`` contiguous parts of ``n`` things, as equal as can be."""
    return slice(n * rank // size, n * (rank + 1) // size)


def in_blocks(tokenizer: Tokenizer, n_items: int, block_items: int = BLOCK_ITEMS) -> bool:
    """Whether a catalogue is encoded in blocks, which all processes share."""
    return tokenizer.itemwise and n_items > block_items


def encode_catalogue(
    tokenizer: Tokenizer,
    features: ItemFeatures,
    runtime: LocalRuntime,
    block_items: int = BLOCK_ITEMS,
    scratch: Path | None = None,
) -> SemanticIds:
    """What ``encode`` gives for the whole catalogue, with reconstructions; large ones in blocks that processes share.

    scratch: folder for large reconstructions of a single process, which are then maps of files there.
    """
    process_group, n = runtime.process_group, features.n_items
    if not in_blocks(tokenizer, n, block_items):
        return tokenizer.encode(features, runtime)
    if process_group.size == 1:
        return encode_in_blocks(tokenizer, features, runtime, rows=block_items, reconstruction=True, scratch=scratch)
    part, own = part_of(-(-n // block_items), process_group.rank, process_group.size), None
    if part.start < part.stop:
        mine = features.block(part.start * block_items, part.stop * block_items)
        own = encode_in_blocks(tokenizer, mine, runtime, rows=block_items, reconstruction=True)
    facts = [fact for fact in process_group.gather(None if own is None else _about(own)) if fact is not None]
    if any(fact != facts[0] for fact in facts):
        raise StageError(
            f"{type(tokenizer).__name__}: sizes or weights differ between blocks of items, though the class "
            "declares itemwise; set itemwise = False."
        )
    whole = _joined(process_group.gather_arrays({} if own is None else _arrays(own)))
    decoded = {name.removeprefix("of:"): array for name, array in whole.items() if name.startswith("of:")}
    sizes, ordered, _, position_names = facts[0]
    return SemanticIds(
        whole["codes"], np.array(sizes, np.int32), ordered, whole.get("weights"), decoded, tuple(position_names)
    )


def _arrays(sids: SemanticIds) -> dict[str, np.ndarray]:
    weights = {} if sids.weights is None else {"weights": sids.weights}
    return {"codes": sids.codes, **weights, **{f"of:{m}": e for m, e in sids.reconstruction.items()}}


def _about(sids: SemanticIds) -> list[object]:
    return [sids.sizes.tolist(), bool(sids.ordered), sorted(_arrays(sids)), list(sids.position_names)]


def rank_users(
    model: Retriever, histories: Sequences, targets: np.ndarray, sids: SemanticIds | None, runtime: LocalRuntime
) -> tuple[TargetRanks, dict[str, float]]:
    """``model.rank_targets`` of all users, and the model's numbers about it.

    A user's rank interval does not depend on the users beside him, so parts give what the whole gives.
    """
    process_group = runtime.process_group
    if process_group.size == 1:
        return model.rank_targets(histories, targets, sids, runtime), dict(model.diagnostics())
    part = part_of(len(targets), process_group.rank, process_group.size)
    users = np.arange(len(targets))[part]
    ranks = None
    if len(users):
        ranks = model.rank_targets(take_sequences(histories, users), targets[part], sids, runtime)
    columns = {} if ranks is None else {f.name: getattr(ranks, f.name) for f in fields(ranks)}
    whole = _joined(process_group.gather_arrays({n: a for n, a in columns.items() if a is not None}))
    return TargetRanks(**whole), merged_notes(model.diagnostics() if len(users) else {}, len(users), runtime)


def predict_rows(
    model: Ranker, data: RankingData, split: str, sids: SemanticIds | None, runtime: LocalRuntime
) -> tuple[np.ndarray, dict[str, float]]:
    """``model.predict`` of all rows of ``split``, and the model's numbers about it."""
    process_group, rows = runtime.process_group, data.rows[split]
    if process_group.size == 1 or not len(rows):
        return model.predict(data, split, sids, runtime), dict(model.diagnostics())
    part = part_of(len(rows), process_group.rank, process_group.size)
    own = replace(rows, **{f.name: getattr(rows, f.name)[part] for f in fields(rows)})
    scores = {}
    if len(own):
        scores["score"] = model.predict(replace(data, rows={**data.rows, split: own}), split, sids, runtime)
    whole = _joined(process_group.gather_arrays(scores))
    return whole["score"], merged_notes(model.diagnostics() if len(own) else {}, len(own), runtime)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of all parts in order; a part without users has none."""
    filled = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}


def merged_notes(own: Mapping[str, float], weight: int, runtime: LocalRuntime) -> dict[str, float]:
    """Diagnostics over all parts, ``weight`` being the users of this one: averaged by users unless a word of the name says
    that it is a count (``ADDED``), a maximum (``LARGEST``) or a minimum (``SMALLEST``)."""
    told = [(notes, w) for notes, w in runtime.process_group.gather([dict(own), weight]) if w]
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for notes, _ in told for name in notes):
        values, weights = zip(*((notes[name], w) for notes, w in told if name in notes), strict=True)
        words = set(name.split("_"))
        if words & LARGEST or words & SMALLEST:
            merged[name] = max(values) if words & LARGEST else min(values)
        else:
            merged[name] = float(sum(values) if words & ADDED else np.average(values, weights=weights))
    return merged
