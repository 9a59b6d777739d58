"""Where sidbench keeps its own files: records and cached stages live under one home folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

RECORD_NAME = "record.json"


def home_folder() -> Path:
    """``$SIDBENCH_HOME``, else the user's data folder; not created here."""
    chosen = os.environ.get("SIDBENCH_HOME", "")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("sidbench"))


def runs_folder() -> Path:
    """The folder of finished runs: ``<home>/runs/<run id>/record.json`` beside the run's per-user files."""
    return home_folder() / "runs"


def cache_folder() -> Path:
    """The folder of cached stages: ``$SIDBENCH_HOME/cache``, else the user's cache folder. Safe to delete."""
    if os.environ.get("SIDBENCH_HOME", ""):
        return home_folder() / "cache"
    return Path(platformdirs.user_cache_dir("sidbench"))
