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
from sidbench.recommenders.base import (
    COMBINATIONS,
    MAX,
    MEAN,
    MIN,
    SAME,
    SUM,
    Ranker,
    RankingData,
    Recommender,
    Retriever,
    TargetRanks,
)
from sidbench.recommenders.blocks.windows import take_sequences
from sidbench.tokenizers.base import SemanticIds, Tokenizer
from sidbench.tokenizers.blocks.quantisers.streaming import encode_in_blocks

BLOCK_ITEMS = 65_536  # catalogues of more items are encoded in blocks, where the tokenizer treats items one by one


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
    return TargetRanks(**whole), merged_notes(model, len(users), runtime)


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
    return whole["score"], merged_notes(model, len(own), runtime)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of all parts in order; a part without users has none."""
    filled = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in filled]) for name in filled[0]}


def merged_notes(model: Recommender, weight: int, runtime: LocalRuntime) -> dict[str, float]:
    """The model's diagnostics over all parts, as its class declares them; ``weight``: the users or rows of this part.

    What does not fit its declaration is a warning on the record, see ``combined_notes``.
    """
    own = model.diagnostics() if weight else {}
    parts = [(notes, float(w)) for notes, w in runtime.process_group.gather([dict(own), weight]) if w]
    merged, warnings = combined_notes(parts, type(model).combinations(), type(model).__name__)
    for warning in warnings:
        runtime.warn(warning)
    return merged


def combined_notes(
    parts: Sequence[tuple[Mapping[str, float], float]], combinations: Mapping[str, str], who: str
) -> tuple[dict[str, float], list[str]]:
    """Diagnostics of all parts as one, and warnings.

    parts: diagnostics of a part and the number of its users or rows. combinations: name -> one of ``COMBINATIONS``. A
    number declared ``SAME`` that differs is left out with a warning; one without a declaration is taken where all parts
    agree, else its mean stands with a warning. Raises ``StageError`` for a declaration that is no combination.
    """
    merged: dict[str, float] = {}
    warnings: list[str] = []
    for name in dict.fromkeys(name for notes, _ in parts for name in notes):
        values, weights = zip(*((notes[name], w) for notes, w in parts if name in notes), strict=True)
        how, alike = combinations.get(name), all(value == values[0] for value in values)
        if how is not None and how not in COMBINATIONS:
            raise StageError(
                f"{who}: diagnostic_combine[{name!r}] is {how!r}; use one of {', '.join(map(repr, COMBINATIONS))}."
            )
        if how == SUM:
            merged[name] = float(sum(values))
        elif how in (MAX, MIN):
            merged[name] = max(values) if how == MAX else min(values)
        elif how != MEAN and alike:
            merged[name] = values[0]
        elif how == SAME:
            warnings.append(
                f"{who}: the diagnostic {name} is declared {SAME!r} and differs between processes "
                f"({', '.join(f'{v:g}' for v in values)}), so it is left out; declare how it combines."
            )
        else:
            merged[name] = float(np.average(values, weights=weights))
            if how is None:
                warnings.append(
                    f"{who}: the diagnostic {name} differs between processes and its class does not declare how it "
                    f"combines; its mean over users stands. Add it to diagnostic_combine."
                )
    return merged, warnings
