"""What every stage needs from outside: the cache, the machine, and a guard around plugin code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.benchmark.runtime.reporter import Reporter, Watch
from sidbench.benchmark.runtime.stage_runtime import StageRuntime
from sidbench.benchmark.runtime.training import is_out_of_memory
from sidbench.benchmark.store.paths import cache_folder
from sidbench.benchmark.store.stage_cache import StageCache
from sidbench.datasets.foundation.errors import SidbenchError, StageError


@dataclass(frozen=True)
class StageContext:
    """Made for one run, or for one trial of a sweep."""

    cache: StageCache
    runtime: LocalRuntime

    @property
    def reporter(self) -> Reporter:
        """Where this run shows progress, each warning once."""
        return self.cache.reporter

    def stage_runtime(self, watch: Watch | None = None) -> StageRuntime:
        """The runtime for one stage. watch: hears of every validation of its trainings."""
        return StageRuntime(self.runtime, self.reporter, watch)

    @contextmanager
    def guarded(self, who: str, partial: Path, watch: Watch | None = None) -> Iterator[StageRuntime]:
        """The runtime for plugin code, with its checkpoints in ``partial``.

        A foreign exception inside is re-raised as ``StageError`` naming the plugin.
        """
        runtime = self.stage_runtime(watch)
        try:
            with runtime.checkpointing(partial):
                yield runtime
        except (SidbenchError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's plugin may raise anything; it is named and re-raised
            if is_out_of_memory(error):
                raise _out_of_memory(who, error) from error
            raise StageError(
                f"{who} failed: {type(error).__name__}: {error}. To do: `bench --debug run …` shows the "
                "traceback; the fault lies in this plugin, other rows are not affected."
            ) from error


def open_context(runtime: LocalRuntime, *, anew: bool = False) -> StageContext:
    """Stages on ``runtime`` behind the user's cache. anew: nothing cached is read that this context did not compute."""
    cache = StageCache(cache_folder(), runtime.reporter, refresh=anew, process_group=runtime.process_group)
    return StageContext(cache, runtime)


def _out_of_memory(who: str, error: BaseException) -> StageError:
    return StageError(
        f"{who} ran out of memory ({str(error)[:200]}). To do: lower tokenizer.codebook_size or "
        "tokenizer.code_length, whose product sets the size of tables and heads, or the batch size of this "
        "stage; finished stages are kept."
    )
