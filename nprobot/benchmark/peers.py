"""What nprobot is compared with: unmodified SB3, random search, evolution; and all `METHODS`.

A peer stands here alone: its options, what runs it, its entry in `PEERS`. Its packages are imported
when it runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from gymnasium import spaces
from msgspec import Meta

from nprobot import catalogue
from nprobot.catalogue import Normalise
from nprobot.errors import MissingPackageError
from nprobot.options import Count, Options, Positive
from nprobot.runs.seeds import Seeds
from nprobot.training.run_config import RunConfig

from .methods import FIT, OURS, Method, RunSpec, training_config

if TYPE_CHECKING:
    from nprobot.policies.files.policy import Array
    from nprobot.training.environments import Env

    from .execution import Recorder
    from .ledger import Ledger

SB3 = "sb3-"
"""Before the name of an algorithm of ours, for stable-baselines3's own."""


POLICY_SETTINGS = ("log_std_init", "ortho_init")
"""Arguments of stable-baselines3's policies that its zoo sets, and that our algorithms leave."""


def sb3_config(spec: RunSpec) -> RunConfig:
    """The run by our algorithm under backprop, which is SB3's; nothing normalised by default."""
    algo = spec.algo.removeprefix(SB3)
    given = {name: value for name, value in spec.settings.items() if name not in POLICY_SETTINGS}
    settings: dict[str, Any] = {"normalise": "off", **given}
    if algo == "td3":
        settings = {"exploration_noise": 0.0, **settings}  # SB3's default, not ours
    return training_config(spec.replace(algo=algo, rule="bp", settings=settings))


def run_sb3(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Train by stable-baselines3's own class, and measure."""
    import stable_baselines3

    from nprobot.training.build import constructor_arguments
    from nprobot.training.vector import make_vector

    from .ledger import acting_passes, learn

    config = sb3_config(spec).resolved()
    with closing(make_vector(config)) as env:
        cls = getattr(stable_baselines3, catalogue.ALGORITHMS[config.algo].title)
        arguments = constructor_arguments(config, env)
        arguments.pop("critic_warmup", None)  # ours alone
        arguments["policy_kwargs"] |= {
            name: spec.settings[name] for name in POLICY_SETTINGS if name in spec.settings
        }
        model: Any = cls("MlpPolicy", env, device="cpu", **arguments)
        env.gamma = model.gamma  # rewards are scaled by the spread of the return that is learned
        env.seed(Seeds.spawn(spec.seed).environments)  # SB3 has seeded them with its own seed

        def passes() -> tuple[int, int]:
            forward, backward = learning_passes(model)
            return forward + acting_passes(model), backward

        return learn(model, env, spec.steps, recorder, passes)


def learning_passes(model: Any) -> tuple[int, int]:  # noqa: ANN401 - SB3 does not type its own
    """Passes, forward and backward, that a model of SB3's own has learned with."""
    name, updates = type(model).__name__, model._n_updates
    if name == "PPO":  # an update is an epoch
        passes = 2 * updates * model.n_steps * model.n_envs
        return passes, passes
    samples, critics = updates * model.batch_size, model.critic.n_critics
    if name == "SAC":
        # Actor: here and at the next state. Critics: target, regression, judging.
        return samples * (2 + 3 * critics), samples * (1 + 2 * critics)
    # TD3's actor, and one critic judging it: in every n-th step.
    acting = 2 * (updates // model.policy_delay) * model.batch_size
    return samples * (1 + 2 * critics) + acting, samples * critics + acting


@dataclass(frozen=True)
class ARSOptions(Options):
    """Settings of sb3-contrib's ARS, with its names; None means its default."""

    learning_rate: Positive | None = None
    delta_std: Positive | None = None
    n_delta: Count | None = None
    n_top: Count | None = None
    alive_bonus_offset: float | None = None
    normalise: Normalise = "observations"


def run_ars(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Augmented random search; an iteration that the budget does not cover is not counted in."""
    from sb3_contrib import ARS
    from stable_baselines3.common.callbacks import BaseCallback

    from nprobot.training.vector import make_vector

    from .ledger import Acting, Ledger

    class BudgetSpent(Exception):
        """Ends the search in the middle of an iteration."""

    class Follow(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                recorder.pass_by(ledger, model.num_timesteps, predict)

        def _on_step(self) -> bool:
            if model.num_timesteps >= spec.steps:
                raise BudgetSpent
            return True

    settings = ARSOptions.from_dict(spec.settings).to_dict()
    with closing(make_vector(environment_config(spec, settings.pop("normalise")))) as env:
        seeds = Seeds.spawn(spec.seed)
        given = {name: value for name, value in settings.items() if value is not None}
        model: Any = ARS("LinearPolicy", env, seed=seeds.torch, device="cpu", **given)
        env.seed(seeds.environments)
        predict = Acting(model.policy, env)
        weights = math.prod(env.observation_space.shape or ()) * math.prod(
            env.action_space.shape or ()
        )

        def ledger() -> Ledger:
            steps = model.num_timesteps
            searching = model._n_updates * model.n_top * model.n_params
            return Ledger(steps, steps, 0, steps * weights + searching)

        recorder.start(ledger(), predict)
        with contextlib.suppress(BudgetSpent):
            model.learn(spec.steps, Follow(), log_interval=None)
        return recorder.finish(ledger(), predict)


def environment_config(spec: RunSpec, normalise: Normalise = "off") -> RunConfig:
    """The run, as far as its environments go: rewards as they are, observations scaled if asked."""
    scaled = "observations" if normalise in ("on", "observations") else "off"
    return training_config(spec.replace(algo="ppo", rule="bp", settings={"normalise": scaled}))


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
        from stable_baselines3.common.running_mean_std import RunningMeanStd

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


@dataclass(frozen=True)
class CMAOptions(Options):
    """Settings of CMA-ES."""

    sigma0: Positive = 0.3
    """First step size."""
    population: Annotated[int, Meta(ge=2)] | None = None
    """Candidates of a generation. Left out: as pycma has it."""
    normalise: Normalise = "observations"


class PopulationSearch(Protocol):
    """A search over the weights of a linear policy, generation by generation."""

    per_candidate: int
    """Multiply-adds of the search itself."""

    def ask(self) -> Sequence[Array]:
        """The candidates of a generation; none where the search is over."""

    def tell(self, population: Sequence[Array], losses: Sequence[float]) -> Array:
        """What came of them, less being better; returns the weights to act with."""


class CMASearch:
    """CMA-ES of pycma.

    Args:
        start: weights to begin with.
        settings: of the run.
        seed: of the search.
    """

    def __init__(self, start: Array, settings: CMAOptions, seed: int) -> None:
        import cma

        options = {"seed": seed, "verbose": -9}
        if settings.population is not None:
            options["popsize"] = settings.population
        self._search = cma.CMAEvolutionStrategy(start, settings.sigma0, options)
        # Sampling by the root of the covariance, and its update from the better half.
        self.per_candidate = start.size**2 * 3 // 2

    def ask(self) -> Sequence[Array]:
        """See `PopulationSearch`."""
        over = self._search.stop(ignore_list=("maxiter",))
        return [] if over else list(self._search.ask())

    def tell(self, population: Sequence[Array], losses: Sequence[float]) -> Array:
        """See `PopulationSearch`."""
        self._search.tell(population, losses)
        favourite: Array = self._search.result.xfavorite
        return favourite


@dataclass(frozen=True)
class OpenAIOptions(Options):
    """Settings of OpenAI's evolution strategy."""

    learning_rate: Positive = 0.05
    """Step size of Adam."""
    sigma: Positive = 0.1
    """Standard deviation of the candidates' weights about the mean."""
    population: Annotated[int, Meta(ge=2, multiple_of=2)] = 16
    """Candidates of a generation, in pairs of opposite sign."""
    normalise: Normalise = "observations"


class OpenAISearch:
    """Salimans et al. 2017 (arXiv 1703.03864) as evosax has it: mirrored samples, ranks, Adam.

    Args:
        start: weights to begin with.
        settings: of the run.
        seed: of the search.
    """

    def __init__(self, start: Array, settings: OpenAIOptions, seed: int) -> None:
        import jax
        import optax
        from evosax.algorithms import Open_ES

        self._keys = map(partial(jax.random.fold_in, jax.random.PRNGKey(seed)), count())
        self._search = Open_ES(
            population_size=settings.population,
            solution=jax.numpy.zeros(start.size),
            optimizer=optax.adam(settings.learning_rate),
            std_schedule=optax.constant_schedule(settings.sigma),
        )
        self._params = self._search.default_params
        self._state = self._search.init(
            next(self._keys), jax.numpy.asarray(start, "float32"), self._params
        )
        self.per_candidate = 2 * start.size

    def ask(self) -> Sequence[Array]:
        """See `PopulationSearch`."""
        self._asked, self._state = self._search.ask(next(self._keys), self._state, self._params)
        return list(np.asarray(self._asked, np.float64))

    def tell(self, population: Sequence[Array], losses: Sequence[float]) -> Array:
        """See `PopulationSearch`."""
        fitness = np.asarray(losses, np.float32)
        key = next(self._keys)
        self._state, _ = self._search.tell(key, self._asked, fitness, self._state, self._params)
        return np.asarray(self._state.mean, np.float64)


def run_cma(spec: RunSpec, recorder: Recorder) -> Ledger:
    """CMA-ES over the weights of a linear policy, an episode a candidate."""
    settings = CMAOptions.from_dict(spec.settings)
    return _search(spec, recorder, settings.normalise, lambda w, s: CMASearch(w, settings, s))


def run_openai(spec: RunSpec, recorder: Recorder) -> Ledger:
    """OpenAI's evolution strategy over the weights of a linear policy, an episode a candidate."""
    settings = OpenAIOptions.from_dict(spec.settings)
    return _search(spec, recorder, settings.normalise, lambda w, s: OpenAISearch(w, settings, s))


def _search(
    spec: RunSpec,
    recorder: Recorder,
    normalise: Normalise,
    begin: Callable[[Array, int], PopulationSearch],
) -> Ledger:
    """Search the weights of a linear policy; a generation past the budget is not counted in."""
    from nprobot.training.vector import recipe

    from .ledger import Ledger

    seeds = Seeds.spawn(spec.seed)
    with closing(recipe(environment_config(spec)).make()) as env:
        assert isinstance(env.observation_space, spaces.Box)
        assert isinstance(env.action_space, spaces.Box)
        scaled = normalise in ("on", "observations")
        policy = LinearPolicy(env.observation_space, env.action_space, scaled)
        candidate = LinearPolicy(env.observation_space, env.action_space, scaled)
        candidate.statistics = policy.statistics  # frozen for a generation, then moved on together
        search = begin(policy.parameters, seeds.torch % 2**31 + 1)
        steps = searched = 0

        def ledger() -> Ledger:
            acting = steps * policy.inputs * policy.outputs
            return Ledger(steps, steps, 0, acting + searched * search.per_candidate)

        recorder.start(ledger(), policy)
        env.reset(seed=seeds.environments)
        while steps < spec.steps and (population := search.ask()):
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
            policy.parameters = search.tell(population, losses)
            searched += len(population)
            policy.statistics.update(np.array(seen))
            recorder.pass_by(ledger, steps, policy)
        return recorder.finish(ledger(), policy)


def _episode(env: Env, policy: LinearPolicy, budget: int) -> tuple[float, list[Array]]:
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


@dataclass(frozen=True)
class NoOptions(Options):
    """Nothing to set."""


def run_random(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Actions drawn uniformly; nothing is learned and no step is spent.

    On a regression task: the mean of the targets, whose normalised error is 1 by definition.
    """
    from nprobot.training.vector import recipe

    from .ledger import Ledger

    nothing = Ledger(0, 0, 0, 0)
    if spec.env.startswith(FIT):
        recorder.returns = [-1.0]
        recorder.add(nothing, recorder.returns)
        return nothing
    with closing(recipe(environment_config(spec)).make()) as env:
        space = env.action_space
        space.seed(Seeds.spawn(spec.seed).torch)
        return recorder.finish(nothing, lambda seen: np.stack([space.sample() for _ in seen]))


def _options(cls: type[Options]) -> Any:  # noqa: ANN401 - `Method.configure`
    return lambda spec: cls.from_dict(spec.settings)


PEERS: Mapping[str, Method] = {
    "sb3-ppo": Method(
        *("stable-baselines3's own PPO", sb3_config, run_sb3),
        microseconds=600.0, colour="#56b4e9", marker="<",
    ),
    "sb3-sac": Method(
        *("stable-baselines3's own SAC", sb3_config, run_sb3),
        microseconds=6000.0, colour="#0072b2", marker=">",
    ),
    "sb3-td3": Method(
        *("stable-baselines3's own TD3", sb3_config, run_sb3),
        microseconds=4000.0, colour="#cc79a7", marker="p",
    ),
    "ars": Method(
        *("augmented random search of sb3-contrib, linear policy", _options(ARSOptions), run_ars),
        package="sb3_contrib", microseconds=200.0,
        gradient_free=True, network="linear", colour="#d94801", marker="X",
    ),
    "cma-es": Method(
        *("CMA-ES of pycma, linear policy", _options(CMAOptions), run_cma),
        package="cma", microseconds=30.0,
        gradient_free=True, network="linear", colour="#e7a000", marker="*",
    ),
    "openai-es": Method(
        *("OpenAI's evolution strategy of evosax, linear policy", _options(OpenAIOptions)),
        run_openai, package="evosax", extra="es", microseconds=40.0,
        gradient_free=True, network="linear", colour="#a6761d", marker="P",
    ),
    "random": Method(
        *("uniformly random actions", _options(NoOptions), run_random),
        network="–", colour="#9e9e9e", marker=".",
    ),
}  # fmt: skip
METHODS: Mapping[str, Method] = {**OURS, **PEERS}
"""All that a suite may name as `algo`."""


def check_installed(algo: str) -> None:
    """Refuse an algorithm whose package is missing, before any work is done.

    Raises:
        MissingPackageError: it is.
    """
    package = METHODS[algo].package
    if package is not None and importlib.util.find_spec(package) is None:
        extra = METHODS[algo].extra
        raise MissingPackageError(
            f"the algorithm {algo!r} needs `pip install 'nprobot[{extra}]'` ({package} is missing)"
        )
