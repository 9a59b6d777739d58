"""One measured stage of ``scale.py``, in a process of its own so that peaks of memory belong to it alone.

Called with a task as JSON, prints the measurement as JSON. Resident memory is sampled every 10 ms: anonymous pages
(``RssAnon``: what the process itself holds) and all pages (``VmRSS``: with those of memory-mapped files), both above what
the imports left.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sidbench.benchmark.metrics.quantisation import collision_numbers, distribution_numbers, quantisation_metrics
from sidbench.benchmark.runtime.local import LocalRuntime, local_runtime
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.benchmark.stages.tasks import retrieval_data
from sidbench.benchmark.store.serialization import load_mapped, load_sids, load_state, save_sids, save_state
from sidbench.datasets.base import Interactions
from sidbench.datasets.features.assemble import assemble_features
from sidbench.datasets.features.base import ItemFeatures, scale_modality
from sidbench.datasets.foundation.hashing import hash_file, hash_strings
from sidbench.datasets.foundation.mapped import BLOCK_ROWS, forget
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.datasets.splits.base import Sequences
from sidbench.datasets.splits.leave_last_out import leave_last_out
from sidbench.datasets.synthetic import Synthetic
from sidbench.recommenders.base import RetrievalData
from sidbench.recommenders.decoding.trie import SidTrie
from sidbench.recommenders.mtp import Mtp
from sidbench.recommenders.sasrec import Sasrec
from sidbench.tokenizers.base import SemanticIds, Tokenizer
from sidbench.tokenizers.blocks.quantisers.streaming import encode_in_blocks
from sidbench.tokenizers.opq import Opq
from sidbench.tokenizers.rqkmeans import RqKMeans
from sidbench.tokenizers.rqvae import RqVae

LENGTH, SIZE = 4, 256  # profile A: 4 codes of 256
CENTRES = 2048
EVENTS_PER_ITEM = 1  # of the stage split; ten events a user
RANKED_USERS = 64
RECONSTRUCTED = "encode_reconstruct"
TOKENIZERS: dict[str, tuple[type[Tokenizer], dict[str, Any]]] = {
    "rqkmeans": (RqKMeans, {"iterations": 5}),
    "opq": (Opq, {"alternations": 3}),
    "rqvae": (RqVae, {"hidden": (256, 128), "latent_dim": 32, "steps": 200, "autoencoder_steps": 50}),
}


@dataclass
class Meter:
    """Wall and CPU seconds and peaks of memory of the measured part of a stage; ``facts`` are further numbers."""

    facts: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _peaks: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what runs inside."""
        before = resident()
        sampler = threading.Thread(target=self._sample, daemon=True)
        wall, cpu = time.perf_counter(), time.process_time()
        sampler.start()
        yield
        self.facts |= {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        self._stop.set()
        sampler.join()
        self.facts |= {
            "peak_anonymous_bytes": self._peaks["RssAnon"] - before["RssAnon"],
            "peak_resident_bytes": self._peaks["VmRSS"] - before["VmRSS"],
        }

    def _sample(self) -> None:
        while True:
            self._peaks = {name: max(value, self._peaks.get(name, 0)) for name, value in resident().items()}
            if self._stop.wait(0.01):
                return


def resident() -> dict[str, int]:
    """Bytes of ``RssAnon`` and ``VmRSS`` of this process (Linux)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[0] in ("RssAnon:", "VmRSS:")}


@dataclass(frozen=True)
class Task:
    """A stage with its sizes; ``trained`` items have training events, ``work`` holds files that a later stage reads."""

    stage: str
    items: int
    dims: int
    tokenizer: str
    trained: int
    work: Path

    @property
    def content(self) -> Path:
        return self.work / f"content-{self.items}-{self.dims}.npy"

    @property
    def state(self) -> Path:
        return self.work / f"state-{self.tokenizer}-{self.items}-{self.dims}"

    @property
    def codes(self) -> Path:
        return self.work / f"codes-{self.tokenizer}-{self.items}-{self.dims}"

    def features(self) -> ItemFeatures:
        """Features over the memory-mapped content."""
        n, counts = self.items, np.zeros(self.items, np.int64)
        counts[np.arange(self.trained) * n // self.trained] = 1
        return ItemFeatures(
            {"text": np.load(self.content, mmap_mode="r")},
            {"text": np.ones(n, bool)},
            counts,
            (counts > 0).astype(np.float32),
            "log_count",
            Sequences(np.zeros(1, np.int64), np.zeros(0, np.int32)),
        )

    def sids(self) -> SemanticIds:
        """Codes as a quantiser gives them to similar items: drawn around the codes of groups."""
        draw = np.random.default_rng(0)
        group = draw.integers(0, SIZE, (self.items // 20 + 1, LENGTH), dtype=np.int32)[np.arange(self.items) // 20]
        anew = draw.random((self.items, LENGTH), dtype=np.float32) < [0.02, 0.2, 0.6, 1.0][:LENGTH]
        group[anew] = draw.integers(0, SIZE, int(anew.sum()), dtype=np.int32)
        return SemanticIds(group, np.full(LENGTH, SIZE, np.int32), ordered=True)

    def tokenizer_object(self) -> Tokenizer:
        cls, settings = TOKENIZERS[self.tokenizer]
        return cls(cls.config_class(code_length=LENGTH, codebook_size=SIZE, **settings))

    def users(self) -> RetrievalData:
        """512 users with 12 random events each, so that only the number of items changes."""
        draw, users, length = np.random.default_rng(0), 512, 12
        events = Interactions(
            np.repeat(np.arange(users, dtype=np.int32), length),
            draw.integers(0, self.items, users * length, dtype=np.int32),
            np.tile(np.arange(length, dtype=np.int64), users),
            None,
            np.arange(users * length, dtype=np.int64),
        )
        return retrieval_data(leave_last_out(events, users, "file", Rng(0)), users, self.items)


def write(task: Task, meter: Meter) -> None:
    """Planted float32 rows: centres with a decaying spectrum and noise, block by block into one .npy."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, task.dims)).astype(np.float32)
    spectrum = (np.arange(1, task.dims + 1) ** -0.5).astype(np.float32)
    with meter.measured():
        rows = np.lib.format.open_memmap(task.content, "w+", np.float32, (task.items, task.dims))
        for start in range(0, task.items, BLOCK_ROWS):
            draw, size = np.random.default_rng([1, start]), min(BLOCK_ROWS, task.items - start)
            noise = draw.standard_normal((size, task.dims), dtype=np.float32)
            rows[start : start + size] = (centres[draw.integers(0, CENTRES, size)] + noise) * spectrum
            forget(rows)
        rows.flush()
    meter.facts["bytes"] = task.content.stat().st_size


def assemble(task: Task, meter: Meter) -> None:
    """Checks, scaling (in place, to spare the disk a second copy) and the content hash of the features."""
    rows = np.load(task.content, mmap_mode="r+")

    def in_place(name: str, array: np.ndarray, available: np.ndarray, n_items: int) -> tuple[np.ndarray, float]:
        return scale_modality(name, array, available, n_items, out=rows)

    with meter.measured():
        assemble_features(
            raw={"text": rows},
            available={},
            absent={},
            train_counts=np.ones(task.items, np.int64),
            sequences=task.features().sequences,
            scale=in_place,
        )


def fit(task: Task, meter: Meter) -> None:
    """Codebooks from the items with training events; of more than a million a sample."""
    features, runtime, tokenizer = task.features(), local_runtime(), task.tokenizer_object()
    with meter.measured():
        tokenizer.fit(features, Rng(0), runtime)
    task.state.mkdir(exist_ok=True)
    save_state(tokenizer.state_dict(), {}, task.state)


def encode(task: Task, meter: Meter) -> None:
    """SIDs of all items, saved and read back; without reconstructions unless the stage says so."""
    features, runtime, tokenizer = task.features(), local_runtime(), task.tokenizer_object()
    tokenizer.load_state_dict(load_state(task.state)[0])
    shutil.rmtree(task.codes, ignore_errors=True)
    task.codes.mkdir()
    with meter.measured():
        kept = task.stage == RECONSTRUCTED
        save_sids(encode_in_blocks(tokenizer, features, runtime, reconstruction=kept, scratch=task.codes), task.codes)
    sids = load_sids(task.codes)
    sids.check(task.items)
    meter.facts["bytes"] = sum(array.nbytes for array in load_mapped(task.codes / "sids").values())


def checksum(task: Task, meter: Meter) -> None:
    """What every read of a cache entry costs beside its loading: SHA-256 of its bytes."""
    with meter.measured():
        hash_file(task.content)


def keys(task: Task, meter: Meter) -> None:
    """The Python objects of a catalogue: a tuple of item keys, the index by key, and their hash."""
    with meter.measured():
        names = tuple(f"B{i:09d}" for i in range(task.items))
        index = {name: i for i, name in enumerate(names)}
        hash_strings(names)
        del index


def synthetic(task: Task, meter: Meter) -> None:
    """The planted catalogue without pictures, a tenth as many users as items."""
    config = Synthetic.config_class(n_items=task.items, n_users=max(100, task.items // 10), picture_size=0)
    with meter.measured():
        made = Synthetic(config).load(LocalFiles())
        meter.facts["events"] = len(made.interactions)


def split(task: Task, meter: Meter) -> None:
    """Leave-last-out and the retrieval data of as many events as items, ten a user."""
    events, draw = task.items * EVENTS_PER_ITEM, np.random.default_rng(0)
    users = events // 10
    data = Interactions(
        np.repeat(np.arange(users, dtype=np.int32), 10),
        draw.integers(0, task.items, users * 10, np.int32),
        np.tile(np.arange(10, dtype=np.int64), users),
        None,
        np.arange(users * 10, dtype=np.int64),
    )
    with meter.measured():
        retrieval_data(leave_last_out(data, users, "shuffled", Rng(0)), users, task.items)


def trie(task: Task, meter: Meter) -> None:
    """The trie of all SIDs."""
    sids, runtime = task.sids(), local_runtime()
    with meter.measured():
        SidTrie.of(sids, runtime)


def codes(task: Task, meter: Meter) -> None:
    """Distribution and collision metrics: those that read nothing but codes."""
    sids, traffic = task.sids(), np.ones(task.items, np.int64)
    with meter.measured():
        distribution_numbers(sids.codes, sids.sizes, True, traffic)
        collision_numbers(sids.codes, traffic)


def quantisation(task: Task, meter: Meter) -> None:
    """All quantisation metrics with one modality, a tree of 400 leaves, and one pair of neighbours an item."""
    features, sids = task.features(), task.sids()
    leaf = np.arange(task.items) * 400 // task.items
    together = Sequences(
        np.arange(0, task.items + 1, 2, dtype=np.int64),
        np.random.default_rng(2).integers(0, task.items, task.items // 2 * 2, dtype=np.int32),
    )
    known = ItemFeatures(
        features.modalities,
        features.available,
        features.train_counts,
        features.richness,
        "log_count",
        together,
        categories=tuple(("all", str(n)) for n in leaf.tolist()),
    )
    with meter.measured():
        quantisation_metrics(sids, known, Rng(0))


def _recommend(task: Task, meter: Meter, model: Mtp | Sasrec, sids: SemanticIds | None) -> None:
    """Training steps, then exact ranks of some users among all items; peaks are of both together."""
    data, runtime = task.users(), StageRuntime(LocalRuntime("cpu", threads=1))
    with meter.measured():
        model.fit(data, sids, Rng(0), runtime)
        start = time.perf_counter()
        histories = Sequences(
            data.test_history.indptr[: RANKED_USERS + 1], data.test_history.items[: data.test_history.indptr[RANKED_USERS]]
        )
        model.rank_targets(histories, data.test_target[:RANKED_USERS], sids, runtime)
        meter.facts["rank_ms_per_user"] = 1e3 * (time.perf_counter() - start) / RANKED_USERS
    meter.facts["step_ms"] = next(iter(runtime.logs.values())).step_ms


def mtp(task: Task, meter: Meter) -> None:
    """Multi-token prediction over codes: a step does not depend on N, an exact rank does."""
    _recommend(task, meter, Mtp(Mtp.config_class(epochs=1, validation_users=1, width=64, layers=2)), task.sids())


def sasrec(task: Task, meter: Meter) -> None:
    """SASRec, the behaviour encoder: full softmax, so a step grows with N."""
    _recommend(task, meter, Sasrec(Sasrec.config_class(epochs=1, validation_users=1)), None)


STAGES: dict[str, Callable[[Task, Meter], None]] = {
    "write": write,
    "assemble": assemble,
    "checksum": checksum,
    "fit": fit,
    "encode": encode,
    RECONSTRUCTED: encode,
    "keys": keys,
    "synthetic": synthetic,
    "split": split,
    "trie": trie,
    "codes": codes,
    "quantisation": quantisation,
    "mtp": mtp,
    "sasrec": sasrec,
}


def main() -> None:
    told = json.loads(sys.argv[1])
    task, meter = Task(**{**told, "work": Path(told["work"])}), Meter()
    STAGES[task.stage](task, meter)
    sys.stdout.write(json.dumps(meter.facts) + "\n")


if __name__ == "__main__":
    main()
