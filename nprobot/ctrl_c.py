"""Ctrl-C while libraries are loaded: the program ends at once, with one word.

A `KeyboardInterrupt` in the middle of a library's loading comes out as anything: an `ImportError`
about a broken installation, or a crash. It imports nothing of ours.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

PROGRAMS = ("nprobot", "nprobot.exe", "nprobot-script.py")


def is_the_program() -> bool:
    """Whether this process is the program `nprobot`, and not somebody's script."""
    if not sys.argv:
        return False
    # While `python -m nprobot` looks for the module, its name is in the original arguments alone.
    module = sys.argv[0] == "-m" and sys.orig_argv[1:3] == ["-m", "nprobot"]
    return module or os.path.basename(sys.argv[0]) in PROGRAMS


def leave_while_importing() -> None:
    """Have Ctrl-C end the process while something is imported, and be as usual else."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"Interrupted.\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt
