"""Amazon Toys and Games (2014), 5-core: 19,412 users, 11,924 items, 167,597 rated reviews.

He and McAuley, WWW 2016 (arXiv 1602.01585); McAuley et al., SIGIR 2015 (arXiv 1506.04757).
"""

from __future__ import annotations

from sidbench.datasets.amazon.source2014 import Amazon2014, Amazon2014Config
from sidbench.datasets.base import DatasetInfo

INFO = DatasetInfo(
    title="Amazon Toys and Games (2014), 5-core",
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
    published={"users": 19412, "items": 11924, "interactions": 167597},
    notes=("Times have day resolution, so ties within a user are frequent.",),
)


class Toys(Amazon2014):
    """The Toys and Games category."""

    info = INFO
    config_class = Amazon2014Config
    folder = "toys"
    category = "Toys_and_Games"
