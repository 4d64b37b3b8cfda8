"""From a run's configuration to the model that learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from nprobot.algorithms.hindsight import Goals, HindsightBuffer
from nprobot.algorithms.nrl import NRL
from nprobot.algorithms.ppo import PPO
from nprobot.algorithms.sac import SAC
from nprobot.algorithms.td3 import TD3
from nprobot.catalogue import LRSchedule
from nprobot.errors import ConfigError
from nprobot.policies.asymmetric_policy import AsymmetricPolicy
from nprobot.policies.networks import ACTIVATIONS
from nprobot.runs.seeds import Seeds

from .run_config import RunConfig
from .vector import recipe, side_by_side

Model = PPO | NRL | SAC | TD3

SCHEDULES: dict[LRSchedule, Callable[[float], float]] = {
    "constant": lambda remaining: 1.0,
    "linear": lambda remaining: remaining,
    "cosine": lambda remaining: 0.5 - 0.5 * math.cos(math.pi * remaining),
}
"""Learning rate, as a share of the first one, over the share of the run that remains."""


def build_model(config: RunConfig, env: VecNormalize, device: str = "cpu") -> Model:
    """The algorithm on its environments, seeded, ready to learn.

    Args:
        config: the run; what it leaves open is filled in.
        env: from `make_vector`.
        device: torch device.
    """
    config = config.resolved()
    seeds, options = Seeds.spawn(config.seed), config.flat()
    arguments = constructor_arguments(config, env)
    policy: str | type[AsymmetricPolicy] = "MlpPolicy"
    if privileged := side_by_side(env).description.privileged:
        if config.algo != "ppo":
            raise ConfigError(
                f"{config.algo} has one observation for actor and critic; privileged parts are for "
                "ppo"
            )
        policy = AsymmetricPolicy
        arguments["policy_kwargs"]["privileged"] = privileged
    if config.about.compares:
        arguments["alignment_interval"] = options["alignment_every"] or 0
    if config.chip is not None:
        arguments["node_noise" if config.algo == "nrl" else "chip"] = config.chip
        arguments["device_seed"] = seeds.device
    model: Model = config.about.load()(
        policy,
        env,
        rule=config.rule,
        rule_kwargs={
            "seed": seeds.rule,
            **{name: options[name] for name in ("samples", "sigma", "noise", "decorrelation_lr")},
            **{n: options[n] for n in ("whitening", "keep_function", "decorrelation_interval")},
        },
        device=device,
        **arguments,
    )
    env.gamma = model.gamma  # rewards are scaled by the spread of the return that is learned
    env.seed(seeds.environments)  # SB3 has seeded them with its own seed
    return model


def schedule(start: float, name: LRSchedule) -> Schedule:
    """The learning rate over the share of the run that remains.

    Args:
        start: the first one.
        name: its shape.
    """
    if name == "constant":
        return ConstantSchedule(start)
    if name == "linear":
        return LinearSchedule(start, 0.0, 1.0)
    return lambda remaining: start * SCHEDULES[name](remaining)


def constructor_arguments(config: RunConfig, env: VecNormalize) -> dict[str, Any]:
    """What stable-baselines3's constructor of the algorithm takes, rule and device aside.

    Args:
        config: the run, with all defaults filled in.
        env: its environments.
    """
    options = config.flat()
    policy: dict[str, Any] = {
        "net_arch": list(options["hidden"]),
        "activation_fn": ACTIVATIONS[options["activation"]],
    }
    for name in ("log_std_init", "ortho_init"):
        if options[name] is not None:
            policy[name] = options[name]
    if options["weight_decay"]:
        policy["optimizer_class"] = torch.optim.AdamW
        policy["optimizer_kwargs"] = {"weight_decay": options["weight_decay"]}
        if config.algo == "ppo":
            policy["optimizer_kwargs"]["eps"] = 1e-5  # as SB3's PPO has it with Adam
    arguments: dict[str, Any] = {name: options[name] for name in config.about.options}
    arguments |= {
        "learning_rate": schedule(options["learning_rate"], options["lr_schedule"]),
        "policy_kwargs": policy,
        "seed": Seeds.spawn(config.seed).torch,
    }
    if "exploration_noise" in arguments:
        std = arguments.pop("exploration_noise")
        size = int(np.prod(env.action_space.shape or ()))
        arguments["action_noise"] = (
            NormalActionNoise(np.zeros(size), np.full(size, std)) if std else None
        )
    if share := arguments.pop("hindsight", 0.0):
        arguments["replay_buffer_class"] = HindsightBuffer
        made = recipe(config).make()
        arguments["replay_buffer_kwargs"] = {"goals": Goals.of(made), "share": share}
    if "ent_coef_start" in arguments:
        start = arguments.pop("ent_coef_start")
        if arguments["ent_coef"] is None:
            arguments["ent_coef"] = "auto" if start == 1.0 else f"auto_{start!r}"  # SB3's notation
    return arguments
