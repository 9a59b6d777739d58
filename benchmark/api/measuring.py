"""The quantisation metrics of SIDs as a frame: the numbers of the pipeline's stage, in one call."""

from __future__ import annotations

import pandas as pd

from sidbench.benchmark.metrics.catalogue import describe
from sidbench.benchmark.stages.tokenizing import quantisation_numbers
from sidbench.datasets.features.base import ItemFeatures
from sidbench.tokenizers.base import SemanticIds


def measure(sids: SemanticIds, features: ItemFeatures, *, by_position: bool = False) -> pd.DataFrame:
    """Quantisation metrics of ``sids``, equal to those on the record of a run with these SIDs and features.

    Returns a frame with one row per metric, named as in ``docs/metrics.md`` (index ``metric``), and the columns
    ``value``, ``n`` (items behind it), ``better`` ("higher", "lower" or "neither") and ``meaning``. A number that is not
    defined, as of a reconstruction that the method does not give, has no row. by_position: a frame with one row per
    position and one column per metric that is a vector, instead.

    Raises ``InputError`` for SIDs and features of different items, ``StageError`` for SIDs that break the contract.
    """
    sids.check(sids.n_items, "measure")
    scalars, vectors = quantisation_numbers(sids, features)
    if by_position:
        ending = "_by_position"
        columns = {name.removesuffix(ending): values for name, values in vectors.items() if name.endswith(ending)}
        return pd.DataFrame(columns, index=pd.RangeIndex(sids.code_length, name="position"))
    about = {name: describe(name) for name in scalars}
    return pd.DataFrame(
        {
            "value": [m.value for m in scalars.values()],
            "n": [m.n for m in scalars.values()],
            "better": [d.direction if d is not None else "neither" for d in about.values()],
            "meaning": [d.definition if d is not None else "" for d in about.values()],
        },
        index=pd.Index(scalars, name="metric"),
    )
