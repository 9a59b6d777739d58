"""Quantisers beside faiss and plain torch in one run: same data, same threads, processor time, error stated.

Part of `make speed` only. Each test prints what it measured (run with ``-s``); nothing here fails on a slow machine.
Processor time is compared, so that other work on the machine changes the figures little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sidbench.benchmark.runtime.local import local_runtime
from sidbench.benchmark.testing.tokenizers import planted_features
from sidbench.datasets.base import Dataset
from sidbench.datasets.beauty import Beauty
from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.features.minilm import encode_minilm
from sidbench.datasets.features.text import item_text
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.reading.locate import LocalFiles
from sidbench.tokenizers.blocks.clustering.kmeans import kmeans
from sidbench.tokenizers.blocks.quantisers.streaming import encode_in_blocks
from sidbench.tokenizers.opq import Opq, OpqConfig
from sidbench.tokenizers.rqkmeans import RqKMeans, RqKMeansConfig
from sidbench.tokenizers.rqvae import RqVae, RqVaeConfig

THREADS = 1
RUNTIME = local_runtime(THREADS)
ROUNDS = 3


def items_of(content: np.ndarray) -> ItemFeatures:
    """Features that hold ``content`` float32 ``[N, D]`` as text, every item seen in training."""
    n = len(content)
    return replace(
        planted_features(10),
        modalities={"text": content},
        available={"text": np.ones(n, bool)},
        train_counts=np.ones(n, np.int64),
        richness=np.ones(n, np.float32),
        categories=None,
        item_text=None,
        item_keys=None,
    )


def decaying(n: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 ``[n, width]`` with a spectrum like that of sentence embeddings."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((n, width), dtype=np.float32)
    rows *= (1 + np.arange(width, dtype=np.float32)) ** -0.4
    return rows


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of one call, and its result."""
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def interleaved(sides: dict[str, Callable[[int], float]], rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Least processor seconds and mean error of each side; sides take turns, round ``r`` runs with seed ``r``."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for r in range(rounds):
        for name, side in sides.items():
            runs[name].append(seconds(partial(side, r)))
    return {name: (min(t for t, _ in values), float(np.mean([e for _, e in values]))) for name, values in runs.items()}


def report(title: str, results: dict[str, tuple[float, float]], base: str) -> None:
    """Print seconds, speed relative to ``base`` and the error of every side."""
    lines = [f"{title} ({THREADS} thread)"]
    lines += [f"  {name:38s} {t:8.2f} s  {results[base][0] / t:6.2f} x  error {e:.4f}" for name, (t, e) in results.items()]
    print("\n" + "\n".join(lines))  # noqa: T201 - the measurement is what this file is for


@pytest.fixture(scope="module")
def beauty() -> Dataset:
    return Beauty(Beauty.config_class()).load(LocalFiles())


@pytest.fixture(scope="module")
def text(beauty: Dataset) -> np.ndarray:
    """MiniLM embeddings of Beauty's items, float32 ``[12101, 384]`` (minutes to make)."""
    return encode_minilm(item_text(beauty.catalog), RUNTIME).embeddings


def residual_share(content: np.ndarray, left: np.ndarray) -> float:
    return float(np.square(left).sum() / np.square(content - content.mean(0)).sum())


@pytest.mark.data
def test_rqkmeans_beside_faiss(text: np.ndarray) -> None:
    """Target: RQ-KMeans 4 x 256 at least 3 times as fast as faiss with 25 iterations, at no larger error.

    Our start is a clustering of the 64 leading directions, so one iteration on whole rows reaches faiss's error. The
    rows of the tokenizer also encode the catalogue after the fit.
    """
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(THREADS)
    features = items_of(text)

    def theirs(seed: int) -> float:
        left = text.copy()
        for level in range(4):
            means = faiss.Kmeans(text.shape[1], 256, niter=25, seed=10 * seed + level, max_points_per_centroid=10**6)
            means.train(left)
            left = left - means.centroids[means.index.search(left, 1)[1][:, 0]]
        return residual_share(text, left)

    def block(seed: int) -> float:
        left = torch.from_numpy(text.copy())
        for level in range(4):
            found = kmeans(left, 256, Rng(seed).child(level), RUNTIME, iterations=1)
            left = left - found.centres[found.codes]
        return residual_share(text, left.numpy())

    def ours(iterations: int) -> Callable[[int], float]:
        def run(seed: int) -> float:
            config = RqKMeansConfig(code_length=4, codebook_size=256, iterations=iterations)
            fitted = RqKMeans(config).fit(features, Rng(seed), RUNTIME)
            return residual_share(text, text - fitted.encode(features, RUNTIME).reconstruction["text"])

        return run

    report(
        "RQ-KMeans 4 x 256, fit and encode",
        interleaved(
            {
                "faiss Kmeans, 25 iterations": theirs,
                "our k-means in the same loop": block,
                "our tokenizer, 1 iteration": ours(1),
                "our tokenizer, 25 iterations": ours(25),
            }
        ),
        "faiss Kmeans, 25 iterations",
    )


@pytest.mark.data
@pytest.mark.parametrize("blocks", [6, 16])
def test_opq_beside_faiss(text: np.ndarray, blocks: int) -> None:
    """Target: at least twice as fast as faiss OPQ with 10 iterations, at no larger error, 128 dimensions."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(THREADS)
    centred = text - text.mean(0)
    pca = faiss.PCAMatrix(text.shape[1], 128)
    pca.train(centred)
    reduced = pca.apply(centred)
    features, width = items_of(reduced), 128 // blocks * blocks

    def theirs(seed: int) -> float:
        rotation = faiss.OPQMatrix(128, blocks, width)
        rotation.niter = 10
        rotation.train(reduced)
        rotated = rotation.apply(reduced)
        quantiser = faiss.ProductQuantizer(width, blocks, 8)
        quantiser.train(rotated)
        lost = np.square(reduced).sum() - np.square(rotated).sum()
        left = np.square(rotated - quantiser.decode(quantiser.compute_codes(rotated))).sum()
        return float((left + lost) / np.square(reduced).sum())

    def ours(seed: int) -> float:
        config = OpqConfig(
            code_length=blocks, codebook_size=256, reduce_dim=128, alternations=15, first_iterations=4, later_iterations=1
        )
        fitted = Opq(config).fit(features, Rng(seed), RUNTIME)
        return residual_share(reduced, reduced - fitted.encode(features, RUNTIME).reconstruction["text"])

    report(
        f"OPQ{blocks} x 256",
        interleaved({"faiss, 10 iterations": theirs, "ours, 15 alternations": ours}, 2),
        "faiss, 10 iterations",
    )


class _PlainRqVae(nn.Module):
    """The least an RQ-VAE step can be: encoder, residual quantiser with straight-through gradient, decoder."""

    def __init__(self, widths: tuple[int, ...], levels: int, size: int) -> None:
        super().__init__()
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.books = nn.Parameter(0.01 * torch.randn(levels, size, widths[-1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.encoder(x)
        left, loss = z, x.new_zeros(())
        for book in self.books:
            code = torch.addmm(book.square().sum(1), left.detach(), book.t(), alpha=-2).argmin(1)
            near = book[code]
            loss = loss + F.mse_loss(near, left.detach()) + 0.25 * F.mse_loss(left, near.detach())
            left = left - near.detach()
        return F.mse_loss(self.decoder(z + (z - left - z).detach()), x) + loss / len(self.books)


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    made = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*made[:-1])


def test_rqvae_epoch_beside_plain_torch() -> None:
    """Target: an epoch of RQ-VAE (4 x 256, latent 32, batch 1024, 12,101 x 384) within 1.15 times a plain loop."""
    content = decaying(12_101, 384)
    features, steps = items_of(content), 12

    def plain(seed: int) -> float:
        model = _PlainRqVae((384, 512, 256, 128, 32), 4, 256)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        x = torch.from_numpy(content)
        for _ in range(3):
            order = torch.randperm(len(x))
            for start in range(0, 1024 * steps, 1024):
                rows = order[start : start + 1024]
                loss = model(x[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                loss.item()
        return float(loss.detach())

    def ours(epochs: int) -> Callable[[int], float]:
        def run(seed: int) -> float:
            config = RqVaeConfig(
                code_length=4,
                codebook_size=256,
                hidden=(512, 256, 128),
                latent_dim=32,
                batch_size=1024,
                steps=epochs * steps,
            )
            return RqVae(config).fit(features, Rng(seed), RUNTIME).diagnostics().get("loss_native", 0.0)

        return run

    results = interleaved({"plain torch, 3 epochs": plain, "ours, 4 epochs": ours(4), "ours, 1 epoch": ours(1)})
    three = results["ours, 4 epochs"][0] - results["ours, 1 epoch"][0]
    results["ours, 3 epochs without start"] = (three, results["ours, 4 epochs"][1])
    report("RQ-VAE epochs", results, "plain torch, 3 epochs")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["rqkmeans", "opq", "rqvae"])
def test_five_million_items_encode_in_bounded_memory(family: str, tmp_path: Path) -> None:
    """Target: 5 million items of 128 dimensions, less than 2 GB above the input (which is memory-mapped here).

    Everything the process holds counts, libraries and the fit too: the allocator keeps freed blocks, so a difference
    to the time before would miss what an earlier test left behind. Run it before the tests that fit a million items.
    """
    n, width = 5_000_000, 128
    content = np.lib.format.open_memmap(tmp_path / "items.npy", "w+", np.float32, (n, width))
    for start in range(0, n, 100_000):
        content[start : start + 100_000] = decaying(100_000, width, start)
    content.flush()
    content = np.load(tmp_path / "items.npy", mmap_mode="r")
    tokenizer = {
        "rqkmeans": lambda: RqKMeans(RqKMeansConfig(code_length=6, codebook_size=100, iterations=5)),
        "opq": lambda: Opq(OpqConfig(code_length=8, codebook_size=100, alternations=3)),
        "rqvae": lambda: RqVae(RqVaeConfig(code_length=6, codebook_size=100, hidden=(256, 128), latent_dim=64, steps=50)),
    }[family]().fit(items_of(np.array(content[:20_000])), Rng(0), RUNTIME)
    features = items_of(content)
    start, observed = time.perf_counter(), _Watched(tokenizer)
    sids = encode_in_blocks(observed, features, RUNTIME)
    wall = time.perf_counter() - start
    assert sids.codes.shape[0] == n
    above = max(observed.peak, _anonymous_bytes()) / 2**30
    print(  # noqa: T201
        f"\n{family}: {n / wall / 1e3:,.0f} thousand items a second ({wall:.0f} s wall), {above:.2f} GiB resident "
        "beside the mapped input"
    )
    assert above < 2


class _Watched:
    """A tokenizer that looks at the memory in use after every block."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.peak, self.itemwise = tokenizer, 0, tokenizer.itemwise

    def encode(self, features: ItemFeatures, runtime: Any) -> Any:
        sids = self.tokenizer.encode(features, runtime)
        self.peak = max(self.peak, _anonymous_bytes())
        return sids


def _anonymous_bytes() -> int:
    """Resident memory that is no file: mapped input pages do not count (Linux)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024


@pytest.mark.parametrize("family", ["rqkmeans", "opq", "rqvae step"])
def test_training_cost_grows_linearly_with_items(family: str) -> None:
    """Target: ten times the items cost at most about ten times the processor time (64 dimensions, 3 x 64)."""
    made: dict[str, Callable[[], Any]] = {
        "rqkmeans": lambda: RqKMeans(RqKMeansConfig(code_length=3, codebook_size=64, iterations=2)),
        "opq": lambda: Opq(
            OpqConfig(code_length=4, codebook_size=64, alternations=2, first_iterations=2, later_iterations=1)
        ),
    }
    times = {}
    for n in (10_000, 100_000, 1_000_000):
        features = items_of(decaying(n, 64))
        if family == "rqvae step":
            steps = n // 4096 + 1
            make = lambda steps=steps: RqVae(  # noqa: E731
                RqVaeConfig(code_length=3, codebook_size=64, hidden=(64,), latent_dim=16, batch_size=4096, steps=steps)
            )
        else:
            make = made[family]
        times[n] = seconds(lambda make=make, features=features: make().fit(features, Rng(0), RUNTIME))[0]
    lines = [f"  {n:>9,} items {t:7.2f} s  {1e6 * t / n:6.2f} us an item" for n, t in times.items()]
    print(f"\n{family}, one fit of fixed passes\n" + "\n".join(lines))  # noqa: T201
