"""MovieLens 100K: 943 users, 1,682 films, 100,000 ratings with title, genres, plot overview and poster thumbnails.

Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015. The only bundled real set with pictures. Overviews
(``items.jsonl.gz``) and posters (``posters.zip``) come from TMDB and are used when present, else declared absent.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from sidbench.datasets.base import Catalog, Dataset, DatasetInfo, DatasetPlugin, FileLocator, check_dataset_values
from sidbench.datasets.foundation.errors import InputError
from sidbench.datasets.foundation.hashing import hash_file
from sidbench.datasets.foundation.settings import check_settings, setting
from sidbench.datasets.reading.archives import ZIP_DAMAGE
from sidbench.datasets.reading.events import check_events, index_events, make_card
from sidbench.datasets.reading.lines import delimited_columns, read_lines, read_records
from sidbench.datasets.reading.text import TextCleaner, count_without_text, text_columns

INFO = DatasetInfo(
    title="MovieLens 100K",
    version=1,
    source="https://grouplens.org/datasets/movielens/100k/",
    licence="research use only; no redistribution and no commercial use without permission; posters: their owners",
    citation="Harper and Konstan, ACM Transactions on Interactive Intelligent Systems 5(4), 2015",
    url="https://doi.org/10.1145/2827872",
    bibtex="@article{harper2015movielens,\n"
    "  title={The MovieLens Datasets: History and Context}, author={Harper and Konstan},\n"
    "  journal={ACM Transactions on Interactive Intelligent Systems}, volume={5}, number={4},\n"
    "  year={2015}, doi={10.1145/2827872}}",
    modalities=("text", "vision", "behaviour"),
    tasks=("retrieval", "ranking"),
    published={"users": 943, "items": 1682, "interactions": 100000},
    notes=(
        "User and item index = rank of the id as a number, not as a string.",
        "Genres are a flat set; as a category path they stand in the order of u.genre.",
        "Overviews and posters were matched to films by title: for about 42 films they belong to another film.",
    ),
)

_FOLDER = "ml-100k"
_FIRST_FLAG = 5  # movie id, title, release date, video release date, address, then one 0/1 flag a genre


@dataclass(frozen=True)
class MovieLens100KConfig:
    """Filters; the defaults keep the whole set."""

    k_core: int = setting(
        1, "keep users and items with at least this many events, to a fixed point", unit="events", low=1, high=100, paper=1
    )
    max_users: int = setting(0, "only the first users by id; 0 keeps all", unit="users", low=0)

    def __post_init__(self) -> None:
        check_settings(self)


class MovieLens100K(DatasetPlugin):
    """Reads ``u.data``, ``u.item`` (Latin-1), ``u.genre`` and, when present, overviews and posters."""

    info = INFO
    config_class = MovieLens100KConfig
    config: MovieLens100KConfig
    budgets = {"smoke": {"max_users": 100}}

    def load(self, locate: FileLocator) -> Dataset:
        """Raises ``InputError`` when files are missing (with where to get them) or malformed (with the line)."""
        data, item, genre = (_required(locate, name) for name in ("u.data", "u.item", "u.genre"))
        events = index_events(
            _read_events(data), min_events=self.config.k_core, max_users=self.config.max_users, numeric_keys=True
        )
        keys, clean, absent = events.item_keys, TextCleaner(), {}
        films = _read_films(item, _read_genres(genre))
        unknown = [key for key in keys if key not in films]
        if unknown:
            raise InputError(
                f"{item} lacks items of {data.name}",
                got=f"{len(unknown)} ids such as {unknown[:3]}",
                wanted="one line for every rated item",
                do="get both files from the same archive",
            )
        files = [data, item, genre]

        extra = locate.find(_FOLDER, "items.jsonl.gz", required=False)
        overviews: dict[str, str] = {}
        posters: dict[str, str] = {}
        if extra is None:
            absent["overview"] = "items.jsonl.gz not found"
        else:
            files.append(extra)
            overviews, posters = _read_extra(extra)
        archive = locate.find(_FOLDER, "posters.zip", required=False)
        images, counts = None, {}
        if archive is None or extra is None:
            absent["vision"] = "items.jsonl.gz and posters.zip are needed for posters; not found"
        else:
            files.append(archive)
            inside = _names_in(archive)
            images = tuple(posters.get(key, "") if posters.get(key) in inside else "" for key in keys)
            named = sum(bool(posters.get(key)) for key in keys)
            counts = {
                "items_with_picture": sum(map(bool, images)),
                "pictures_missing_in_archive": named - sum(map(bool, images)),
            }

        text = text_columns(
            {
                "title": [clean(films[key][0]) for key in keys],
                "genres": [", ".join(films[key][1]) for key in keys],
                "overview": [clean(overviews.get(key, "")) for key in keys],
            }
        )
        counts |= {
            "items_without_overview": sum(not overviews.get(key) for key in keys),
            "items_without_text": count_without_text(text, len(keys)),
            **clean.repairs,
        }
        catalog = Catalog(
            keys=keys,
            text=text,
            categories=tuple(films[key][1] for key in keys),
            images=images,
            image_root=archive if images is not None else None,
        )
        subset = self.config.max_users > 0 or self.config.k_core > 1
        card = make_card(
            _FOLDER,
            INFO,
            events,
            subset=subset,
            absent=absent,
            counts=counts,
            files={path.name: hash_file(path) for path in files},
        )
        return check_dataset_values(Dataset(events.interactions, catalog, events.user_keys, card))


def _required(locate: FileLocator, name: str) -> Path:
    path = locate.find(_FOLDER, name)
    if path is None:
        raise FileNotFoundError(f"{_FOLDER}/{name}")
    return path


def _read_events(path: Path) -> pl.DataFrame:
    schema = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
    table = delimited_columns(path, schema, "\t")
    return check_events(table.with_columns(pl.col("user", "item").cast(pl.String)), path)


def _read_genres(path: Path) -> list[str]:
    names = {}
    for number, text in read_lines(path, encoding="latin-1"):
        name, bar, index = text.rpartition("|")
        if not bar or not re.fullmatch("[0-9]{1,3}", index):
            raise InputError(f"{path}, line {number}: no genre", got=repr(text[:40]), wanted="name|number")
        names[int(index)] = name
    return [names.get(i, f"genre {i}") for i in range(max(names, default=-1) + 1)]


def _read_films(path: Path, genres: list[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Film id -> (title, genre names in the order of u.genre); the flag "unknown" names no genre."""
    films = {}
    for number, text in read_lines(path, encoding="latin-1"):
        cells = text.split("|")
        flags = cells[_FIRST_FLAG:]
        if len(flags) != len(genres) or not cells[0].isdigit() or set(flags) - {"0", "1"}:
            raise InputError(
                f"{path}, line {number}: no film",
                got=f"{len(cells)} cells: {text[:60]!r}",
                wanted=f"id|title|date|date|address|{len(genres)} flags",
                do=f"repair line {number}",
            )
        named = tuple(g for g, flag in zip(genres, flags, strict=True) if flag == "1" and g != "unknown")
        films[cells[0]] = (cells[1], named)
    return films


def _read_extra(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Film id -> overview, and film id -> picture path inside the archive."""
    overviews, posters = {}, {}
    for number, record in read_records(path):
        key, overview, poster = record.get("movie_id"), record.get("overview") or "", record.get("poster") or ""
        if not isinstance(key, int) or not isinstance(overview, str) or not isinstance(poster, str):
            raise InputError(
                f"{path}, line {number}: no film",
                got=str(record)[:80],
                wanted="movie_id (number), overview and poster (texts)",
                do=f"repair line {number}",
            )
        overviews[str(key)], posters[str(key)] = overview, poster
    return overviews, posters


def _names_in(archive: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(archive) as bundle:
            return frozenset(bundle.namelist())
    except ZIP_DAMAGE as error:
        raise InputError(
            f"{archive} is a damaged zip archive",
            got=str(error),
            wanted="a complete archive",
            do="copy or download it again",
        ) from error
