"""A request as its runs: lists and settings with several values expand to every combination, each once.

Settings use Hydra's sweep grammar: ``tokenizer.codebook_size=64,128``, ``choice(...)``, ``range(...)``. Everything here
is text and values; no data are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, product

from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

from sidbench.benchmark.config.compose import parse_override
from sidbench.benchmark.config.run_config import NO_POLICY
from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runs.request import NO_TOKENIZER, RunRequest
from sidbench.benchmark.runs.spec import RunSpec
from sidbench.datasets.foundation.errors import InputError

MAX_RUNS = 10_000
_FEATURES = ("dataset.", "features.", "behaviour.", "run.")  # groups of settings behind item features
_CODES = (*_FEATURES, "tokenizer.")


@dataclass(frozen=True)
class Grid:
    """The runs of a request in the order of its lists. repeats: how many combinations were equal to an earlier one."""

    specs: tuple[RunSpec, ...]
    repeats: int = 0


def expand(request: RunRequest, command_line: tuple[str, ...] = ("bench",)) -> Grid:
    """Every combination of the request's lists, datasets outermost, tokenizers innermost.

    Several recommenders of one task cannot share a run and get one run each. Raises ``InputError`` for combinations that
    cannot be, for settings that cannot be listed, and beyond ``MAX_RUNS`` runs.
    """
    settings = overrides_grid(request.overrides)
    specs = list(islice(_cells(request, settings, command_line), MAX_RUNS + 1))
    if len(specs) > MAX_RUNS:
        raise InputError(
            "the grid of this command",
            got=f"more than {MAX_RUNS:,} runs",
            wanted="fewer",
            do="shorten a list, or search with `bench sweep`",
        )
    seen = {spec.identity: spec for spec in specs}
    return Grid(tuple(seen.values()), len(specs) - len(seen))


def _cells(request: RunRequest, settings: Sequence[tuple[str, ...]], command_line: tuple[str, ...]) -> Iterator[RunSpec]:
    sets = _recommender_sets(request)
    for dataset, budget, ties in product(request.datasets, request.budgets, request.ties):
        for (recommenders, tokenizers), preset in product(sets, request.presets.values()):
            for policy, overrides, seed, tokenizer in product(request.collisions, settings, request.seeds, tokenizers):
                baseline = tokenizer == NO_TOKENIZER
                config = replace(
                    request.common,
                    dataset=dataset,
                    tokenizer=None if baseline else tokenizer,
                    recommenders=recommenders,
                    seed=seed,
                    budget=budget,
                    ties=ties,
                    collisions=NO_POLICY if baseline else policy,
                )
                yield RunSpec(
                    config,
                    overrides,
                    preset.get((dataset, tokenizer)),
                    request.data_dir,
                    request.rerun,
                    command_line,
                    tuple(o for o in overrides if o not in request.overrides),
                )


def _recommender_sets(request: RunRequest) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(recommenders of a run, tokenizers it is combined with). Recommenders that read no SIDs take no tokenizer."""
    info = {name: installed().find("recommender", name).info for name in request.recommenders}
    tasks = [str(i["task"]) for i in info.values()]
    together = len(set(tasks)) == len(tasks)
    sets = []
    for recommenders in [request.recommenders] if together else [(name,) for name in request.recommenders]:
        free = [name for name in recommenders if not info[name]["needs_sids"]]
        tokenizers: tuple[str, ...] = request.tokenizers
        if free and tokenizers != (NO_TOKENIZER,):
            if len(free) < len(recommenders):
                raise InputError(
                    f"recommender {free[0]}",
                    got=f"in one run with {', '.join(recommenders)}",
                    wanted="a run of its own, since it reads no semantic IDs",
                    do=f"bench run --tokenizer none --recommender {free[0]}",
                )
            tokenizers = (NO_TOKENIZER,)
        sets.append((recommenders, tokenizers))
    return sets


def overrides_grid(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the values that ``overrides`` list, the last one changing fastest; one value stays as it is.

    Raises ``InputError`` for a setting given twice, an interval, a shuffle and a list that is empty or endless.
    """
    names = Counter(text.partition("=")[0].strip() for text in overrides)
    if twice := [name for name, n in names.items() if n > 1]:
        raise InputError(f"setting {twice[0]}", got="given twice", wanted="once", do=f"list the values: {twice[0]}=A,B")
    return list(islice(product(*(_values(text) for text in overrides)), MAX_RUNS + 1))


def _values(text: str) -> list[str]:
    """The settings that one text stands for."""
    override = parse_override(text)
    if not override.is_sweep_override():
        return [text]
    swept = override.value()
    if not isinstance(swept, (ChoiceSweep, RangeSweep)):
        raise InputError(
            "a grid needs values that can be listed",
            got=repr(text),
            wanted="A,B, choice(A,B) or range(A,B)",
            do="search an interval with `bench sweep`",
        )
    if swept.shuffle:
        raise InputError("a grid has its own order", got=repr(text), do="leave shuffle() out")
    if isinstance(swept, RangeSweep):
        values = _range(text, swept.start, swept.stop, swept.step)
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise InputError("a setting without values", got=repr(text), wanted="at least one")
    return list(dict.fromkeys(f"{override.get_key_element()}={value}" for value in values))


def _range(text: str, first: float | None, end: float | None, step: float) -> list[str]:
    """Decimal numbers from ``first`` up to and without ``end``, as Python's ``range``; Hydra adds binary fractions, which
    makes 0.30000000000000004 of three tenths and lets rounding decide whether the end belongs to it."""
    exact = [Decimal(repr(number)) for number in (first, end, step)]
    if not all(number.is_finite() for number in exact) or not exact[2]:
        raise InputError(
            "a range needs two ends and a step that is not zero", got=repr(text), wanted="for example range(0.1,0.5,0.1)"
        )
    start, stop, by = exact
    length = max(0, math.ceil((stop - start) / by))
    return [str(start + i * by) for i in range(min(length, MAX_RUNS + 1))]


def spread(specs: Sequence[RunSpec]) -> tuple[RunSpec, ...]:
    """The order in which workers beside one another take runs, so that they rarely wait for one another's stages.

    First one run for every set of item features, then one for every fitted tokenizer, then what reuses both.
    """
    features: Counter[object] = Counter()
    codes: Counter[object] = Counter()
    order = []
    for index, spec in enumerate(specs):
        first, second = _features_key(spec), _codes_key(spec)
        order.append((codes[second], min(features[first], 1), index))
        features[first] += 1
        codes[second] += 1
    return tuple(specs[index] for *_, index in sorted(order))


def _features_key(spec: RunSpec) -> tuple[object, ...]:
    """What runs with equal item features have in common; runs without tokenizer share no more than the data."""
    c = spec.config
    return (c.dataset, c.budget, c.ties, c.tokenizer is None, *(o for o in spec.overrides if o.startswith(_FEATURES)))


def _codes_key(spec: RunSpec) -> tuple[object, ...]:
    """What runs with the same fitted tokenizer have in common; a baseline shares no training with any other."""
    c = spec.config
    if c.tokenizer is None:
        return (c, *spec.overrides)
    preset = None if spec.preset is None else spec.preset.path
    return (c.dataset, c.budget, c.ties, c.tokenizer, c.seed, preset, *(o for o in spec.overrides if o.startswith(_CODES)))
