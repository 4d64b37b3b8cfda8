"""What a run spends: environment steps, network passes, multiply-adds, seconds, memory.

Multiply-adds are those of matrix products. All rollouts of a learner do the same products, and so
do all its updates, so some are counted, product by product as they are carried out, and the
others are taken to cost what those did. Nothing can be forgotten that way: the products with
the decorrelation matrices, those of an update of R and those of the learned feedback are in it, and
a pass that an algorithm saves is not.
"""

from __future__ import annotations

import copy
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from nprobot.algorithms.nrl import NRL
from nprobot.errors import NonFiniteError
from nprobot.learning.perceptrons import Tally
from nprobot.policies.chip.crossbar import on_chip
from nprobot.policies.files.policy import Array
from nprobot.training.evaluation import Predict

if TYPE_CHECKING:
    from .execution import Recorder


@dataclass(frozen=True)
class Ledger:
    """What a run has spent so far; evaluations are not in it.

    Attributes:
        env_steps: steps of the environments, all together.
        forward_passes: passes of one sample through one network, for acting and for learning.
        backward_passes: the same backwards.
        multiply_adds: of the matrix products of both.
        wall_seconds: by the clock on the wall.
        cpu_seconds: the CPU time of the process, s, all threads.
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
    """Counts the multiply-adds of the matrix products inside, torch's and those of arrays."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._torch = 0
        self._before = Tally.multiply_adds

    @property
    def total(self) -> int:
        """Multiply-adds so far."""
        return self._torch + Tally.multiply_adds - self._before

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
            self._torch += math.prod(left) * (right[-1] if len(right) > 1 else 1)
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


class Phase:
    """Work that comes again and again and costs the same each time, but for the first.

    The first time, when networks are also checked, is counted by itself. The next ones are counted,
    too, and the others are taken to cost what those did.

    Args:
        probes: times to count after the first.
    """

    def __init__(self, probes: int) -> None:
        self._probes = probes
        self._products: MatrixProducts | None = None
        self._times = -1
        self._counted = 0
        self._by_itself = 0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all times so far."""
        counted = min(self._times, self._probes)
        alike = self._counted * self._times // counted if counted > 0 else 0
        return self._by_itself + alike

    def begin(self) -> None:
        """The work begins."""
        if self._times < self._probes:
            self._products = MatrixProducts()
            self._products.__enter__()  # type: ignore[no-untyped-call]

    def end(self, *, idle: bool = False) -> None:
        """The work is done.

        Args:
            idle: it was of another, lighter kind, such as a warm-up, and is counted by itself.
        """
        products, self._products = self._products, None
        total = 0
        if products is not None:
            products.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            total = products.total
        if idle or self._times < 0:
            self._by_itself += total
        else:
            self._counted += total
        if not idle:
            self._times += 1

    def abandon(self) -> None:
        """Count no further; for work that has failed."""
        if self._products is not None:
            self.end(idle=True)


class LedgerCallback(BaseCallback):
    """Counts what a model spends, and has it evaluated at the points of the curve.

    Evaluations come between an update and the next rollout, where nothing is counted. They also
    stop a policy that has lost its numbers.

    Args:
        recorder: the recorder of the run.
        predict: the policy as it is whenever it is called.
        passes: tells the passes so far, forward and backward.
    """

    def __init__(
        self, recorder: Recorder, predict: Predict, passes: Callable[[], tuple[int, int]]
    ) -> None:
        super().__init__()
        self.recorder, self.predict, self.passes = recorder, predict, passes

    def ledger(self) -> Ledger:
        """What has been spent, without the time."""
        forward, backward = self.passes()
        products = self._acting.multiply_adds + self._learning.multiply_adds
        return Ledger(self.model.num_timesteps, forward, backward, products)

    def abandon(self) -> None:
        """Count no further; for a run that has failed."""
        self._acting.abandon()
        self._learning.abandon()

    @override
    def _init_callback(self) -> None:
        self._off_policy = isinstance(self.model, OffPolicyAlgorithm)
        # TD3 updates its actor in every second step only: one alone would not be typical.
        probes = 8 if self._off_policy else 1
        self._acting, self._learning = Phase(probes), Phase(probes)
        self._warming_up = False
        self._updates: int | None = None

    @override
    def _on_training_start(self) -> None:
        self.recorder.start(self.ledger(), self.predict)

    @override
    def _on_rollout_start(self) -> None:
        if self._updates is not None:
            self._end_learning()
            if not self._off_policy:  # there it would be looked at after every step
                check_finite(self.model)
            self.recorder.pass_by(self.ledger, self.model.num_timesteps, self.predict)
        if isinstance(self.model, OffPolicyAlgorithm):
            self._warming_up = self.model.num_timesteps <= self.model.learning_starts
        self._acting.begin()

    @override
    def _on_step(self) -> bool:
        return True

    @override
    def _on_rollout_end(self) -> None:
        self._acting.end(idle=self._warming_up)
        self._updates = self.model._n_updates
        self._learning.begin()

    @override
    def _on_training_end(self) -> None:
        self._end_learning()

    def _end_learning(self) -> None:
        self._learning.end(idle=self.model._n_updates == self._updates)


def learn(
    model: BaseAlgorithm,
    env: VecNormalize,
    steps: int,
    recorder: Recorder,
    passes: Callable[[], tuple[int, int]],
) -> Ledger:
    """Train a model and measure it.

    Args:
        model: new.
        env: its environments.
        steps: budget.
        recorder: the recorder of the run.
        passes: tells the passes of the model so far, forward and backward.

    Returns:
        What the run has spent.

    Raises:
        NonFiniteError: the policy has lost its numbers.
    """
    predict = Acting(model.policy, env)
    callback = LedgerCallback(recorder, predict, passes)
    try:
        model.learn(steps, callback)
    except BaseException:
        callback.abandon()
        raise
    check_finite(model)
    return recorder.finish(callback.ledger(), predict)


class Acting:
    """The policy as it is whenever it is called, on raw observations, without exploration.

    A deep copy of it acts as the policy does now. Of a policy on a chip, which nobody can copy, it
    has the weights alone, and puts them back on the chip when it is first called.

    Args:
        policy: the policy of the model.
        env: its environments, whose statistics scale what it sees.
        weights: to be put in first.
    """

    def __init__(
        self, policy: BasePolicy, env: VecNormalize, weights: dict[str, Any] | None = None
    ) -> None:
        self.policy, self.env, self.weights = policy, env, weights

    def __call__(self, observations: Array) -> Array:
        """Actions (B, n) for observations (B, d)."""
        if self.weights is not None:
            self.policy.load_state_dict(self.weights)
            self.weights = None
        normalised = self.env.normalize_obs(observations)
        return self.policy.predict(np.asarray(normalised), deterministic=True)[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> Acting:
        env = copy.copy(self.env)  # a VecNormalize leaves its environments behind
        if env.norm_obs:
            env.obs_rms = copy.deepcopy(self.env.obs_rms, memo)
        if on_chip(self.policy):
            return Acting(self.policy, env, copy.deepcopy(self.policy.state_dict(), memo))
        return Acting(copy.deepcopy(self.policy, memo), env)


def acting_passes(model: BaseAlgorithm) -> int:
    """Passes that acting took: of the actor, and of PPO's critic."""
    if isinstance(model, NRL):
        return 0  # its rule has counted them
    if isinstance(model, OffPolicyAlgorithm):
        return max(model.num_timesteps - model.learning_starts, 0)
    return 2 * model.num_timesteps


def check_finite(model: BaseAlgorithm) -> None:
    """Raise `NonFiniteError` if a weight is NaN or infinite."""
    for name, tensor in model.policy.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} of the policy became NaN or infinite before step {model.num_timesteps:,}"
            )


def multiply_adds(function: Callable[[], object]) -> int:
    """Multiply-adds of the matrix products in a call."""
    with MatrixProducts() as products:
        function()
    return int(products.total)


def peak_memory() -> float:
    """The most memory that this process has held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
