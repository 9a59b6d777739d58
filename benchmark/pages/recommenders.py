"""The page of a recommender, and the index of all of them.

What a page says about ranking follows from the settings. A retriever with ``cover`` searches: its ranks are exact down
to the items that its search covers. Where it also has ``decoding``, the default ranks every item exactly and the other
choices search. Without ``cover`` every rank is exact. The tests hold every recommender of the suite to this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sidbench.benchmark.config.describe import settings_of
from sidbench.benchmark.pages.markdown import (
    budgets,
    citation,
    deviations,
    mark,
    method,
    paper_facts,
    settings,
    source_link,
    table,
    value,
    year,
)
from sidbench.benchmark.plugins.registry import Plugin, Registry
from sidbench.datasets.foundation.errors import InputError

MARK = mark("recommenders")
TASKS = {"retrieval": "retrieval: the next item among all items", "ranking": "ranking: a score for every (user, item) row"}
GROUPS = {"retrieval": "retriever", "ranking": "ranker"}


def recommender_page(plugin: Plugin, registry: Registry) -> str:
    """The page of one recommender in markdown."""
    loaded = registry.load("recommender", plugin.name)
    task = plugin.info["task"]
    facts = [
        ("name", f"`{plugin.name}`"),
        *paper_facts(plugin),
        ("task", TASKS[task]),
        ("reads SIDs", _reads_sids(loaded)),
    ]
    facts += [("ranks", _ranks(loaded))] if task == "retrieval" else []
    return (
        "\n\n".join(
            [
                MARK,
                f"# {plugin.title}",
                table(("", ""), [*facts, ("source", source_link(plugin, registry))]),
                "\n".join(f"    {command}" for command in _commands(plugin, loaded)),
                "## Method",
                method(plugin),
                "## Settings",
                f"Set one with `{GROUPS[task]}.<setting>=<value>`.",
                settings(loaded.config_class),
                "## Budgets",
                budgets(loaded.budgets),
                *deviations(plugin),
                *citation(plugin),
            ]
        )
        + "\n"
    )


def recommender_index(plugins: Sequence[Plugin], registry: Registry) -> str:
    """The index: a table of retrievers and one of rankers."""
    loaded = {p.name: registry.load("recommender", p.name) for p in plugins}
    rows = {task: [p for p in plugins if p.info["task"] == task] for task in TASKS}
    ranking = [(f"[{p.name}]({p.name}.md)", p.title, year(p), _reads_sids(loaded[p.name])) for p in rows["ranking"]]
    retrieval = [
        (f"[{p.name}]({p.name}.md)", p.title, year(p), _reads_sids(loaded[p.name]), _ranks(loaded[p.name]))
        for p in rows["retrieval"]
    ]
    heads = ("name", "title", "year", "reads SIDs")
    return (
        "\n\n".join(
            [
                MARK,
                "# Recommenders",
                f"{len(retrieval)} retrievers and {len(ranking)} rankers, the same for every tokenizer. A "
                "run takes at most one of each; `--recommender ntp,tiger` makes a run of each. How to add one: "
                "[add-a-recommender.md](../add-a-recommender.md).",
                "## Retrieval",
                "The next item of a user among all items. Those that read no SIDs are item-ID baselines, run with "
                "`--tokenizer none`.",
                table((*heads, "ranks"), retrieval),
                "## Ranking",
                "A score for every row of a user and an item.",
                table(heads, ranking),
            ]
        )
        + "\n"
    )


def _commands(plugin: Plugin, loaded: type[Any]) -> Iterator[str]:
    rest = f"--recommender {plugin.name} --dataset synthetic --budget quick"
    if plugin.info["needs_sids"]:
        yield f"bench run --tokenizer rqkmeans {rest}"
        yield from (
            f"bench run --tokenizer none {rest} {GROUPS[plugin.info['task']]}.{setting}"
            for setting in _blind_settings(loaded)
        )
    else:
        yield f"bench run --tokenizer none {rest}"


def _reads_sids(loaded: type[Any]) -> str:
    if not loaded.info.needs_sids:
        return "no: an item-ID baseline"
    blind = ", ".join(f"`{setting}`" for setting in _blind_settings(loaded))
    return f"yes, but not with {blind}" if blind else "yes"


def _blind_settings(loaded: type[Any]) -> list[str]:
    """``name=choice`` of every single setting with which a model that needs SIDs reads none."""
    found = []
    for row in settings_of(loaded.config_class):
        for choice in row["choices"] or ():
            try:
                model = loaded(loaded.config_class(**{row["name"]: choice}))
            except InputError:  # this choice needs another setting too
                continue
            if not model.reads_sids:
                found.append(f"{row['name']}={choice}")
    return found


def _ranks(loaded: type[Any]) -> str:
    rows = {row["name"]: row for row in settings_of(loaded.config_class)}
    exact = "every item of the catalogue, exactly"
    if "cover" not in rows:
        return exact
    down_to = f"down to at least `cover`={value(rows['cover']['default'])} items beyond the history"
    if "decoding" not in rows:
        return f"by beam search, {down_to}"
    default = rows["decoding"]["default"]
    others = " or ".join(f"`decoding={c}`" for c in rows["decoding"]["choices"] if c != default)
    return f"{exact}; with {others} by search, {down_to}"
