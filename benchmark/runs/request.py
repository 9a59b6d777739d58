"""What the command line asks for, as values: the commands' bodies never see options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidbench.benchmark.config.presets import Preset, choose_presets
from sidbench.benchmark.config.run_config import NO_POLICY, RunConfig
from sidbench.benchmark.plugins.registry import Plugin, Registry, installed
from sidbench.datasets.foundation.errors import InputError, unknown_name

RERUN = ("never", "failed", "always")
NO_TOKENIZER = "none"
NO_RECOMMENDER = "none"
NO_PRESET = "none"
LAUNCHERS = ("inline", "local", "ray", "slurm")
CONTROLS = "controls"  # as a tokenizer: every control


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a comma list, blanks around them removed, repeats dropped."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def option_list(option: str, text: str) -> tuple[str, ...]:
    """The entries of an option that needs at least one. Raises ``InputError`` when there is none."""
    if not (entries := split_list(text)):
        raise InputError(option, got=repr(text), wanted="at least one name")
    return entries


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
        raise InputError(
            "--seed",
            got=repr(text),
            wanted="non-negative whole numbers with commas between them",
            do="for example --seed 0,1,2",
        )
    return tuple(dict.fromkeys(int(s) for s in seeds))


def named_values(entries: Sequence[str], option: str, example: str = "text=text.npy") -> tuple[tuple[str, str], ...]:
    """``name=value`` entries as pairs. Raises ``InputError`` for an entry without both, or a repeated name."""
    pairs = []
    for entry in entries:
        name, _, value = (part.strip() for part in entry.partition("="))
        if not (name and value):
            raise InputError(option, got=repr(entry), wanted="name=value", do=f"for example {option} {example}")
        pairs.append((name, value))
    if len(dict(pairs)) != len(pairs):
        raise InputError(option, got=", ".join(entries), wanted="each name once")
    return tuple(pairs)


@dataclass(frozen=True)
class LaunchOptions:
    """Where the runs of a grid happen.

    launcher: one of `LAUNCHERS`. jobs: runs at a time, 0 for the launcher's default. memory_gb: memory of one run, 0 for
    no claim. address: of a running Ray cluster, "" to start one here. slurm: (parameter, value) pairs for submitit.
    """

    launcher: str = "inline"
    jobs: int = 0
    memory_gb: float = 0.0
    address: str = ""
    slurm: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.launcher not in LAUNCHERS:
            raise unknown_name("--launcher", self.launcher, LAUNCHERS, do="use one of these")
        owners = {
            "--jobs": (self.jobs, LAUNCHERS[1:]),
            "--memory-gb": (self.memory_gb, ("ray", "slurm")),
            "--ray-address": (self.address, ("ray",)),
            "--slurm": (self.slurm, ("slurm",)),
        }
        for option, (value, launchers) in owners.items():
            if value and self.launcher not in launchers:
                raise InputError(
                    option,
                    got=f"--launcher {self.launcher}",
                    wanted=f"--launcher {' or '.join(launchers)}",
                    do=f"add --launcher {launchers[0]}, or leave {option} out",
                )


@dataclass(frozen=True)
class RunRequest:
    """`bench run`: every combination of its lists, one run each.

    tokenizers, recommenders, datasets, collisions: canonical plugin names, known to exist. overrides: Hydra overrides
    (``tokenizer.codebook_size=256``, or several values ``tokenizer.codebook_size=64,128``). common: the settings that all
    runs share (device, threads, ...); its other fields mean nothing. presets: preset name -> (dataset, tokenizer) -> the
    preset a run has; "none" is the defaults. skipped: plugins that ``all`` left out, because they are broken or need a
    setting, with the reason; to be shown, never dropped in silence. launch: where the runs happen. debug: show the
    traceback of every failed run. json: print one JSON object instead of tables. dry_run: say what would be run.
    """

    tokenizers: tuple[str, ...]
    datasets: tuple[str, ...]
    recommenders: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[str, ...] = ("quick",)
    ties: tuple[str, ...] = ("shuffled",)
    collisions: tuple[str, ...] = (NO_POLICY,)
    overrides: tuple[str, ...] = ()
    common: RunConfig = RunConfig()
    presets: Mapping[str, Mapping[tuple[str, str], Preset]] = field(default_factory=lambda: {NO_PRESET: {}})
    data_dir: Path | None = None
    rerun: str = "failed"
    skipped: tuple[str, ...] = ()
    launch: LaunchOptions = LaunchOptions()
    debug: bool = False
    json: bool = False
    dry_run: bool = False

    @staticmethod
    def from_options(
        tokenizer: str,
        dataset: str,
        recommender: str,
        seed: str,
        *,
        budget: str = "quick",
        ties: str = "shuffled",
        collisions: str = NO_POLICY,
        overrides: Sequence[str] = (),
        preset: str = "",
        data_dir: Path | None = None,
        rerun: str = "failed",
        common: Mapping[str, Any] | None = None,
        launch: LaunchOptions = LaunchOptions(),
        debug: bool = False,
        json: bool = False,
        dry_run: bool = False,
        registry: Registry | None = None,
    ) -> RunRequest:
        """Check the options against the installed plugins; raises ``InputError`` before any work is done.

        common: values of `SHARED_OPTIONS`, the defaults where none are given.
        """
        registry = registry or installed()
        if rerun not in RERUN:
            raise unknown_name("--rerun rule", rerun, RERUN, do="use one of these")
        skipped = [
            reason
            for kind, text in (("tokenizer", tokenizer), ("recommender", recommender))
            if split_list(text) == ("all",)
            for p in registry.plugins(kind).values()
            if (reason := _left_out(p, overrides))
        ]
        policies = tuple(
            dict.fromkeys(
                name if name == NO_POLICY else registry.find("collisions", name).name
                for name in option_list("--collisions", collisions)
            )
        )
        names = plugin_names("tokenizer", tokenizer, registry, overrides)
        if policies != (NO_POLICY,) and names == (NO_TOKENIZER,):
            raise InputError(
                "--collisions",
                got=f"{collisions} without tokenizer",
                wanted="a tokenizer's semantic IDs",
                do="add --tokenizer NAME, or leave --collisions out",
            )
        models = plugin_names("recommender", recommender, registry)
        if not models and names == (NO_TOKENIZER,):
            raise InputError(
                "bench run",
                got="neither tokenizer nor recommender",
                wanted="one of them",
                do="add --tokenizer NAME or --recommender NAME",
            )
        datasets = tuple(dict.fromkeys(registry.find("dataset", n).name for n in option_list("--dataset", dataset)))
        presets: dict[str, Mapping[tuple[str, str], Preset]] = {}
        for name in split_list(preset) or (NO_PRESET,):
            presets[name] = {}
            for data in datasets if name != NO_PRESET else ():
                chosen, without = choose_presets(
                    {n: registry.find("tokenizer", n) for n in names if n != NO_TOKENIZER}, data, name
                )
                presets[name] = {**presets[name], **{(data, n): p for n, p in chosen.items()}}
                skipped += without
        return RunRequest(
            names,
            datasets,
            models,
            seed_list(seed),
            option_list("--budget", budget),
            option_list("--ties", ties),
            policies,
            tuple(overrides),
            RunConfig(**(common or {})),
            presets,
            data_dir,
            rerun,
            tuple(skipped),
            launch,
            debug,
            json,
            dry_run,
        )


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
