"""The command line: one program, `nprobot`, with one module a command."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
