"""Errors of benchmarks; each says what was given, what is allowed and what to do."""

from __future__ import annotations

from nprobot.training.errors import ConfigError, DamagedRunError, RunError


class SuiteError(ConfigError):
    """A suite file cannot be read, or asks for something that does not exist."""


class ResultsError(DamagedRunError):
    """The folder of a benchmark holds no results, or some that cannot be read."""


class BusyError(RunError):
    """Another process is writing into the folder of the benchmark."""


class MissingPackageError(RunError):
    """Something is needed that ``pip install 'nprobot[bench]'`` (or ``[ray]``) brings."""


class WorkerLostError(RunError):
    """The process that did a run died before it was done."""
