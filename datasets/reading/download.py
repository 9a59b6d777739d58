"""Downloads of raw files from their public sources: resumed, checked by size and SHA-256, archives unpacked safely."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.paths import leaves_folder
from sidbench.datasets.reading.archives import ZIP_DAMAGE

_CHUNK = 1 << 16  # a broken connection loses at most the chunk it broke in
_MAX_DOWNLOAD_BYTES = 16 << 30
_MAX_MEMBER_BYTES = 1 << 30
_TIMEOUT_SECONDS = (10, 60)


@dataclass(frozen=True)
class Source:
    """Where one raw file comes from.

    urls: mirrors, tried in order. sha256: of the wanted file (of the member, for an archive), ``None`` where we never
    held the original: the card then records the hash of what came. size: bytes of the download, ``None`` if unknown.
    member: path of the file inside a zip archive.
    """

    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None
    member: str = ""


def _amazon_2014(category: str) -> dict[str, Source]:
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz", f"ratings_{category}.csv")
    folder = "snap.stanford.edu/data/amazon/productGraph/categoryFiles"
    return {name: Source((f"https://{folder}/{name}", f"http://{folder}/{name}")) for name in names}


_MOVIELENS_100K = ("https://files.grouplens.org/datasets/movielens/ml-100k.zip",)

SOURCES: Mapping[str, Mapping[str, Source]] = {
    "beauty": _amazon_2014("Beauty"),
    "sports": _amazon_2014("Sports_and_Outdoors"),
    "toys": _amazon_2014("Toys_and_Games"),
    "ml-100k": {
        "u.data": Source(
            _MOVIELENS_100K, "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490", member="ml-100k/u.data"
        ),
        "u.item": Source(
            _MOVIELENS_100K, "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701", member="ml-100k/u.item"
        ),
        "u.genre": Source(
            _MOVIELENS_100K, "9757e0d3e6b298159a80dd48eaf938114690e911e39af97a76949ef1663610bb", member="ml-100k/u.genre"
        ),
    },
}
"""Dataset folder -> file name -> public source."""


def fetch(source: Source, target: Path) -> Path:
    """Download ``source`` to ``target`` unless it is there; an interrupted download resumes at the next call.

    Two processes wait for each other; ``target`` appears only complete and checked. Raises ``InputError`` with the
    reason of every mirror when none delivers, and when size or SHA-256 differ.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    archive = target.parent / PurePosixPath(source.urls[0]).name
    with FileLock(f"{archive if source.member else target}.lock"):
        if not target.exists():
            if source.member:
                if not archive.exists():
                    _download(source, archive, known_hash=None)
                extract_member(archive, source.member, target, sha256=source.sha256)
            else:
                _download(source, target, known_hash=source.sha256)
    return target


def _download(source: Source, target: Path, known_hash: str | None) -> None:
    import pooch
    import requests

    reasons = []
    for url in source.urls:
        try:
            pooch.retrieve(
                url,
                known_hash,
                fname=target.name,
                path=target.parent,
                downloader=_Resume(Path(f"{target}.part"), source.size),
            )
            return
        except (requests.RequestException, OSError, ValueError) as error:  # pooch: ValueError for a wrong hash
            reasons.append(f"{url}: {error}")
    raise InputError(
        f"cannot download {target.name}",
        got="; ".join(reasons),
        wanted="a complete file",
        do=f"fetch {source.urls[0]} by hand and put it at {target}",
    )


class _Resume:
    """A pooch downloader that keeps an interrupted file beside the target and asks the server for the rest only."""

    def __init__(self, part: Path, size: int | None) -> None:
        self._part, self._tag, self._size = part, Path(f"{part}.tag"), size

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        import requests

        have = self._part.stat().st_size if self._part.exists() and self._tag.exists() else 0
        # Without byte ranges of the encoded form, a resumed transfer would splice two encodings.
        headers = {"Accept-Encoding": "identity"}
        if have:
            validator = self._tag.read_text()
            if validator.startswith(f"{url}\n") and validator.partition("\n")[2]:
                headers |= {"Range": f"bytes={have}-", "If-Range": validator.partition("\n")[2]}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as reply:
            if reply.status_code == 416:
                self._part.unlink()
                raise OSError("the server refused to resume; the partial file was removed, run again")
            reply.raise_for_status()
            resumed = reply.status_code == 206
            if resumed and not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                raise OSError(f"resumed at the wrong place: {reply.headers.get('Content-Range')}")
            total = self._expected(reply.headers, have if resumed else 0)
            self._tag.write_text(f"{url}\n{reply.headers.get('ETag') or reply.headers.get('Last-Modified') or ''}")
            received = have if resumed else 0
            with open(self._part, "ab" if resumed else "wb") as handle:
                for chunk in reply.iter_content(_CHUNK):
                    received += len(chunk)
                    if received > (total or _MAX_DOWNLOAD_BYTES):
                        raise OSError(f"more than {total or _MAX_DOWNLOAD_BYTES:,} bytes came")
                    handle.write(chunk)
        if total is not None and received != total:
            raise OSError(f"{received:,} of {total:,} bytes came; run again to resume")
        os.replace(self._part, output_file)
        self._tag.unlink()

    def _expected(self, headers: Mapping[str, str], offset: int) -> int | None:
        length = headers.get("Content-Length")
        total = offset + int(length) if length is not None else self._size
        if total is not None and (total > _MAX_DOWNLOAD_BYTES or (self._size is not None and total != self._size)):
            raise OSError(f"the server announces {total:,} bytes, wanted {self._size or _MAX_DOWNLOAD_BYTES:,}")
        return total


def extract_member(
    archive: Path, member: str, target: Path, *, sha256: str | None = None, max_bytes: int = _MAX_MEMBER_BYTES
) -> Path:
    """Unpack one member of a zip archive to ``target``, which is chosen here and never by the archive.

    Raises ``InputError`` when the archive is damaged, holds any path that leaves its folder or is a link, lacks
    ``member``, when the member unpacks to more than ``max_bytes``, or its SHA-256 differs from ``sha256``.
    """
    partial = Path(f"{target}.unpacking")
    try:
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                _refuse_hostile(archive, info)
            if member not in bundle.namelist():
                raise InputError(
                    f"{archive} lacks {member}",
                    got=", ".join(bundle.namelist()[:8]) or "no file",
                    wanted=member,
                    do=f"remove {archive} and download it again",
                )
            written = 0
            with bundle.open(member) as reader, open(partial, "wb") as writer:
                # The size in the archive's directory is a claim; only the bytes that really come are counted.
                while chunk := reader.read(_CHUNK):
                    written += len(chunk)
                    if written > max_bytes:
                        raise InputError(
                            f"{archive}: {member} is too large",
                            got=f"more than {max_bytes:,} bytes",
                            wanted=f"at most {max_bytes:,} bytes",
                            do="get the archive from its source",
                        )
                    writer.write(chunk)
        if sha256 is not None and hash_file(partial) != sha256:
            raise InputError(
                f"{archive}: {member} is not the known file",
                got=f"SHA-256 {hash_file(partial)}",
                wanted=sha256,
                do=f"remove {archive} and download it again",
            )
        os.replace(partial, target)
    except ZIP_DAMAGE as error:
        raise InputError(
            f"{archive} is a damaged zip archive",
            got=str(error),
            wanted="a complete, unencrypted archive",
            do="remove it and download it again",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _refuse_hostile(archive: Path, info: zipfile.ZipInfo) -> None:
    is_link = stat.S_ISLNK(info.external_attr >> 16)
    if leaves_folder(info.filename) or ":" in info.filename or is_link:
        raise InputError(
            f"{archive} holds a path that leaves its folder",
            got=repr(info.filename),
            wanted="plain relative paths",
            do="get the archive from its source",
        )
