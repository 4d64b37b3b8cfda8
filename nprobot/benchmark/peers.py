"""Peers that learn without gradients: ARS of sb3-contrib, CMA-ES of pycma, and random actions."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from typing_extensions import override

from nprobot.errors import MissingPackageError

from .environments import Array, Seeds, make, make_vector
from .ledger import Ledger
from .recorder import Recorder
from .sb3 import predictor
from .spec import FIT, RunSpec


def run(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Train and measure.

    Returns:
        What the run has spent.
    """
    return {"ars": run_ars, "cma-es": run_cma, "random": run_random}[spec.algo](spec, recorder)


class BudgetSpentError(Exception):
    """Ends a search in the middle of an iteration: its budget is spent."""


def run_ars(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Augmented random search; an iteration that the budget does not cover is not counted in."""
    try:
        from sb3_contrib import ARS
    except ImportError as error:
        raise MissingPackageError("ARS needs `pip install 'nprobot[bench]'`") from error

    settings = dict(spec.settings)
    normalise = settings.pop("normalise", "observations")
    env = make_vector(spec, normalise=normalise, gamma=0.99)
    seeds = Seeds.spawn(spec.seed)
    model: Any = ARS("LinearPolicy", env, seed=seeds.torch, device="cpu", **settings)
    env.seed(seeds.environments)
    predict = predictor(model, env)

    def ledger() -> Ledger:
        steps = model.num_timesteps
        searching = model._n_updates * model.n_top * model.n_params
        return Ledger(steps, steps, 0, steps * _weights(env) + searching)

    class Follow(BaseCallback):
        @override
        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                recorder.pass_by(ledger, model.num_timesteps, predict)

        @override
        def _on_step(self) -> bool:
            if model.num_timesteps >= spec.steps:
                raise BudgetSpentError
            return True

    recorder.start(ledger(), predict)
    with contextlib.suppress(BudgetSpentError):
        model.learn(spec.steps, Follow(), log_interval=None)
    spent = recorder.finish(ledger(), predict)
    env.close()
    return spent


def _weights(env: Any) -> int:  # noqa: ANN401
    """Multiply-adds of one pass of a linear policy."""
    return int(np.prod(env.observation_space.shape) * np.prod(env.action_space.shape))


class LinearPolicy:
    """``action = middle + half range · clip(W x + b, ±1)``, x scaled by running statistics.

    Args:
        observations: space of the observations.
        actions: space of the actions.
        normalise: whether x is the observation less its mean, over its standard deviation.

    Attributes:
        parameters: W and b in one vector.
    """

    def __init__(self, observations: spaces.Box, actions: spaces.Box, normalise: bool) -> None:
        self.inputs = math.prod(observations.shape)
        self.outputs = math.prod(actions.shape)
        self.normalise = normalise
        self.statistics = RunningMeanStd(shape=observations.shape)
        self.parameters: Array = np.zeros(self.outputs * (self.inputs + 1))
        self._middle = (actions.high + actions.low) / 2
        self._half = (actions.high - actions.low) / 2
        self._shape = actions.shape
        self._dtype = actions.dtype

    def __call__(self, observations: Array) -> Array:
        """Actions (B, n) for observations (B, d), or one for one."""
        W, b = np.split(self.parameters, [self.outputs * self.inputs])
        x = observations
        if self.normalise:
            scale = np.sqrt(self.statistics.var + 1e-8)
            x = np.clip((x - self.statistics.mean) / scale, -10.0, 10.0)
        y = np.clip(x @ W.reshape(self.outputs, self.inputs).T + b, -1.0, 1.0)
        actions = self._middle + self._half * y.reshape(*x.shape[:-1], *self._shape)
        return np.asarray(actions, self._dtype)


def run_cma(spec: RunSpec, recorder: Recorder) -> Ledger:
    """CMA-ES over the weights of a linear policy, an episode a candidate."""
    try:
        import cma
    except ImportError as error:
        raise MissingPackageError("CMA-ES needs `pip install 'nprobot[bench]'`") from error

    settings = spec.settings
    seeds = Seeds.spawn(spec.seed)
    env = make(spec, seeds.hardware)
    assert isinstance(env.observation_space, spaces.Box)
    assert isinstance(env.action_space, spaces.Box)
    normalise = settings.get("normalise", "observations") in ("on", "observations")
    policy = LinearPolicy(env.observation_space, env.action_space, normalise)
    candidate = LinearPolicy(env.observation_space, env.action_space, normalise)
    candidate.statistics = policy.statistics  # frozen for a generation, then moved on together
    options = {"seed": seeds.torch % 2**31 + 1, "verbose": -9}
    if "population" in settings:
        options["popsize"] = settings["population"]
    search = cma.CMAEvolutionStrategy(policy.parameters, settings.get("sigma0", 0.3), options)
    size = len(policy.parameters)
    steps = searched = 0

    def ledger() -> Ledger:
        acting = steps * policy.inputs * policy.outputs
        # Sampling by the root of the covariance, and its update from the better half.
        return Ledger(steps, steps, 0, acting + searched * size * size * 3 // 2)

    recorder.start(ledger(), policy)
    env.reset(seed=seeds.environments)
    while steps < spec.steps and not search.stop(ignore_list=("maxiter",)):
        population = search.ask()
        losses, seen = [], []
        for parameters in population:
            candidate.parameters = parameters
            total, observations = _episode(env, candidate, spec.steps - steps)
            losses.append(-total)
            seen += observations
            steps += len(observations)
            if steps >= spec.steps:
                break
        if len(losses) < len(population):
            break  # the budget does not cover this generation
        search.tell(population, losses)
        searched += len(population)
        policy.statistics.update(np.array(seen))
        policy.parameters = search.result.xfavorite
        recorder.pass_by(ledger, steps, policy)
    spent = recorder.finish(ledger(), policy)
    env.close()
    return spent


def _episode(env: Any, policy: LinearPolicy, budget: int) -> tuple[float, list[Array]]:  # noqa: ANN401
    """Return of an episode, at most as long as the budget, and the observations in it."""
    observation, _ = env.reset()
    total, done = 0.0, False
    seen: list[Array] = []
    while not done and len(seen) < budget:
        seen.append(observation)
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        total += float(reward)
        done = terminated or truncated
    return total, seen


def run_random(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Actions drawn uniformly; nothing is learned and no step is spent.

    On a regression task: the mean of the targets, whose normalised error is 1 by definition.
    """
    nothing = Ledger(0, 0, 0, 0)
    if spec.env.startswith(FIT):
        recorder.returns = [-1.0]
        recorder.known(nothing, recorder.returns)
        return nothing
    env = make(spec, 0)
    space = env.action_space
    space.seed(Seeds.spawn(spec.seed).torch)

    def predict(observations: Array) -> Array:
        return np.stack([space.sample() for _ in observations])

    env.close()
    return recorder.finish(nothing, predict)
