"""Runs on a Ray cluster: the same rows as with processes, on as many machines as it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nprobot.errors import MissingPackageError

from .engine import Event
from .rows import blank, failure
from .spec import RunSpec

RETRIES = 3
"""How often a run is begun anew when its worker or machine is lost."""


class Ray:
    """Each run a task of one core on a Ray cluster.

    A run whose worker dies begins anew elsewhere; only its last end makes a row.

    Args:
        address: of the cluster, such as ``auto`` or ``ray://head:10001``; nprobot has to be
            installed on its machines.
        retries: how often a run is begun anew when its worker is lost.

    Raises:
        MissingPackageError: Ray is not installed.
    """

    def __init__(self, address: str, retries: int = RETRIES) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError(
                "a Ray cluster needs `pip install 'nprobot[ray]'` here and on its machines"
            ) from error
        self._ray = ray
        self.address = address
        self.retries = retries

    def run(self, specs: Sequence[RunSpec]) -> Iterator[Event]:
        """Do the runs; see `Engine`."""
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        # A process a run, as on one machine: memory and CPU time are the run's own.
        task = ray.remote(num_cpus=1, max_retries=self.retries, max_calls=1)(work)
        running = {task.remote(spec.to_dict()): spec for spec in specs}
        try:
            while running:
                ended, _ = ray.wait(list(running), num_returns=1)
                for reference in ended:
                    spec = running.pop(reference)
                    try:
                        row: dict[str, Any] = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        row = blank(spec) | failure(error)
                    yield Event(spec, spec.steps, row)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def work(values: dict[str, Any]) -> dict[str, Any]:
    """What the task of a run does; returns its row."""
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .execution import execute

    return execute(RunSpec.from_dict(values))
