"""Locating, downloading and unpacking: faults carry file and next step; nothing partial is used."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.reading.download import SOURCES, Source, extract_member, fetch
from sidbench.datasets.reading.locate import LocalFiles

# --- locating ------------------------------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """An explicit folder, $SIDBENCH_DATA and the user cache, all empty."""
    made = {name: tmp_path / name for name in ("explicit", "environment", "cache")}
    for root in made.values():
        root.mkdir()
    monkeypatch.setenv("SIDBENCH_DATA", str(made["environment"]))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: made["cache"] / name)
    monkeypatch.delenv("SIDBENCH_OFFLINE", raising=False)
    return made


def _put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_roots_are_searched_in_order_with_gzip_twins(roots: dict[str, Path]) -> None:
    locate = LocalFiles(roots["explicit"])
    cached = _put(roots["cache"] / "sidbench" / "data" / "toy" / "a.csv")
    assert locate.find("toy", "a.csv.gz") == cached
    flat = _put(roots["environment"] / "a.csv.gz")
    assert locate.find("toy", "a.csv") == flat
    nested = _put(roots["explicit"] / "toy" / "b.csv")
    assert locate.find("toy", "a.csv", "b.csv") == nested
    assert LocalFiles().find("toy", "b.csv", required=False) is None


def test_missing_file_lists_names_folders_and_address(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDBENCH_OFFLINE", "1")
    with pytest.raises(InputError) as caught:
        LocalFiles(roots["explicit"]).find("beauty", "reviews_Beauty_5.json.gz", "ratings_Beauty.csv")
    text = str(caught.value)
    assert "reviews_Beauty_5.json.gz or ratings_Beauty.csv" in text and "SIDBENCH_OFFLINE" in text
    assert all(str(roots[name]) in text for name in roots)
    assert "snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Beauty_5.json.gz" in text
    with pytest.raises(InputError, match="no public source"):
        LocalFiles().find("toy", "nothing.csv")


def test_every_source_is_https_first_and_names_its_file() -> None:
    for files in SOURCES.values():
        for name, source in files.items():
            assert source.urls[0].startswith("https://")
            assert source.urls[0].endswith(source.member and ".zip" or name)


# --- downloads (a server on this machine) --------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, state: SimpleNamespace, *args: Any) -> None:
        self.state = state
        super().__init__(*args)

    def do_GET(self) -> None:
        body, start = self.state.body, 0
        self.state.ranges.append(self.headers.get("Range"))
        if self.state.status != 200:
            self.send_error(self.state.status)
            return
        if self.headers.get("Range") and self.headers.get("If-Range") == self.state.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", self.state.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        self.wfile.write(body[start : start + self.state.cut] if self.state.cut else body[start:])

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    state = SimpleNamespace(body=b"0123456789" * 30_000, tag='"v1"', cut=0, status=200, ranges=[], url="")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, state))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/file.bin"
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_download_resumes_and_appears_only_complete(server: SimpleNamespace, tmp_path: Path) -> None:
    source, target = Source((server.url,), sha256(server.body).hexdigest()), tmp_path / "file.bin"
    server.cut = 200_000
    with pytest.raises(InputError, match="cannot download"):
        fetch(source, target)
    have = (tmp_path / "file.bin.part").stat().st_size
    assert not target.exists() and 100_000 < have <= 200_000
    server.cut = 0
    assert fetch(source, target).read_bytes() == server.body
    assert server.ranges == [None, f"bytes={have}-"]
    fetch(source, target)
    assert len(server.ranges) == 2  # nothing is asked for again


def test_changed_file_is_not_spliced(server: SimpleNamespace, tmp_path: Path) -> None:
    server.cut = 200_000
    with pytest.raises(InputError):
        fetch(Source((server.url,)), tmp_path / "file.bin")
    server.cut, server.tag, server.body = 0, '"v2"', b"abc" * 80_000
    assert fetch(Source((server.url,)), tmp_path / "file.bin").read_bytes() == server.body


@pytest.mark.parametrize(("source", "reason"), [({"sha256": "0" * 64}, "hash"), ({"size": 77}, "77")])
def test_wrong_hash_or_size_is_refused(server: SimpleNamespace, tmp_path: Path, source: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        fetch(Source((server.url,), **source), tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()


def test_second_mirror_serves_and_reasons_are_told(server: SimpleNamespace, roots: dict[str, Path]) -> None:
    dead = "http://127.0.0.1:9/file.bin"
    locate = LocalFiles(sources={"toy": {"file.bin": Source((dead, server.url))}, "gone": {"file.bin": Source((dead,))}})
    found = locate.find("toy", "file.bin")
    assert found is not None and found.read_bytes() == server.body
    assert locate.find("gone", "file.bin", required=False) is None  # optional files are never downloaded
    with pytest.raises(InputError, match=r"gone: file\.bin not found.*127\.0\.0\.1"):
        locate.find("gone", "file.bin")
    server.status = 404
    with pytest.raises(InputError, match="404"):
        LocalFiles(sources={"new": {"n.bin": Source((server.url,))}}).find("new", "n.bin")


def test_archive_member_is_checked(server: SimpleNamespace, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as bundle:
        bundle.writestr("set/u.data", "1\t1\t5\t10\n")
    server.body = (tmp_path / "made.zip").read_bytes()
    url = server.url.replace("file.bin", "file.zip")
    good = Source((url,), sha256(b"1\t1\t5\t10\n").hexdigest(), member="set/u.data")
    assert fetch(good, tmp_path / "a" / "u.data").read_text() == "1\t1\t5\t10\n"
    with pytest.raises(InputError, match="not the known file"):
        fetch(Source((url,), "0" * 64, member="set/u.data"), tmp_path / "b" / "u.data")
    assert not (tmp_path / "b" / "u.data").exists()
    with pytest.raises(InputError, match="lacks set/u.item"):
        fetch(Source((url,), member="set/u.item"), tmp_path / "a" / "u.item")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt"])
def test_hostile_zip_paths_are_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "in" / "bad.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("good.txt", "good")
        bundle.writestr(name, "evil")
    with pytest.raises(InputError, match="leaves its folder"):
        extract_member(archive, "good.txt", tmp_path / "in" / "good.txt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad.zip", "in"]


def test_zip_links_bombs_and_damage_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as bundle:
        bundle.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="leaves its folder"):
        extract_member(tmp_path / "link.zip", "link", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("big", b"0" * 5_000_000)
    with pytest.raises(InputError, match="too large"):
        extract_member(tmp_path / "bomb.zip", "big", tmp_path / "out", max_bytes=1_000_000)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "bomb.zip").read_bytes()[:-30])
    with pytest.raises(InputError, match="damaged zip"):
        extract_member(tmp_path / "cut.zip", "big", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.unpacking").exists()
