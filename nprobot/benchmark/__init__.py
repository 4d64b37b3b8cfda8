"""Benchmarks: suites of runs, done side by side, resumable, with statistics and a report.

from pathlib import Path
from nprobot import benchmark

suite = benchmark.load("core").select(env=["Reacher"], seeds=[0, 1, 2])
benchmark.bench(suite, Path("runs/reacher"), benchmark.Processes(jobs=4))
benchmark.report(Path("runs/reacher"))
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
