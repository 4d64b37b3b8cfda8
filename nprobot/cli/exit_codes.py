"""Exit codes of the program."""

from __future__ import annotations

DONE = 0
FAILED = 1
"""The work was asked for rightly and failed."""
MISUSED = 2
"""Something was asked for that does not exist or makes no sense."""
INTERRUPTED = 130
"""By Ctrl-C; 128 + the number of the signal, as shells do."""
