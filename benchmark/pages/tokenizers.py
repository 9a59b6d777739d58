"""The page of a tokenizer, and the index of all of them."""

from __future__ import annotations

from collections.abc import Sequence

from sidbench.benchmark.config.presets import ANY_DATASET, presets_of
from sidbench.benchmark.pages.markdown import (
    budgets,
    citation,
    deviations,
    mark,
    method,
    paper_facts,
    prose,
    settings,
    source_link,
    table,
    value,
    year,
)
from sidbench.benchmark.plugins.registry import Plugin, Registry

MARK = mark("tokenizers")


def tokenizer_page(plugin: Plugin, registry: Registry) -> str:
    """The page of one tokenizer in markdown."""
    loaded = registry.load("tokenizer", plugin.name)
    needs = "".join(f" tokenizer.{name}=…" for name in plugin.info["needs_settings"])
    return (
        "\n\n".join(
            [
                MARK,
                f"# {plugin.title}",
                table(
                    ("", ""),
                    [
                        ("name", f"`{plugin.name}`"),
                        *paper_facts(plugin),
                        ("kind", "control" if plugin.info["control"] else "method"),
                        ("reads", _modalities(plugin)),
                        ("needs", _required(plugin)),
                        ("positions", _order(plugin)),
                        ("length", _length(plugin)),
                        ("source", source_link(plugin, registry)),
                    ],
                ),
                f"    bench run --tokenizer {plugin.name} --dataset synthetic --budget quick{needs}",
                "## Method",
                method(plugin),
                "## Settings",
                "Set one with `tokenizer.<setting>=<value>`.",
                settings(loaded.config_class),
                "## Budgets",
                budgets(loaded.budgets),
                "## Where settings come from",
                _presets(plugin),
                *deviations(plugin),
                *citation(plugin),
            ]
        )
        + "\n"
    )


def tokenizer_index(plugins: Sequence[Plugin]) -> str:
    """The index: a table of methods and one of controls."""
    rows = [
        (
            f"[{p.name}]({p.name}.md)",
            p.title,
            year(p),
            _modalities(p),
            "ordered" if p.info["ordered"] else "unordered",
            _length(p),
        )
        for p in plugins
    ]
    heads = ("name", "title", "year", "reads", "positions", "length")
    methods = [row for row, p in zip(rows, plugins, strict=True) if not p.info["control"]]
    controls = [row for row, p in zip(rows, plugins, strict=True) if p.info["control"]]
    return (
        "\n\n".join(
            [
                MARK,
                "# Tokenizers",
                f"{len(methods)} methods and {len(controls)} controls. How to add one: "
                "[add-a-tokenizer.md](../add-a-tokenizer.md).",
                table(heads, methods),
                "Controls stand beside the methods in every table:",
                table(heads, controls),
            ]
        )
        + "\n"
    )


def _modalities(plugin: Plugin) -> str:
    return ", ".join(plugin.info["modalities"]) or "nothing"


def _required(plugin: Plugin) -> str:
    return ", ".join(group.replace("|", " or ") for group in plugin.info["required"]) or "nothing"


def _order(plugin: Plugin) -> str:
    return "ordered: a code is meaningful given those before it" if plugin.info["ordered"] else "unordered"


def _length(plugin: Plugin) -> str:
    if plugin.info["composite"] and plugin.info["control"]:
        return "that of the tokenizer it wraps"
    return "varies: positions an item does not use are PAD" if plugin.info["variable_length"] else "fixed"


def _presets(plugin: Plugin) -> str:
    """The plugin's own presets; those of the user's home are theirs."""
    own = [p for p in presets_of(plugin) if plugin.path is not None and p.path.is_relative_to(plugin.path.parent)]
    defaults = "The defaults are those of the table above."
    if not own:
        return f"{defaults} There is no preset."
    rows = [
        (
            f"`{p.name}`",
            "any" if p.dataset == ANY_DATASET else p.dataset,
            ", ".join(f"{k}={value(v)}" for k, v in p.settings.items()),
            prose(p.source),
            prose(p.note),
        )
        for p in own
    ]
    return f"{defaults} `--preset NAME` sets the following instead; the budget still decides the steps.\n\n" + table(
        ("preset", "data set", "sets", "source", "note"), rows
    )
