"""Generated data sets on disk, under a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError, DataWarning
from .data import Dataset


def cache_folder() -> Path:
    """Where nprobot keeps what it can make again.

    `NPROBOT_CACHE`, else `nprobot` in `XDG_CACHE_HOME`, else the platform's cache folder.
    """
    if chosen := os.environ.get("NPROBOT_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "nprobot"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nprobot"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(local) / "nprobot" / "Cache"
    return Path.home() / ".cache" / "nprobot"


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings that JSON can hold, whatever their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cached(name: str, settings: Mapping[str, Any], build: Callable[[], Dataset]) -> Dataset:
    """The data set of `settings`: from disk where a sound copy lies there, else built and stored.

    Safe with several processes: each writes its own file and renames it into place. A damaged file
    is reported and replaced; a folder that cannot be written costs a warning and no data.

    Args:
        name: start of the file name.
        settings: everything the data depends on; `build` must put their hash in `meta`.
        build: makes the data set.
    """
    key = settings_hash(settings)
    path = cache_folder() / "datasets" / f"{name}-{key[:20]}.npz"
    if path.exists():
        try:
            found = Dataset.load(path)
            if found.meta.get("settings_hash") == key:
                return found
            problem = "it holds other settings than its name says"
        except DataError as error:
            problem = str(error)
        warnings.warn(
            f"The cached data set {path} cannot be used and is made again: {problem}",
            DataWarning,
            stacklevel=3,
        )
    built = build()
    if built.meta.get("settings_hash") != key:
        raise DataError("A cached data set must carry the hash of its settings.")
    try:
        built.save(path)
    except OSError as error:
        warnings.warn(
            f"The data set could not be stored in {path.parent} ({error}); it will be made again "
            "next time. Set NPROBOT_CACHE to a folder that can be written.",
            DataWarning,
            stacklevel=3,
        )
    return built
