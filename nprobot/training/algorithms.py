"""The algorithms that a run can train by: how each is made, looked into, and what it remembers.

A new algorithm is a row in `config.ALGORITHMS` (its options) and one in `MAKERS` here. What it
keeps from one update to the next beside weights, optimisers and counters goes into `save_memory`:
without it, a resumed run would not end as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from nprobot.algorithms.nrl import NRL
from nprobot.algorithms.ppo import PPO
from nprobot.algorithms.sac import SAC
from nprobot.algorithms.td3 import TD3
from nprobot.policies.chip.crossbar import on_chip, restore_chip, save_chip

from .config import ALGORITHMS, RunConfig

Model = PPO | NRL | SAC | TD3
Settings = dict[str, Any]

ROLLOUT = 2048
"""PPO's transitions between two updates, all environments together, as in SB3 with one."""

TD3_EXPLORATION = 0.1
"""Standard deviation of the noise on TD3's actions (Fujimoto et al. 2018, section 6.1)."""

LEARNED = "auto"
"""What SB3 calls a temperature that SAC learns; with a number behind it, from there."""

REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True)
class Maker:
    """How one algorithm is made, and what is where in it.

    Attributes:
        cls: of the algorithm.
        arguments: of `cls`, from the options of the configuration that are given.
        option: value of an option in a model, by the option's name.
        hidden_layers: layers of the actor but for the last.
        log_interval: argument of `learn`; of SAC and TD3 the episodes from one row to the next.
        row_every: updates from one row to the next, where `learn` logs all of them.
        compares: whether it can compare its gradients with backprop's.
    """

    cls: type[Model]
    arguments: Callable[[RunConfig, VecNormalize, Settings], Settings]
    option: Callable[[Any, str], Any]
    hidden_layers: Callable[[Any], Iterable[nn.Module]]
    log_interval: int = 1
    row_every: int = 1
    compares: bool = True


def _ppo_arguments(config: RunConfig, env: VecNormalize, given: Settings) -> Settings:
    return {"n_steps": max(ROLLOUT // config.env_count, 1), **given}


def _nrl_arguments(config: RunConfig, env: VecNormalize, given: Settings) -> Settings:
    source = given.pop("noise_source", None)
    return given if source is None else {**given, "noise": source}


def _nrl_option(model: NRL, name: str) -> Any:  # noqa: ANN401
    return getattr(model, "noise" if name == "noise_source" else name)


def _off_policy_arguments(config: RunConfig, env: VecNormalize, given: Settings) -> Settings:
    std = given.pop("exploration_noise", TD3_EXPLORATION if config.algo == "td3" else 0.0)
    if not std:
        return given
    size = int(np.prod(env.action_space.shape or ()))
    return {**given, "action_noise": NormalActionNoise(np.zeros(size), np.full(size, std))}


def _sac_arguments(config: RunConfig, env: VecNormalize, given: Settings) -> Settings:
    start = given.pop("ent_coef_start", None)
    if start is not None:
        given["ent_coef"] = f"{LEARNED}_{start!r}"  # SB3's notation
    return _off_policy_arguments(config, env, given)


def _sac_option(model: SAC, name: str) -> Any:  # noqa: ANN401
    if name != "ent_coef_start":
        return _off_policy_option(model, name)
    if not isinstance(model.ent_coef, str):
        return None  # it is fixed
    return float(model.ent_coef.partition("_")[2] or 1.0)


def _off_policy_option(model: SAC | TD3, name: str) -> Any:  # noqa: ANN401
    if name == "exploration_noise":
        noise: Any = model.action_noise
        return 0.0 if noise is None else float(noise._sigma[0])
    if name == "train_freq":
        frequency: Any = model.train_freq
        return frequency.frequency
    return getattr(model, name)


MAKERS: dict[str, Maker] = {
    "ppo": Maker(
        PPO,
        _ppo_arguments,
        getattr,
        lambda model: model.policy.mlp_extractor.policy_net,
    ),
    "nrl": Maker(
        NRL,
        _nrl_arguments,
        _nrl_option,
        lambda model: list(model.policy.actor)[1:-1],
        row_every=10,
        compares=False,
    ),
    "sac": Maker(
        SAC,
        _sac_arguments,
        _sac_option,
        lambda model: model.actor.latent_pi,
        log_interval=4,
    ),
    "td3": Maker(
        TD3,
        _off_policy_arguments,
        _off_policy_option,
        lambda model: list(model.actor.mu)[:-2],
        log_interval=4,
    ),
}


def options_of(model: Model, algo: str) -> dict[str, Any]:
    """The options of an algorithm as a model has them; None where there is no number for it."""
    return {name: _number(MAKERS[algo].option(model, name)) for name in ALGORITHMS[algo]}


def _number(value: Any) -> Any:  # noqa: ANN401
    if callable(value):  # SB3 keeps some settings as schedules
        value = float(value(1.0))
    if value == float("inf") or (isinstance(value, str) and value.startswith(LEARNED)):
        return None  # no bound; SAC's temperature that is learned
    return value


def save_memory(model: Model) -> dict[str, Any]:
    """What a model keeps between two updates beside weights, optimisers and counters."""
    names = model._get_torch_save_params()[1]
    memory: dict[str, Any] = {"variables": {name: recursive_getattr(model, name) for name in names}}
    if isinstance(model, NRL):
        traces = model.traces.traces
        named = model.policy.actor.named_parameters()
        memory["traces"] = {name: traces[p] for name, p in named if p in traces}
        if on_chip(model.policy.actor):
            memory["chip"] = np.frombuffer(save_chip(model.policy.actor), np.uint8)
    if isinstance(model, SAC | TD3):
        replay = model.replay_buffer
        assert replay is not None, "made with the model"
        filled = replay.buffer_size if replay.full else replay.pos
        memory["replay"] = {name: getattr(replay, name)[:filled] for name in REPLAY}
        memory["replay"] |= {"pos": replay.pos, "full": replay.full}
        # Both may be logged once more before the next update.
        named = model.policy.named_parameters()
        memory["gradients"] = {name: p.grad for name, p in named if p.grad is not None}
        memory["inputs"] = model.rule.remembered_inputs(model.policy)
    return memory


def restore_memory(model: Model, memory: Mapping[str, Any]) -> None:
    """The inverse of `save_memory`.

    Raises:
        ValueError: it does not fit the model.
    """
    for name in model._get_torch_save_params()[1]:
        recursive_getattr(model, name).data.copy_(memory["variables"][name])
    if isinstance(model, NRL):
        parameters = dict(model.policy.actor.named_parameters())
        model.traces.traces = {
            parameters[name]: trace.to(model.device) for name, trace in memory["traces"].items()
        }
        if on_chip(model.policy.actor):
            restore_chip(model.policy.actor, memory["chip"].tobytes())
    if isinstance(model, SAC | TD3):
        _restore_replay(model.replay_buffer, memory["replay"])
        parameters = dict(model.policy.named_parameters())
        for name, gradient in memory["gradients"].items():
            parameters[name].grad = gradient.to(model.device)
        layers = dict(model.policy.named_modules())
        inputs = {layers[name]: x.to(model.device) for name, x in memory["inputs"].items()}
        model.rule.remember_inputs(inputs.items())


def _restore_replay(replay: Any, saved: Mapping[str, Any]) -> None:  # noqa: ANN401
    pos, full = int(saved["pos"]), bool(saved["full"])
    filled = replay.buffer_size if full else pos
    if not 0 <= pos < replay.buffer_size:
        raise ValueError(f"{pos} is no place in a replay buffer of {replay.buffer_size}")
    for name in REPLAY:
        present, values = getattr(replay, name), saved[name]
        if (values.shape, values.dtype) != ((filled, *present.shape[1:]), present.dtype):
            raise ValueError(f"the replay buffer's {name} have shape {values.shape}")
        present[:filled] = values
    replay.pos, replay.full = pos, full


def forget_episodes(model: Model) -> None:
    """New episodes begin: nothing of what was done counts towards what comes."""
    if isinstance(model, NRL):
        model.traces.clear()
