"""The folder of a finished run: a reader sees a whole run or none.

``<home>/runs/<run id>/`` holds ``record.json``, ``sids.parquet`` and ``users_<task>.parquet``; it is written beside its
place and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sidbench.benchmark.runtime.process_group import ProcessGroup
from sidbench.benchmark.store.paths import RECORD_NAME
from sidbench.benchmark.store.records import NewerRecord, RunRecord, read_record
from sidbench.benchmark.store.stage_cache import Traced
from sidbench.datasets.foundation.errors import InputError


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies or will lie. process_group: of its processes, of which the leader alone reads and writes."""

    path: Path
    process_group: ProcessGroup

    @property
    def temporary(self) -> Path:
        """Where this process writes the run; `unfinished_runs` knows the form of the name."""
        return self.path.with_name(f".{self.path.name}.{os.getpid()}-{self.process_group.rank}.tmp")

    @property
    def replaced(self) -> Path:
        """Where an earlier record goes on its way out."""
        return self.temporary.with_suffix(".old")

    def read(self) -> Traced[RunRecord | None]:
        """The record of an earlier equal run, if its folder is there; as the leader sees it. A damaged or older one that
        this release cannot read counts as none, with a warning.

        Raises ``InputError`` for a record of a newer release, which must not be replaced unasked.
        """
        path, run_id = self.path / RECORD_NAME, self.path.name
        text = self.process_group.broadcast(
            path.read_text(encoding="utf-8", errors="replace")
            if self.process_group.is_main_process and path.exists()
            else None
        )
        try:
            return Traced(None if text is None else read_record(text))
        except NewerRecord as error:
            raise InputError(
                f"record of {run_id}",
                got=str(error),
                wanted="a record that this release reads",
                do=f"update sidbench, or replace it: `bench runs rm {run_id}`",
            ) from error
        except ValueError as error:
            return Traced(None, (f"the earlier record of {run_id} could not be read ({error}) and is replaced",))

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """While the run is computed its folder stands beside its place: listings show a run at work, and a disk that
        cannot be written is found before hours of training. Nothing is left of it afterwards."""
        try:
            if self.process_group.is_main_process:
                self._make()
            yield
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def write(self, record: RunRecord, files: Mapping[str, bytes]) -> None:
        """Put the record and the files beside it in their place, all at once; an earlier run, or an equal one of this
        moment, makes way. Does nothing on processes that do not lead."""
        if not self.process_group.is_main_process:
            return
        self._make()
        for name, content in files.items():
            (self.temporary / name).write_bytes(content)
        (self.temporary / RECORD_NAME).write_text(record.model_dump_json(indent=1))
        while True:
            try:
                os.replace(self.temporary, self.path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            with suppress(FileNotFoundError):  # the other run moves it, too
                os.replace(self.path, self.replaced)
            shutil.rmtree(self.replaced, ignore_errors=True)

    def _make(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
