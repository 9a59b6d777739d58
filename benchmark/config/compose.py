"""Configuration of a run: the dataclasses of the plugins are the schema, Hydra composes, plain dataclasses come out.

Order, later wins: dataclass defaults < the budget (``cls.budgets[budget]``) < a preset < the user's overrides. The
composed tree is turned into frozen dataclasses at once, so nothing behind this module sees a ``DictConfig``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidbench.benchmark.config.run_config import RunConfig, options_of
from sidbench.benchmark.plugins.registry import Registry, installed
from sidbench.datasets.foundation.errors import InputError, unknown_name
from sidbench.datasets.foundation.settings import type_hints, type_words

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_STORED_AS = "sidbench_run"


@dataclass(frozen=True)
class ComposedRun:
    """A run with the config instance of every stage; groups the run does not use are ``None``.

    behaviour: config of the model behind behaviour embeddings. retriever_name, ranker_name: which of
    ``run.recommenders`` fills the group. collisions: config of the collision policy.
    """

    run: RunConfig
    dataset: Any
    features: Any
    behaviour: Any
    tokenizer: Any | None
    retriever: Any | None
    ranker: Any | None
    retriever_name: str | None
    ranker_name: str | None
    collisions: Any | None = None


def field_type(config_class: type[Any], name: str) -> str:
    """The type of a config field in words ("int", "tuple[int, ...]", "float | None")."""
    return type_words(type_hints(config_class)[name])


def compose_run(
    run: RunConfig,
    overrides: Sequence[str] = (),
    *,
    preset: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
) -> ComposedRun:
    """Compose the configs of every stage of ``run``.

    Parameters
    ----------
    overrides: Hydra overrides ``group.field=value``; groups run, dataset, features, behaviour,
        tokenizer, collisions, retriever, ranker.
    preset: group -> field -> value, between budget and overrides (how a recorded run is reproduced).
    registry: where plugins come from, the installed ones by default.

    Raises ``InputError`` for unknown plugins, groups and fields, values of the wrong type, and whatever the configs'
    own checks refuse.
    """
    registry = registry or installed()
    names = _recommenders_by_task(run, registry)
    classes: dict[str, type[Any]] = {"run": RunConfig}
    budgets: dict[str, Mapping[str, Any]] = {"run": dataclasses.asdict(run)}

    def add(group: str, kind: str, name: str | None) -> None:
        if name is not None:
            loaded = registry.load(kind, name)
            classes[group], budgets[group] = loaded.config_class, loaded.budgets.get(run.budget, {})

    add("dataset", "dataset", run.dataset)
    for group, (cls, fields) in _features(run.budget).items():
        classes[group], budgets[group] = cls, fields
    add("tokenizer", "tokenizer", run.tokenizer)
    add("collisions", "collisions", None if run.tokenizer is None else run.collisions)
    add("retriever", "recommender", names.get("retrieval"))
    add("ranker", "recommender", names.get("ranking"))
    groups = _compose(classes, (("budget", budgets), ("preset", preset or {})), overrides)
    for group, task in (("retriever", "retrieval"), ("ranker", "ranking")):
        if task in names:
            _check_reads_sids(run, names[task], registry.load("recommender", names[task])(groups[group]).reads_sids)
    return ComposedRun(
        groups["run"],
        groups["dataset"],
        groups["features"],
        groups["behaviour"],
        groups.get("tokenizer"),
        groups.get("retriever"),
        groups.get("ranker"),
        names.get("retrieval"),
        names.get("ranking"),
        groups.get("collisions"),
    )


def _check_reads_sids(run: RunConfig, name: str, reads_sids: bool) -> None:
    """A tokenizer's row must depend on its SIDs, and a baseline cannot read what does not exist."""
    if run.tokenizer is None and reads_sids:
        raise InputError(
            f"recommender {name!r} reads semantic IDs",
            got="no tokenizer",
            wanted="a tokenizer",
            do="add --tokenizer NAME, or, for a ranker, the setting ranker.representation=item_id",
        )
    if run.tokenizer is not None and not reads_sids:
        raise InputError(
            f"recommender {name!r} with these settings reads no semantic IDs",
            got=f"tokenizer {run.tokenizer}",
            wanted="a run without tokenizer, as a baseline",
            do="use --tokenizer none",
        )


def _features(budget: str) -> dict[str, tuple[type[Any], Mapping[str, Any]]]:
    """The groups that make item features: encoders, and the behaviour encoder's own settings."""
    from sidbench.datasets.features.assemble import FeaturesConfig
    from sidbench.recommenders.sasrec import BEHAVIOUR_BUDGETS, BehaviourConfig

    return {
        "features": (FeaturesConfig, FeaturesConfig.budgets.get(budget, {})),
        "behaviour": (BehaviourConfig, BEHAVIOUR_BUDGETS.get(budget, {})),
    }


def _recommenders_by_task(run: RunConfig, registry: Registry) -> dict[str, str]:
    """Task -> the recommender that does it. Raises ``InputError`` when two of them do the same task."""
    names: dict[str, str] = {}
    for name in run.recommenders:
        plugin = registry.find("recommender", name)
        task = str(plugin.info["task"])
        if task in names:
            raise InputError(
                f"two recommenders for the {task} task",
                got=f"{names[task]} and {plugin.name}",
                wanted="one a run",
                do="start one run for each of them",
            )
        names[task] = plugin.name
    return names


def _compose(
    classes: Mapping[str, type[Any]], layers: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]], overrides: Sequence[str]
) -> dict[str, Any]:
    """Group -> config instance: defaults of ``classes``, then ``layers`` in order, then ``overrides``."""
    from hydra import compose, initialize
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parsed = _check_overrides(classes, overrides)
    groups = {group: OmegaConf.structured(cls) for group, cls in classes.items()}
    for node in groups.values():
        OmegaConf.set_readonly(node, False)  # frozen dataclasses become read-only nodes; layers must be laid over them
    for layer, values in layers:
        for group, fields in values.items():
            if group not in groups:
                raise InputError(f"{layer} sets {group!r}", wanted=f"one of {', '.join(groups)}")
            _check_fields(f"{layer} of {group}", classes[group], fields)
            for name, value in fields.items():
                _check_literal(f"{layer} of {group}: {name}", value)
            try:
                groups[group] = OmegaConf.merge(groups[group], dict(fields))
            except OmegaConfBaseException as error:
                name = getattr(error, "full_key", None) or "settings"
                raise InputError(f"{layer} of {group}: {name}: {_first_line(error)}", do=f"fix the {layer}") from error
    store = ConfigStore.instance()
    store.store(name=_STORED_AS, node=OmegaConf.create(groups))
    try:
        # ``initialize`` puts back on exit whatever Hydra state the process had, so this works inside another Hydra app.
        with initialize(config_path=None, version_base="1.3"):
            tree = compose(_STORED_AS, overrides=list(overrides))
        plain = typing.cast("dict[str, dict[str, Any]]", OmegaConf.to_container(tree, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(classes, parsed, error) from error
    finally:
        del store.repo[f"{_STORED_AS}.yaml"]
    # Built here and not by OmegaConf.to_object: tuples stay tuples, and a config's own InputError comes out as it is.
    return {
        group: cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain[group].items()})
        for group, cls in classes.items()
    }


def parse_override(text: str) -> Override:
    """One setting ``group.field=value`` in Hydra's grammar. Raises ``InputError`` for a text that is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    _check_literal("setting", text)
    try:
        override = OverridesParser.create().parse_override(text)
        _check_literal("setting", override.value())
        return override
    except (HydraException, RecursionError) as error:
        raise InputError(
            "cannot read the setting",
            got=repr(text),
            wanted="group.field=value",
            do="for example tokenizer.codebook_size=256, in quotes if need be",
        ) from error


def _check_overrides(classes: Mapping[str, type[Any]], overrides: Sequence[str]) -> list[Override]:
    """Parse overrides and check that each sets one existing field. Raises ``InputError`` naming the nearest one."""
    parsed = []
    for text in overrides:
        override = parse_override(text)
        group, _, name = override.key_or_group.partition(".")
        if group in classes and not name:
            raise InputError(
                "a setting cannot replace a plugin",
                got=repr(text),
                wanted="group.field=value",
                do=f"choose the {group} with its command-line option",
            )
        if group not in classes:
            raise unknown_name("group of settings", group, classes, do="write group.field=value")
        if override.is_add() or override.is_delete() or override.is_force_add() or override.is_sweep_override():
            raise InputError(
                "a setting has one value", got=repr(text), wanted="group.field=value", do="start one run for each value"
            )
        _check_fields(f"{group} settings", classes[group], {name: None})
        if group == "run" and name in (by_option := options_of(RunConfig)):
            raise InputError(f"run.{name} is a command-line option", got=repr(text), do=f"use {by_option[name].name}")
        parsed.append(override)
    return parsed


def _check_literal(where: str, value: Any) -> None:
    """Raise ``InputError`` for a value that stands for another: a record says what was set, and a preset or record of a
    stranger must not read environment variables (``${oc.env:HOME}``) into it."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise InputError(
            f"{where} refers to another value",
            got=repr(value)[:120],
            wanted="the value itself",
            do="write the value there; settings know no interpolation",
        )
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_literal(where, part)


def _check_fields(where: str, config_class: type[Any], fields: Mapping[str, Any]) -> None:
    known = [f.name for f in dataclasses.fields(config_class)]
    for name in fields:
        if name not in known:
            raise unknown_name(f"setting in {where} ({config_class.__name__})", name, known, do="use one of these settings")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _explained(classes: Mapping[str, type[Any]], parsed: Sequence[Override], error: Exception) -> InputError:
    """The InputError for a value that Hydra or OmegaConf refused, with the type the field wants."""
    from omegaconf.errors import ValidationError

    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or ""
    for override in parsed:
        if isinstance(cause, ValidationError) and key.partition("[")[0] == override.key_or_group:
            group, _, name = override.key_or_group.partition(".")
            cls = classes[group]
            doc = next(f.metadata.get("doc", "") for f in dataclasses.fields(cls) if f.name == name)
            return InputError(
                f"setting {override.key_or_group}" + (f" ({doc})" if doc else ""),
                got=override.get_value_string(),
                wanted=field_type(cls, name),
                do=f"set {override.key_or_group}=<{field_type(cls, name)}>",
            )
    return InputError(
        f"the settings cannot be composed: {_first_line(cause)}",
        got=" ".join(o.input_line or "" for o in parsed),
        do="check each setting with `bench show`",
    )
