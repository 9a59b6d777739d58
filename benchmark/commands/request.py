"""What the command line asks for, as values: the commands' bodies never see options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidbench.benchmark.presets import Preset, choose_presets
from sidbench.benchmark.registry import Plugin, Registry, installed
from sidbench.datasets.foundation.errors import InputError, unknown_name

RERUN = ("never", "failed", "always")
NO_TOKENIZER = "none"
NO_RECOMMENDER = "none"
NO_POLICY = "none"
CONTROLS = "controls"  # as a tokenizer: every control


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a comma list, blanks around them removed, repeats dropped."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def missing_settings(plugin: Plugin, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Settings that a plugin cannot run without and that no override ``<kind>.<setting>=...`` gives."""
    given = {text.partition("=")[0].strip() for text in overrides}
    return tuple(n for n in plugin.info.get("needs_settings", ()) if f"{plugin.kind}.{n}" not in given)


def plugin_names(kind: str, text: str, registry: Registry, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Canonical names of a comma list of plugins; ``all`` is every usable one whose needed settings are given, the
    tokenizer ``none`` stands for none, ``controls`` for every control, and the recommender ``none`` for an empty list
    (SIDs are measured, not used).
    Raises ``InputError`` for unknown and broken ones.
    """
    wanted = split_list(text)
    if kind == "recommender" and wanted == (NO_RECOMMENDER,):
        return ()
    if kind == "tokenizer" and wanted == (NO_TOKENIZER,):
        return wanted
    if not wanted:
        raise InputError(f"--{kind}", got=repr(text), wanted="at least one name", do="run `bench list`")
    if wanted == ("all",):
        names = tuple(n for n in registry.names(kind) if not missing_settings(registry.find(kind, n), overrides))
    else:
        names = tuple(name for n in wanted for name in _members(kind, n, registry))
    if not names:
        raise InputError(f"no usable {kind}", got="none installed", wanted="at least one", do="run `bench list`")
    return tuple(dict.fromkeys(names))


def _members(kind: str, name: str, registry: Registry) -> tuple[str, ...]:
    """Canonical names that one entry of a list stands for."""
    if kind == "tokenizer" and name == CONTROLS:
        return tuple(n for n in registry.names(kind) if registry.find(kind, n).info.get("control", False))
    return (registry.find(kind, name).name,)


def seed_list(text: str) -> tuple[int, ...]:
    """Non-negative seeds of a comma list. Raises ``InputError`` for anything else."""
    seeds = split_list(text)
    if not seeds or not all(s.isascii() and s.isdigit() for s in seeds):
        raise InputError("--seed", got=repr(text), wanted="non-negative whole numbers with commas between them",
                         do="for example --seed 0,1,2")
    return tuple(dict.fromkeys(int(s) for s in seeds))


def named_values(entries: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    """``name=value`` entries as pairs. Raises ``InputError`` for an entry without both, or a repeated name."""
    pairs = []
    for entry in entries:
        name, _, value = (part.strip() for part in entry.partition("="))
        if not (name and value):
            raise InputError(option, got=repr(entry), wanted="name=value", do=f"for example {option} text=text.npy")
        pairs.append((name, value))
    if len(dict(pairs)) != len(pairs):
        raise InputError(option, got=", ".join(entries), wanted="each name once")
    return tuple(pairs)


@dataclass(frozen=True)
class RunRequest:
    """`bench run`: every (tokenizer, seed) on one dataset, with these recommenders.

    tokenizers, recommenders, dataset: canonical plugin names, known to exist. overrides: Hydra overrides
    (``tokenizer.codebook_size=256``). threads: 0 for all cores. skipped: plugins that ``all`` left out, because they are
    broken or need a setting, with the reason; to be shown, never dropped in silence. debug: show the traceback of every
    failed run. json: print one JSON object instead of tables. collisions: canonical name of a collision policy.
    presets: tokenizer -> the preset it runs with. accumulate: batches of one optimiser step. compile: losses of trainings
    through ``torch.compile``.
    """

    tokenizers: tuple[str, ...]
    dataset: str
    recommenders: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    budget: str = "quick"
    ties: str = "shuffled"
    data_dir: Path | None = None
    device: str = "auto"
    precision: str = "fp32"
    threads: int = 0
    json: bool = False
    rerun: str = "failed"
    overrides: tuple[str, ...] = ()
    debug: bool = False
    skipped: tuple[str, ...] = ()
    collisions: str = NO_POLICY
    presets: Mapping[str, Preset] = field(default_factory=dict)
    accumulate: int = 1
    compile: bool = False

    @staticmethod
    def from_options(tokenizer: str, dataset: str, recommender: str, seed: str, *, budget: str, ties: str,
                     data_dir: Path | None, device: str, precision: str, threads: int, json: bool, rerun: str,
                     overrides: Sequence[str], debug: bool = False, registry: Registry | None = None,
                     collisions: str = NO_POLICY, preset: str = "", accumulate: int = 1,
                     compile: bool = False) -> RunRequest:
        """Check the options against the installed plugins; raises ``InputError`` before any work is done."""
        registry = registry or installed()
        if rerun not in RERUN:
            raise unknown_name("--rerun rule", rerun, RERUN, do="use one of these")
        skipped = [reason for kind, text in (("tokenizer", tokenizer), ("recommender", recommender))
                   if split_list(text) == ("all",) for p in registry.plugins(kind).values()
                   if (reason := _left_out(p, overrides))]
        policy = collisions if collisions == NO_POLICY else registry.find("collisions", collisions).name
        names = plugin_names("tokenizer", tokenizer, registry, overrides)
        if policy != NO_POLICY and names == (NO_TOKENIZER,):
            raise InputError("--collisions", got=f"{policy} without tokenizer", wanted="a tokenizer's semantic IDs",
                             do="add --tokenizer NAME, or leave --collisions out")
        models = plugin_names("recommender", recommender, registry)
        if not models and names == (NO_TOKENIZER,):
            raise InputError("bench run", got="neither tokenizer nor recommender", wanted="one of them",
                             do="add --tokenizer NAME or --recommender NAME")
        data = registry.find("dataset", dataset).name
        presets: Mapping[str, Preset] = {}
        if preset:
            presets, without = choose_presets({n: registry.find("tokenizer", n) for n in names if n != NO_TOKENIZER}, data,
                                              preset)
            skipped += without
        return RunRequest(
            names, data, models, seed_list(seed), budget, ties, data_dir, device, precision, threads, json, rerun,
            tuple(overrides), debug, tuple(skipped), policy, presets, accumulate, compile)


def _left_out(plugin: Plugin, overrides: Sequence[str]) -> str:
    """Why ``all`` leaves a plugin out; empty when it does not."""
    if plugin.broken:
        return f"{plugin.kind} {plugin.name} is broken: {plugin.path}: {plugin.broken}"
    missing = missing_settings(plugin, overrides)
    settings = ", ".join(f"{plugin.kind}.{n}=..." for n in missing)
    return f"{plugin.kind} {plugin.name} is left out: it needs {settings}" if missing else ""


@dataclass(frozen=True)
class ImportRequest:
    """`bench data import`: a table of interactions, and optionally items and embeddings, as a dataset folder.

    name: of the dataset. embeddings: (modality, file) pairs. out: folder to write, ``None`` for the default place of
    ``name``. columns: (role, column) pairs where the names are not the usual ones (the roles are those of
    ``sidbench.datasets.reading.importing``). time_unit: "s" or "ms". overwrite: replace an earlier import.
    """

    name: str
    interactions: Path
    items: Path | None = None
    embeddings: tuple[tuple[str, Path], ...] = ()
    out: Path | None = None
    columns: tuple[tuple[str, str], ...] = ()
    time_unit: str = "s"
    overwrite: bool = False
