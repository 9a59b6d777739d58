"""The data set of a recorded run, where it lies on this machine: for commands that show items beside numbers."""

from __future__ import annotations

from pathlib import Path

from sidbench.benchmark.plugins.registry import installed
from sidbench.benchmark.runtime.reporter import Reporter
from sidbench.benchmark.stages.dataset import dataset_stage
from sidbench.benchmark.store.paths import cache_folder
from sidbench.benchmark.store.records import RunRecord
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.base import Dataset
from sidbench.datasets.foundation.errors import SidbenchError
from sidbench.datasets.reading.locate import LocalFiles


def dataset_at_hand(record: RunRecord, data_dir: Path | None) -> Dataset | str:
    """The data set that a run saw, checked by its content hash; or the reason why it is not here. Nothing is downloaded."""
    try:
        cls = installed().load("dataset", record.dataset.name)
        config = cls.config_class(**{n: tuple(v) if isinstance(v, list) else v for n, v in record.dataset.config.items()})
        own = getattr(config, "path", "")
        locate = LocalFiles(data_dir or (Path(own) if own else None), sources={})
        places = [str(place) for place in locate.roots().values()]
        dataset = dataset_stage(
            StageCache(cache_folder(), Reporter()), record.dataset.name, cls(config), locate, places
        ).value
    except (SidbenchError, TypeError) as error:  # TypeError: settings of another release
        return f"the data set is not at hand: {error}"
    if dataset.content_hash() != record.dataset.content_hash:
        return "the data set is another one than the run saw"
    return dataset
