"""Benchmarks: suites of runs, done side by side, resumable, with statistics and a report."""

from __future__ import annotations
