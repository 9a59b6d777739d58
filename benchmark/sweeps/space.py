"""What a sweep searches: the ``sweep`` metadata of config fields, changed by the command line in Hydra's sweep grammar.

Rules, from metadata: a float field with two numbers is an interval, everything else a list of choices. An interval is
searched on a logarithmic scale when both ends are positive and the upper is at least a hundred times the lower.
From the command line: ``choice(a,b)`` and comma lists are choices, ``range(a,b,step)`` leaves out its end as in Hydra,
``interval(a,b)`` holds both ends, and ``tag(log, interval(a,b))`` asks for the logarithmic scale.

The space always holds the default configuration, so that a sweep measures it: a list gets the default in front, an
interval is widened to it.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep

from sidbench.benchmark.config.compose import parse_override
from sidbench.datasets.foundation.errors import InputError, unknown_name

LOG_RATIO = 100.0
WORD = r"(?!(?i:null|true|false|inf|nan)$)[A-Za-z_][A-Za-z0-9_+.-]*"  # a text that needs no quotes in the grammar
EXAMPLE = "for example tokenizer.alpha=interval(5,20) or tokenizer.codebook_size=choice(64,256)"


@dataclass(frozen=True)
class Choices:
    """One of a list; values are scalars or tuples."""

    values: tuple[Any, ...]

    def including(self, value: Any) -> Choices:
        """The same list with ``value`` in it."""
        return self if any(_same(value, v) for v in self.values) else Choices((value, *self.values))

    def __str__(self) -> str:
        return f"choice({','.join(_text(v) for v in self.values)})"


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``, both included. whole: integers. step: distance of the values, 0 for none."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float = 0.0

    def including(self, value: Any) -> Interval | Choices:
        """The interval widened to ``value``; a list where its grid misses the value, and one of its ends and the value
        where that is no number."""
        if not _number(value):
            return Choices((value, self.low, self.high))
        if self.step:
            values = Choices(self.grid())
            return self if any(_same(value, v) for v in values.values) else values.including(value)
        if self.log and value <= 0:
            return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value), log=False)
        return dataclasses.replace(self, low=min(self.low, value), high=max(self.high, value))

    def grid(self) -> tuple[float, ...]:
        """Every value of an interval with a step."""
        count = int(round((self.high - self.low) / self.step)) + 1
        return tuple(self.low + i * self.step for i in range(count))

    def __str__(self) -> str:
        if self.step:
            return f"range({_text(self.low)},{_text(self.high + self.step)},{_text(self.step)})"
        text = f"interval({_text(self.low)},{_text(self.high)})"
        return f"tag(log, {text})" if self.log else text


Domain = Choices | Interval


@dataclass(frozen=True)
class Space:
    """``<group>.<field>`` -> what is searched there, and the default of each. fixed: overrides of every trial.

    notes: sentences about domains that were widened.
    """

    domains: Mapping[str, Domain]
    default: Mapping[str, Any]
    fixed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, str]:
        """Name -> domain in Hydra's grammar; equal spaces have equal descriptions."""
        return {name: str(domain) for name, domain in sorted(self.domains.items())}

    def groups(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Values by group, as ``compose_run`` takes a preset."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            group, _, field = name.partition(".")
            found.setdefault(group, {})[field] = value
        return found


def _same(left: Any, right: Any) -> bool:
    """Equality in which True is not 1."""
    return type(left) is type(right) and left == right or (_number(left) and _number(right) and float(left) == float(right))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(_text(v) for v in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and not re.fullmatch(WORD, value):
        # Backslashes stand for themselves except before a quote.
        return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def split_overrides(overrides: Sequence[str]) -> tuple[tuple[Override, ...], tuple[str, ...]]:
    """Overrides that open a search, parsed, and those that fix one value. Raises ``InputError`` for unreadable ones."""
    searched, fixed = [], []
    for text in overrides:
        override = parse_override(text)
        if override.is_sweep_override():
            searched.append(override)
        else:
            fixed.append(text)
    return tuple(searched), tuple(fixed)


def declared_domains(group: str, config_class: type[Any]) -> dict[str, Domain]:
    """The search space that a config class declares, as ``<group>.<field>`` -> domain."""
    hints = typing.get_type_hints(config_class)
    found: dict[str, Domain] = {}
    for field in dataclasses.fields(config_class):
        sweep = field.metadata.get("sweep")
        if not sweep:
            continue
        types = typing.get_args(hints[field.name]) or (hints[field.name],)
        if float in types and len(sweep) == 2 and all(_number(v) for v in sweep):
            low, high = sorted(float(v) for v in sweep)
            found[f"{group}.{field.name}"] = Interval(low, high, log=low > 0 and high / low >= LOG_RATIO)
        else:
            found[f"{group}.{field.name}"] = Choices(tuple(sweep))
    return found


def asked_domain(override: Override, config_class: type[Any]) -> Domain:
    """The domain that a sweep override asks for, checked against the range and choices of its field."""
    name = override.key_or_group.partition(".")[2]
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    if name not in fields:
        raise unknown_name(f"setting of {config_class.__name__}", name, fields, do="use one of these settings")
    hint = typing.get_type_hints(config_class)[name]
    types = typing.get_args(hint) or (hint,)
    domain = read_domain(override, whole=int in types and float not in types)
    ends = domain.values if isinstance(domain, Choices) else (domain.low, domain.high)
    meta = fields[name].metadata
    low, high, allowed = meta.get("low"), meta.get("high"), meta.get("choices")
    for value in ends:
        wrong = _number(value) and (low is not None and value < low or high is not None and value > high)
        if wrong or (allowed is not None and value not in allowed):
            wanted = f"one of {', '.join(map(repr, allowed))}" if allowed is not None else f"values from {low} to {high}"
            raise InputError(
                f"search of {override.key_or_group}", got=_text(value), wanted=wanted, do="search inside the accepted range"
            )
    return domain


def read_domain(override: Override, whole: bool = False) -> Domain:
    """The domain of a sweep override, unchecked; ``whole``: of a field of integers."""
    value, text = override.value(), override.input_line or ""
    tags: set[str] = getattr(value, "tags", set())
    if unknown := set(tags) - {"log"}:
        raise InputError("tag of a search", got=", ".join(sorted(unknown)), wanted="log", do=EXAMPLE)
    log = "log" in tags
    if isinstance(value, ChoiceSweep):
        if log:
            raise InputError("the tag log on a list", got=text, wanted="an interval", do=EXAMPLE)
        distinct = {(type(v), str(v)): v for v in map(plain_value, value.list)}
        return Choices(tuple(distinct.values()))
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        return _interval(float(value.start), float(value.end), log, whole, text)
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None and value.step > 0 and not log:
        values = tuple(value.range())
        if not values:
            raise InputError("empty range", got=text, do=EXAMPLE)
        return Choices(values) if len(values) == 1 else Interval(values[0], values[-1], whole=whole, step=value.step)
    raise InputError("cannot search", got=text, wanted="choice(...), range(low,high,step) or interval(low,high)", do=EXAMPLE)


def _interval(low: float, high: float, log: bool, whole: bool, text: str) -> Interval:
    if not low < high or (log and low <= 0):
        raise InputError(
            "bounds of an interval",
            got=text,
            do=EXAMPLE,
            wanted="low < high" + (" and both positive, for a logarithmic scale" if log else ""),
        )
    if whole and (low != int(low) or high != int(high)):
        raise InputError("interval of whole numbers", got=text, wanted="whole bounds", do=EXAMPLE)
    return Interval(int(low), int(high), log, True) if whole else Interval(low, high, log)


def plain_value(value: Any) -> Any:
    """A value of Hydra's grammar as configs hold it: text without quotes, lists as tuples."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return tuple(plain_value(v) for v in value)
    if isinstance(value, dict):
        raise InputError("a choice that is a table", got=value, wanted="numbers, words, lists or null", do=EXAMPLE)
    return value


def build_space(configs: Mapping[str, Any], search: Sequence[str], overrides: Sequence[str]) -> Space:
    """The space of a sweep.

    Parameters
    ----------
    configs: group -> its default config instance (budget and fixed overrides laid over it).
    search: groups whose declared settings are searched.
    overrides: of the command line; a plain value fixes a setting, a sweep opens one, also one that declares none.

    Raises ``InputError`` for what cannot be searched and for a space without a setting.
    """
    asked, fixed = split_overrides(overrides)
    domains: dict[str, Domain] = {}
    for group in search:
        domains |= declared_domains(group, type(configs[group]))
    for text in fixed:
        domains.pop(text.partition("=")[0].strip().lstrip("+~"), None)
    for override in asked:
        group = override.key_or_group.partition(".")[0]
        if group not in configs:
            raise unknown_name("group of searched settings", group, configs, do=EXAMPLE)
        domains[override.key_or_group] = asked_domain(override, type(configs[group]))
    if not domains:
        raise InputError("the search space", got="no setting", wanted="at least one", do=f"search one, {EXAMPLE}")
    default = {name: getattr(configs[name.partition(".")[0]], name.partition(".")[2]) for name in domains}
    widened = {name: domain.including(default[name]) for name, domain in domains.items()}
    notes = tuple(
        f"{name}: {domains[name]} became {widened[name]}, so that it holds the default {_text(default[name])}"
        for name in sorted(domains)
        if widened[name] != domains[name]
    )
    return Space(dict(sorted(widened.items())), default, tuple(fixed), notes)
