"""OPQ: optimised product quantisation, for any codebook size.

Ge et al., "Optimized Product Quantization", TPAMI 2014; as a semantic ID in RPG (arXiv 2506.05781). With X centred
``[N, D]`` and ``D = L s``, alternate between Lloyd in each block of ``Y = X R`` and the orthogonal Procrustes problem
``min_R ||X R - Y_hat||``, solved by ``U S V^T = svd(X^T Y_hat)``, ``R = U V^T``. The schedule (50 alternations, 40
Lloyd iterations in the first and 4 in each later one) is that of FAISS, which only takes codebooks of ``2^n``.
Positions are unordered. Reconstruction: ``X_hat = Y_hat R^T P^T + mu`` in the space of the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sidbench.datasets.features.base import ItemFeatures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.runtime import Runtime, to_numpy
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.foundation.settings import setting
from sidbench.tokenizers.base import (
    SemanticIds,
    Tokenizer,
    TokenizerConfig,
    TokenizerInfo,
    check_capacity,
    check_content,
)
from sidbench.tokenizers.blocks.clustering.kmeans import BLOCK_ELEMENTS, assign, kmeans, row_argmin, update_centres
from sidbench.tokenizers.blocks.quantisers.sinkhorn import squared_distances
from sidbench.tokenizers.blocks.training.content import (
    content_like,
    content_rows,
    content_widths,
    fitting_rows,
    split_content,
    state_entry,
    widths_from_state,
    widths_state,
)

INFO = TokenizerInfo(
    title="OPQ: optimised product quantisation",
    version=1,
    paper="Ge et al., TPAMI 2014; RPG, arXiv 2506.05781",
    year=2014,
    url="https://doi.org/10.1109/TPAMI.2013.240",
    bibtex="@article{ge2014opq,\n"
    "  title={Optimized Product Quantization}, author={Ge and others}, journal={TPAMI}, year={2014},\n"
    "  doi={10.1109/TPAMI.2013.240}}",
    modalities=("text", "vision"),
    required=("text|vision",),
    ordered=False,
    deviations=(
        "Native, not FAISS, so that any codebook size works.",
        "No whitening by default (whiten=true is RPG's pipeline); distortion is always reported in the input space.",
        "RPG's single coarse centroid (IVF1) is the mean that is subtracted.",
        "PCA to the largest multiple of code_length comes first; what it drops counts as error (pca_variance_kept).",
        "A last Lloyd run follows the last rotation, so that the centroids are means in the space they are used in.",
    ),
)


@dataclass(frozen=True)
class OpqConfig(TokenizerConfig):
    """Settings of OPQ; ``code_length`` is the number of sub-spaces."""

    reduce_dim: int = setting(
        512,
        "PCA to the largest multiple of code_length not above this",
        unit="dimensions",
        low=1,
        high=65536,
        paper=512,
        sweep=(96, 128, 256, 512),
    )
    init: str = setting(
        "random",
        "first rotation: random, or PCA axes dealt to blocks of equal variance",
        choices=("random", "balanced"),
        paper="random",
    )
    whiten: bool = setting(False, "divide each PCA axis by its standard deviation before the rotation", paper=True)
    alternations: int = setting(50, "rounds of Lloyd and rotation", unit="rounds", low=0, high=10_000, paper=50)
    first_iterations: int = setting(40, "Lloyd iterations of the first round", low=1, high=10_000, paper=40)
    later_iterations: int = setting(4, "Lloyd iterations of each later round", low=1, high=1000, paper=4)


class Opq(Tokenizer):
    """OPQ; ``mean_ [D_c]``, ``basis_ [D_c, D]`` (PCA), ``scale_ [D]``, ``rotation_ [D, D]``, ``centres_ [L, K, s]``."""

    info = INFO
    config_class = OpqConfig
    budgets = {
        "smoke": {"alternations": 3, "first_iterations": 8},
        "quick": {"alternations": 20},
        "standard": {"alternations": 50},
        "paper": {"alternations": 50, "whiten": True},
    }

    def fit(self, features: ItemFeatures, rng: Rng, runtime: Runtime) -> Self:
        c: OpqConfig = self.config
        rows = fitting_rows(features, c.fit_items, self.name, runtime)
        check_capacity(c, len(rows), self.name)
        check_content(features, self.name)
        self.widths_ = content_widths(features)
        limit = min(c.reduce_dim, sum(self.widths_.values()))
        width = limit // c.code_length * c.code_length
        if width == 0:
            raise InputError(
                f"{self.name}: code_length",
                got=c.code_length,
                wanted=f"at most {limit}, the width to be cut into sub-spaces",
                do="set a smaller tokenizer.code_length or a larger tokenizer.reduce_dim",
            )
        x = runtime.tensor(content_rows(features, rows))
        mean, basis, scale = _principal_axes(x, width, c.whiten)
        reduced = (x - mean) @ basis / scale
        rotation = _first_rotation(reduced, c, rng.child("rotation"), runtime)
        rotation, centres = self._alternate(reduced, rotation, rng.child("kmeans"), runtime)
        self.mean_, self.basis_, self.scale_ = to_numpy(mean), to_numpy(basis), to_numpy(scale)
        self.rotation_, self.centres_ = to_numpy(rotation), to_numpy(centres)
        rotated = reduced @ rotation
        left = rotated - _decode(_encode(rotated, centres), centres)
        kept, total = ((x - mean) @ basis).square().sum(), (x - mean).square().sum()
        self._diagnostics = {
            "loss_native": float(left.square().sum(1).mean()),
            "relative_distortion": float(left.square().sum() / rotated.square().sum().clamp(min=1e-12)),
            "pca_variance_kept": float(kept / total.clamp(min=1e-12)),
        }
        return self

    def _alternate(self, x: Tensor, rotation: Tensor, rng: Rng, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """Rotation ``[D, D]`` and centres ``[L, K, s]`` for centred rows ``[N, D]``."""
        c: OpqConfig = self.config
        blocks = (x @ rotation).unflatten(1, (c.code_length, -1)).unbind(1)
        centres = torch.stack(
            [
                kmeans(block.contiguous(), c.codebook_size, rng.child(p), runtime, iterations=0, init="random").centres
                for p, block in enumerate(blocks)
            ]
        )
        for alternation in range(c.alternations + 1):
            rounds = c.first_iterations if alternation == 0 else c.later_iterations
            codes, centres = _lloyd_in_blocks(x, rotation, centres, rounds)
            if alternation < c.alternations:
                left, _, right = torch.linalg.svd(x.t() @ _decode(codes, centres))
                rotation = left @ right
        return rotation, centres

    def encode(self, features: ItemFeatures, runtime: Runtime) -> SemanticIds:
        content = content_like(features, self.widths_, self.name)
        mean, basis, scale = (runtime.tensor(a) for a in (self.mean_, self.basis_, self.scale_))
        rotation, centres = runtime.tensor(self.rotation_), runtime.tensor(self.centres_)
        codes = _encode((runtime.tensor(content) - mean) @ basis / scale @ rotation, centres)
        decoded = _decode(codes, centres) @ rotation.t() * scale @ basis.t() + mean
        sizes = np.full(len(centres), centres.shape[1], np.int32)
        return SemanticIds(
            codes=to_numpy(codes).astype(np.int32),
            sizes=sizes,
            ordered=False,
            reconstruction=split_content(to_numpy(decoded), self.widths_),
        )

    def code_costs(self, features: ItemFeatures, runtime: Runtime) -> np.ndarray:
        content = runtime.tensor(content_like(features, self.widths_, self.name))
        mean, basis, scale, rotation, centres = (
            runtime.tensor(a) for a in (self.mean_, self.basis_, self.scale_, self.rotation_, self.centres_)
        )
        last = ((content - mean) @ basis / scale @ rotation).chunk(len(centres), dim=1)[-1]
        return to_numpy(squared_distances(last, centres[-1]))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean_,
            "basis": self.basis_,
            "scale": self.scale_,
            "rotation": self.rotation_,
            "centres": self.centres_,
            **widths_state(self.widths_),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        c: OpqConfig = self.config
        self.widths_ = widths_from_state(state, self.name)
        total = sum(self.widths_.values())
        width = min(c.reduce_dim, total) // c.code_length * c.code_length
        self.mean_ = state_entry(state, "mean", (total,), self.name)
        self.basis_ = state_entry(state, "basis", (total, width), self.name)
        self.scale_ = state_entry(state, "scale", (width,), self.name)
        self.rotation_ = state_entry(state, "rotation", (width, width), self.name)
        self.centres_ = state_entry(state, "centres", (c.code_length, c.codebook_size, width // c.code_length), self.name)


def _principal_axes(x: Tensor, width: int, whiten: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``[D_c]``, leading eigenvectors of the covariance ``[D_c, width]``, divisor of each axis ``[width]``."""
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.t() @ centred / len(x))
    basis = vectors.flip(1)[:, :width].contiguous()
    if not whiten:
        return mean, basis, torch.ones(width, device=x.device)
    deviations = values.flip(0)[:width].clamp(min=0).sqrt()
    return mean, basis, deviations.clamp(min=float(deviations[0]) * 1e-3 or 1.0)  # so axes of no variance stay small


def _first_rotation(x: Tensor, config: OpqConfig, rng: Rng, runtime: Runtime) -> Tensor:
    """Random orthogonal, or the parametric solution: axes dealt to the block whose product of variances is least."""
    width = x.shape[1]
    if config.init == "random":
        return torch.linalg.qr(torch.randn(width, width, generator=runtime.generator(rng), device=x.device))[0]
    room = width // config.code_length
    logs = to_numpy(x.var(0, unbiased=False).clamp(min=1e-12).log())
    blocks: list[list[int]] = [[] for _ in range(config.code_length)]
    loads = np.zeros(config.code_length)
    for axis in np.argsort(-logs, kind="stable"):
        block = int(np.argmin([load if len(b) < room else np.inf for load, b in zip(loads, blocks, strict=True)]))
        blocks[block].append(int(axis))
        loads[block] += logs[axis] - logs.min()  # shifted to be positive: an axis more is a load more
    return torch.eye(width, device=x.device)[:, [axis for block in blocks for axis in block]]


def _lloyd_in_blocks(x: Tensor, rotation: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd in every block of ``x @ rotation``: codes int64 ``[N, L]`` and the means ``[L, K, s]`` of these clusters.

    Each block carries a column of ones that multiplies the squared length of a centre, so that one thin product gives
    ``|c|^2 - 2 y c`` and nothing but its minimum is read.
    """
    length, size, width = centres.shape
    lifted = torch.nn.functional.pad(rotation.unflatten(1, (length, width)), (0, 1)).flatten(1)
    y = (x @ lifted).unflatten(1, (length, width + 1)).transpose(0, 1).contiguous()
    y[:, :, width] = 1
    rows = max(1, BLOCK_ELEMENTS // (16 * size))
    codes = torch.empty(length, len(x), dtype=torch.int64, device=x.device)
    scores = torch.empty(min(rows, len(x)), size, device=x.device)
    for _ in range(iterations):
        moved = []
        for block, centre, code in zip(y, centres, codes, strict=True):
            form = torch.cat([-2 * centre, centre.square().sum(1, keepdim=True)], dim=1).t().contiguous()
            for start in range(0, len(x), rows):
                part = block[start : start + rows]
                code[start : start + rows] = row_argmin(torch.mm(part, form, out=scores[: len(part)]))
            moved.append(update_centres(block[:, :width].contiguous(), code, centre))
        centres = torch.stack(moved)
    return codes.t(), centres


def _encode(rotated: Tensor, centres: Tensor) -> Tensor:
    blocks = rotated.chunk(len(centres), dim=1)
    return torch.stack([assign(b.contiguous(), centre)[0] for b, centre in zip(blocks, centres, strict=True)], dim=1)


def _decode(codes: Tensor, centres: Tensor) -> Tensor:
    return torch.cat([centre[codes[:, p]] for p, centre in enumerate(centres)], dim=1)
