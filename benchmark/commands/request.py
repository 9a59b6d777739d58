"""What the command line asks for, as values: the commands' bodies never see options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidbench.benchmark.registry import Registry, installed
from sidbench.datasets.foundation.errors import InputError, unknown_name

RERUN = ("never", "failed", "always")
NO_TOKENIZER = "none"


def split_list(text: str) -> tuple[str, ...]:
    """The entries of a comma list, blanks around them removed, repeats dropped."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def plugin_names(kind: str, text: str, registry: Registry) -> tuple[str, ...]:
    """Canonical names of a comma list of plugins; ``all`` is every usable one, and the
    tokenizer ``none`` stands for none. Raises ``InputError`` for unknown and broken ones.
    """
    wanted = split_list(text)
    if kind == "tokenizer" and wanted == (NO_TOKENIZER,):
        return wanted
    if not wanted:
        raise InputError(f"--{kind}", got=repr(text), wanted="at least one name", do="run `bench list`")
    names = registry.names(kind) if wanted == ("all",) else tuple(registry.find(kind, n).name for n in wanted)
    if not names:
        raise InputError(f"no usable {kind}", got="none installed", wanted="at least one", do="run `bench list`")
    return tuple(dict.fromkeys(names))


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
    (``tokenizer.codebook_size=256``). threads: 0 for all cores. skipped: plugins that ``all`` left out because they are
    broken, with the reason; to be shown, never dropped in silence. debug: show the traceback of every failed run.
    json: print one JSON object instead of tables.
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

    @staticmethod
    def from_options(tokenizer: str, dataset: str, recommender: str, seed: str, *, budget: str, ties: str,
                     data_dir: Path | None, device: str, precision: str, threads: int, json: bool, rerun: str,
                     overrides: Sequence[str], debug: bool = False, registry: Registry | None = None) -> RunRequest:
        """Check the options against the installed plugins; raises ``InputError`` before any work is done."""
        registry = registry or installed()
        if rerun not in RERUN:
            raise unknown_name("--rerun rule", rerun, RERUN, do="use one of these")
        skipped = [f"{kind} {p.name} is broken: {p.path}: {p.broken}"
                   for kind, text in (("tokenizer", tokenizer), ("recommender", recommender))
                   if split_list(text) == ("all",) for p in registry.plugins(kind).values() if p.broken]
        return RunRequest(
            plugin_names("tokenizer", tokenizer, registry), registry.find("dataset", dataset).name,
            plugin_names("recommender", recommender, registry), seed_list(seed), budget, ties, data_dir, device,
            precision, threads, json, rerun, tuple(overrides), debug, tuple(skipped))


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
