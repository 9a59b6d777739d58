"""Finds raw files: an explicit folder, ``$SIDBENCH_DATA``, the user cache, then the public source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from sidbench.datasets.base import FileLocator
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.download import SOURCES, Source, fetch


def is_offline() -> bool:
    """Whether ``$SIDBENCH_OFFLINE`` forbids network access (any value but empty and 0)."""
    return os.environ.get("SIDBENCH_OFFLINE", "") not in ("", "0")


class LocalFiles(FileLocator):
    """Looks for ``<root>/<dataset>/<name>`` and ``<root>/<name>`` in every root, then downloads into the user cache.

    Parameters
    ----------
    data_dir: folder of ``--data-dir``, looked in first.
    sources: dataset folder -> file name -> ``Source``; only files named here can be downloaded, without any nothing is.
    """

    def __init__(self, data_dir: Path | None = None, sources: Mapping[str, Mapping[str, Source]] = SOURCES) -> None:
        self._data_dir, self._sources = data_dir, sources

    @property
    def may_download(self) -> bool:
        """Not without sources, and not where ``$SIDBENCH_OFFLINE`` forbids it."""
        return bool(self._sources) and not is_offline()

    def roots(self) -> dict[str, Path]:
        """Folders looked in, in order, by the name a user knows them under."""
        roots = {} if self._data_dir is None else {"--data-dir": self._data_dir}
        if os.environ.get("SIDBENCH_DATA"):
            roots["$SIDBENCH_DATA"] = Path(os.environ["SIDBENCH_DATA"])
        roots["user cache"] = platformdirs.user_cache_path("sidbench") / "data"
        return {label: root.expanduser() for label, root in roots.items()}

    def find(self, dataset: str, *names: str, required: bool = True) -> Path | None:
        """Path of the first of ``names`` that exists; for a plain name its ``.gz`` twin is tried and the reverse.

        A root is exhausted before the next is opened, so a file the user placed beats one that was downloaded. Only
        required files are downloaded: optional ones can be gigabytes that nobody asked for.

        Raises ``InputError`` (when ``required``) that lists the files, every folder looked in and the public URL.
        """
        for root in self.roots().values():
            for name in names:
                for twin in (name, name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"):
                    for path in (root / dataset / twin, root / twin):
                        if path.is_file():
                            return path
        if not required:
            return None
        public = self._sources.get(dataset, {})
        known = next((name for name in names if name in public), None)
        if known is None:
            raise self._missing(dataset, names, "no public source is known for it")
        if is_offline():
            raise self._missing(dataset, names, "SIDBENCH_OFFLINE forbids downloading", public[known])
        try:
            return fetch(public[known], self.roots()["user cache"] / dataset / known)
        except InputError as error:
            raise self._missing(dataset, names, str(error), public[known]) from error
        except OSError as error:
            raise self._missing(dataset, names, f"the user cache cannot be written: {error}", public[known]) from error

    def _missing(self, dataset: str, names: tuple[str, ...], reason: str, source: Source | None = None) -> InputError:
        looked = ", ".join(f"{root / dataset} ({label})" for label, root in self.roots().items())
        place = next(iter(self.roots().values())) / dataset
        where = f" from {source.urls[0]}" if source else ""
        return InputError(
            f"dataset {dataset}: {' or '.join(names)} not found",
            got=f"nothing in {looked}; {reason}",
            wanted=" or ".join(names) + " (with or without .gz)",
            do=f"put {names[0]}{where} into {place}, "
            f"or point --data-dir or $SIDBENCH_DATA at the folder that holds {dataset}/",
        )
