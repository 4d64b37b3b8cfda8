"""What a run spends: environment steps, network passes, multiply-adds, seconds, memory.

Multiply-adds are those of matrix products. Every call of a learner's `train` and `collect_rollouts`
does the same products, so the first calls are counted, product by product as torch carries them
out, and the others are taken to cost what those did. Nothing can be forgotten that way: the
products with the decorrelation matrices, those of an update of R and those of the learned feedback
are in it, and a pass that an algorithm saves is not.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Ledger:
    """What a run has spent so far; evaluations are not in it.

    Attributes:
        env_steps: steps of the environments, all together.
        forward_passes: passes of one sample through one network, for acting and for learning.
        backward_passes: the same backwards.
        multiply_adds: of the matrix products of both.
        wall_seconds: by the clock on the wall.
        cpu_seconds: of the process, all threads.
    """

    env_steps: int
    forward_passes: int
    backward_passes: int
    multiply_adds: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


class Clock:
    """Wall-clock and CPU time, less that of evaluations."""

    def __init__(self) -> None:
        self._since = (time.perf_counter(), time.process_time())
        self._paused = (0.0, 0.0)

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall-clock and CPU seconds since the start."""
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        return wall - self._paused[0], cpu - self._paused[1]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens inside."""
        before = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._paused = (
                self._paused[0] + time.perf_counter() - before[0],
                self._paused[1] + time.process_time() - before[1],
            )


class MatrixProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of the matrix products that torch carries out inside.

    Attributes:
        total: multiply-adds so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Carry out an operation, and count it if it is a product."""
        if factors := _FACTORS.get(func.overloadpacket.__name__.rstrip("_")):
            left, right = (args[i].shape for i in factors)
            self.total += math.prod(left) * (right[-1] if len(right) > 1 else 1)
        return func(*args, **(kwargs or {}))


_FACTORS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "dot": (0, 1),
    "addmm": (1, 2),
    "addbmm": (1, 2),
    "baddbmm": (1, 2),
    "addmv": (1, 2),
}
"""Torch's operations that are products, and which of their arguments are the factors."""


class Metered:
    """A method whose calls all cost the same: the first are counted, the others added up.

    Args:
        method: what to call.
        probes: calls to count.
        idle: whether the call to come is of another, lighter kind, such as a warm-up; it is
            counted by itself.

    Attributes:
        multiply_adds: of all calls so far.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        probes: int = 1,
        idle: Callable[[], bool] = lambda: False,
    ) -> None:
        self._method = method
        self._probes = probes
        self._idle = idle
        self._counted = 0
        self._calls = 0
        self._extra = 0

    @property
    def multiply_adds(self) -> int:
        """Of all calls so far."""
        counted = min(self._calls, self._probes)
        return self._extra + (self._counted * self._calls // counted if counted else 0)

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        """Call the method."""
        idle = self._idle()
        if not idle and self._calls >= self._probes:
            self._calls += 1
            return self._method(*args, **kwargs)
        with MatrixProducts() as products:
            result = self._method(*args, **kwargs)
        if idle:
            self._extra += products.total
        else:
            self._counted += products.total
            self._calls += 1
        return result


def multiply_adds(function: Callable[[], object]) -> int:
    """Multiply-adds of the matrix products in a call."""
    with MatrixProducts() as products:
        function()
    return int(products.total)


def peak_memory() -> float:
    """The most memory that this process has held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
