"""What a leaderboard is made of: tables of rows of cells, as plain values that every format renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sidbench.benchmark.metrics.declaration import NEITHER, NamedMetric
from sidbench.leaderboards.board.store import Skipped, StoredRun

TOKENIZER, CONTROL, BASELINE, BOUND = "tokenizer", "control", "baseline", "bound"
OVER_USERS, OVER_SEEDS, EXACT, EXPECTED, UNKNOWN = "users", "seeds", "exact", "expected", "unknown"


@dataclass(frozen=True)
class Column:
    """A metric column, as the metric's declaration says: nothing behind it asks the catalogue again.

    heading: with every hole filled. task: what it belongs to, ``None`` for the SID table. named: the metric as statistics
    need it. digits: printed. direction, definition, unit: see ``MetricDeclaration``. headline: whether tables rank by it.
    """

    heading: str
    task: str | None
    named: NamedMetric
    digits: int = 4
    direction: str = NEITHER
    headline: bool = False
    definition: str = ""
    unit: str = ""

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.named.name


@dataclass(frozen=True)
class Cell:
    """One number: mean over seeds, units it averages, its 95 % interval, sd over seeds, mark.

    interval: what ``low`` and ``high`` cover: "users" (BCa bootstrap over users, of the mean over seeds; the mean of
    the records' intervals where per-user results are missing), "seeds" (t-interval; for numbers without an interval
    over users), "exact" (a number of one exported SID table has no sampling noise), "expected" (an expectation under
    planted law, no measurement) or "unknown" (no interval can be given, as for one user). half_width: half of
    ``high - low``. mark: "best", "second" or "".
    """

    value: float
    n: int
    half_width: float | None = None
    seed_sd: float | None = None
    mark: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = UNKNOWN


@dataclass(frozen=True)
class Costs:
    """What a row cost, median over seeds; ``None`` where the records do not say. Never ranked or marked.

    fit_seconds: wall seconds of the tokenizer's fit. encode_items_per_second: items over wall seconds of encoding the
    catalogue. retrieval_fit_seconds, ranking_fit_seconds: wall seconds of the recommenders' fits. ms_per_user: retrieval
    inference. ms_per_row: ranking inference. tokenizer_parameters, recommender_parameters: trained numbers, the latter
    summed over tasks. peak_memory_bytes: largest resident size at the end of any stage, largest over seeds.
    """

    fit_seconds: float | None = None
    encode_items_per_second: float | None = None
    retrieval_fit_seconds: float | None = None
    ranking_fit_seconds: float | None = None
    ms_per_user: float | None = None
    ms_per_row: float | None = None
    tokenizer_parameters: float | None = None
    recommender_parameters: float | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True)
class Row:
    """One tokenizer with one set of settings, one baseline, or what no model can exceed. ``cells``: metric name -> cell,
    absent where undefined.

    kind: "tokenizer", "control", "baseline" or "bound", which nobody ran: without seeds and runs. settings: what tells
    it from rows of the same name, and what the user set. seconds: computation of all stages, median over seeds. ranks:
    headline metric -> 1 + the number of rows that are significantly better. improvements: headline metric -> value over
    that of the best other tokenizer row, minus 1.
    effort: where the settings come from ("defaults", "tuned, 20 trials"). stale: why the numbers may no longer be what
    the installed code and data give.
    """

    name: str
    kind: str
    settings: str
    code_length: str
    codebook_size: str
    cells: Mapping[str, Cell]
    seconds: float | None
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[StoredRun, ...]
    ranks: Mapping[str, int] = field(default_factory=dict)
    improvements: Mapping[str, float] = field(default_factory=dict)
    costs: Costs = Costs()
    effort: str = ""
    stale: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name with settings, as it stands in a table."""
        return self.name + (f" ({self.settings})" if self.settings else "")


@dataclass(frozen=True)
class Table:
    """Rows that may be compared. ``caption``: heading -> sentence. ``notes``: what a reader must know of them.

    headlines: the columns whose ranks and improvements stand on the rows, one a task. title: one line that tells the
    table from the others of its board.
    """

    key: str
    caption: Mapping[str, str]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    headlines: tuple[Column, ...] = ()
    title: str = ""

    @property
    def measured(self) -> Table:
        """The table without rows that nobody ran."""
        return replace(self, rows=tuple(row for row in self.rows if row.kind != BOUND))

    @property
    def heading(self) -> str:
        """The title, or data set and budget where there is none."""
        return self.title or f"{self.caption['dataset']}, budget {self.caption['budget']}"


@dataclass(frozen=True)
class Leaderboard:
    """All tables, and what is in none of them. ``superseded``: run ids replaced by a newer record of the same run."""

    tables: tuple[Table, ...]
    skipped: tuple[Skipped, ...]
    superseded: tuple[str, ...]
    title: str = "Leaderboard"
