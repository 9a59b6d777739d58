"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder with raw files; default $SIDBENCH_DATA.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
