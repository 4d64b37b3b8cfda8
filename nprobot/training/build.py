"""From a run's configuration to the model that learns, and back to the settings in use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from nprobot.learning.rules import FeedbackRule
from nprobot.policies.files.export import ACTIVATION_NAMES
from nprobot.policies.networks import ACTIVATIONS
from nprobot.runs.seeds import Seeds

from .algorithms import MAKERS, Model, options_of
from .config import (
    DEFAULT_STEPS,
    NORMALISE,
    AlgorithmOptions,
    LearningOptions,
    LRSchedule,
    NetworkOptions,
    RunConfig,
)
from .environments import find_spec
from .vector import make_vector

SCHEDULES: dict[LRSchedule, Callable[[float], float]] = {
    "constant": lambda remaining: 1.0,
    "linear": lambda remaining: remaining,
    "cosine": lambda remaining: 0.5 - 0.5 * math.cos(math.pi * remaining),
}
"""Learning rate, as a share of the first one, over the share of the run that remains."""

SOLVING_EVALUATION = 10_000
"""Steps between the evaluations of a run that an evaluation can stop."""


def build_model(config: RunConfig, env: VecNormalize, device: str = "cpu") -> Model:
    """The algorithm on its environments, seeded, ready to learn.

    Args:
        config: the run; what it leaves open is the algorithm's default.
        env: from `make_vector`.
        device: torch device.
    """
    seeds = Seeds.spawn(config.seed)
    learning = config.learning
    rule_settings = {
        "samples": config.samples,
        "sigma": learning.sigma,
        "noise": learning.noise,
        "decorrelation_lr": learning.decorrelation_lr,
        "feedback": learning.feedback,
    }
    maker = MAKERS[config.algo]
    settings = maker.arguments(config, env, _given(dataclasses.asdict(config.algorithm)))
    if maker.compares:
        settings["alignment_interval"] = learning.alignment_every or 0
    policy_settings: dict[str, Any] = {
        "net_arch": config.network.hidden and list(config.network.hidden),
        "activation_fn": config.network.activation and ACTIVATIONS[config.network.activation],
    }
    model = maker.cls(
        "MlpPolicy",
        env,
        rule=config.rule,
        rule_kwargs={"seed": seeds.rule, **_given(rule_settings)},
        policy_kwargs=_given(policy_settings),
        seed=seeds.torch,
        device=device,
        **settings,
    )
    model.lr_schedule = learning_rates(learning, model.lr_schedule)
    env.gamma = model.gamma  # rewards are scaled by the spread of the return that is learned
    env.seed(seeds.environments)  # SB3 has seeded them with its own seed
    return model


def learning_rates(options: LearningOptions, default: Schedule) -> Schedule:
    """The learning rate over the share of the run that remains.

    First value and shape are separate options: each that is left open is the algorithm's own.
    """
    start = options.learning_rate or float(default(1.0))
    if options.lr_schedule == "linear":
        # As SB3 computes it, so that a default that is written out is the same to the last digit.
        default = LinearSchedule(start, 0.0, 1.0)
    if options.lr_schedule in (None, "linear"):
        return lambda remaining: start * default(remaining) / default(1.0)
    share = SCHEDULES[options.lr_schedule]
    return lambda remaining: start * share(remaining)


def schedule_name(rates: Schedule) -> LRSchedule | None:
    """The name of a schedule; None for one that has none."""
    for name, share in SCHEDULES.items():
        if all(math.isclose(rates(r), rates(1.0) * share(r), abs_tol=1e-12) for r in (0, 0.3, 0.7)):
            return name
    return None


def resolve(config: RunConfig, model: Model, *, keeps_episodes: bool = True) -> RunConfig:
    """The same configuration with every default that is in use filled in.

    Args:
        config: with options left open.
        model: made from it.
        keeps_episodes: whether the state of the environment can be saved exactly.
    """
    steps = config.steps or DEFAULT_STEPS
    stop_at = config.stop_at
    if config.steps is None and stop_at is None:
        stop_at = find_spec(config.env).reward_threshold
    evaluate_every = config.evaluate_every
    if stop_at is not None and evaluate_every is None:
        evaluate_every = SOLVING_EVALUATION
    rule = model.rule
    return dataclasses.replace(
        config,
        steps=steps,
        stop_at=stop_at,
        samples=rule.samples,
        envs=config.env_count,
        normalise=config.normalise or NORMALISE[config.algo],
        checkpoint_every=config.checkpoint_every or max(steps // 10, 1),
        evaluate_every=evaluate_every,
        checkpoint_episodes=config.checkpoint_episodes or ("keep" if keeps_episodes else "restart"),
        learning=LearningOptions(
            learning_rate=float(model.lr_schedule(1.0)),
            lr_schedule=schedule_name(model.lr_schedule),
            sigma=rule.sigma,
            noise=rule.noise,  # type: ignore[arg-type]
            decorrelation_lr=rule.decorrelation_lr,
            feedback=isinstance(rule, FeedbackRule),
            alignment_every=config.learning.alignment_every,
        ),
        network=_network(MAKERS[config.algo].hidden_layers(model), config.network.activation),
        algorithm=AlgorithmOptions(**options_of(model, config.algo)),
    )


def options_in_use(config: RunConfig) -> dict[str, Any]:
    """Every option of a run by name, with the values of those that it leaves open.

    Makes the environments and the model, and trains nothing.
    """
    vector = make_vector(config)
    try:
        return resolve(config, build_model(config, vector)).flat()
    finally:
        vector.close()


def _network(layers: Iterable[nn.Module], activation: str | None) -> NetworkOptions:
    hidden_layers = list(layers)
    hidden = tuple(m.out_features for m in hidden_layers if isinstance(m, nn.Linear))
    names = [ACTIVATION_NAMES[type(m)] for m in hidden_layers if type(m) in ACTIVATION_NAMES]
    return NetworkOptions(hidden, activation or (names[0] if names else None))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
