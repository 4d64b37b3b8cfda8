"""Loaded once by the process that all runs are forked from: what takes seconds to import."""

from __future__ import annotations

import torch._dynamo  # noqa: F401  or the first optimiser of every run would

import nprobot.benchmark.execution
import nprobot.benchmark.fits
import nprobot.benchmark.peers
import nprobot.benchmark.sb3  # noqa: F401
