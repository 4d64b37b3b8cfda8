"""Tuned settings that come with nprobot, by environment, algorithm and rule, as files.

`nprobot train` takes them for the options that it is not given; `nprobot tune` makes them.
"""

from __future__ import annotations

from .files import TunedDefaults, load, save
from .lookup import GENERAL, TUNED, choose, fill, find, known

__all__ = [
    "GENERAL",
    "TUNED",
    "ConfigError",
    "TunedDefaults",
    "choose",
    "fill",
    "find",
    "known",
    "load",
    "save",
]
