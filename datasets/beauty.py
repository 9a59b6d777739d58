"""Amazon Beauty (2014), 5-core: 22,363 users, 12,101 items, 198,502 rated reviews with title, brand and categories.

He and McAuley, WWW 2016 (arXiv 1602.01585); McAuley et al., SIGIR 2015 (arXiv 1506.04757). The set on which most
semantic-ID papers report. Times are whole days, so ties are frequent: the tie rule of the split matters here.
"""

from __future__ import annotations

from sidbench.datasets.amazon.source2014 import Amazon2014, Amazon2014Config
from sidbench.datasets.base import DatasetInfo

INFO = DatasetInfo(
    title="Amazon Beauty (2014), 5-core",
    version=1,
    source="https://jmcauley.ucsd.edu/data/amazon/",
    licence="no formal licence; distributed by its authors for research, not for redistribution",
    citation="He and McAuley, WWW 2016; McAuley, Targett, Shi and van den Hengel, SIGIR 2015",
    url="https://arxiv.org/abs/1602.01585",
    bibtex="@misc{he2016ups,\n"
    "  title={Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class Collaborative Filtering},\n"
    "  author={He and McAuley}, year={2016}, eprint={1602.01585}, archivePrefix={arXiv},\n"
    "  url={https://arxiv.org/abs/1602.01585}}",
    modalities=("text", "behaviour"),
    tasks=("retrieval", "ranking"),
    published={"users": 22363, "items": 12101, "interactions": 198502},
    notes=("Times have day resolution: 9,719 users have tied validation and test times under leave-last-out.",),
)


class Beauty(Amazon2014):
    """The Beauty category."""

    info = INFO
    config_class = Amazon2014Config
    folder = "beauty"
    category = "Beauty"
