"""From a policy file back to a model that learns: its network, its numbers, its normaliser.

The critic begins anew, as a policy file holds none; `Start.configure` lets it learn first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from nprobot import catalogue
from nprobot.catalogue import Activation, Normalise
from nprobot.errors import ArchitectureError, ConfigError
from nprobot.policies.direct_policy import DirectPolicy
from nprobot.policies.files.from_sb3 import network_of
from nprobot.policies.files.policy import BoxAction, Operation, Policy
from nprobot.policies.files.torch_policy import MODULES
from nprobot.policies.networks import ACTIVATIONS

from .evaluation import actuators_of
from .run_config import NetworkOptions, RunConfig

SPREAD = 0.1
"""Standard deviation of PPO's exploration where the policy does not say, as a share of half the
range of the actions. At 1 in the actions' units, where stable-baselines3 begins, a policy that can
walk would fall."""
WARMUP = 10
"""Rollouts from which the critic alone learns at first."""
TARGET_KL = 0.03
"""Divergence at which an update ends early. A narrow policy moves by more of its spread with each
step of the weights: without a bound, half a nat and more in the first update of the actor."""


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        policy: acts as the run does before its first update.
        name: what the user calls it.
        std: standard deviation of PPO's exploration, as a share of half the range of the actions;
            None for what the policy says, or `SPREAD`.
    """

    policy: Policy
    name: str
    std: float | None = None

    def configure(self, config: RunConfig) -> RunConfig:
        """The options of a run that the policy decides, over those of `config`.

        Raises:
            ArchitectureError: no run makes its layers.
            ConfigError: it does not say what it controls.
        """
        policy, algorithm = self.policy, algorithm_of(self.policy)
        network = NetworkOptions(tuple(network_arguments(policy)["net_arch"]), activation(policy))
        about = catalogue.ALGORITHMS[algorithm]
        scaled = config.replace(algo=algorithm).normalise_rewards or about.normalise == "on"
        if policy.normaliser is None:
            normalise: Normalise = "rewards" if scaled else "off"
        else:
            normalise = "on" if scaled else "observations"
        task: dict[str, Any] = {}
        if policy.task is not None:
            kwargs = dict(policy.task.kwargs)
            if kwargs.get("privileged") == "[]":  # a critic may see them again
                kwargs.pop("privileged")
            task = {"env": policy.task.id, "env_kwargs": kwargs}
            task["actuators"] = actuators_of(policy, None)
        return config.replace(algo=algorithm, normalise=normalise, network=network, **task)

    def gently(self, config: RunConfig, given: RunConfig) -> RunConfig:
        """The options of a run, with those of PPO that keep what the policy knows.

        Args:
            config: with every default filled in.
            given: as the user asked for it; what they chose stays.
        """
        if config.algo != "ppo":
            return config
        steps = WARMUP * (config.algorithm.n_steps or 0) * config.env_count
        gentle = {"critic_warmup": steps, "target_kl": TARGET_KL}
        chosen = given.algorithm.to_dict()
        return config.with_options({n: v for n, v in gentle.items() if chosen[n] is None})

    def check(self, config: RunConfig) -> None:
        """Refuse a run that cannot start from the policy.

        Raises:
            ConfigError: it has another network, or another algorithm needs other outputs.
        """
        needed = self.configure(config).network
        for name in ("hidden", "activation"):
            given, own = getattr(config.network, name), getattr(needed, name)
            if own is not None and given != own:
                raise ConfigError(f"{name} is {own} in {self.name}, not {given}; leave it away")

    def begin(self, model: BaseAlgorithm) -> None:
        """Make a new model act as the policy does.

        Raises:
            ArchitectureError: it cannot; see `write_policy`.
            ConfigError: `std` for a model that has no such spread.
        """
        write_policy(model, self.policy)
        write_spread(model, self.policy, self.std)


def algorithm_of(policy: Policy) -> str:
    """The algorithm that learns a policy further: the one that made it, or PPO."""
    made_by = str(policy.provenance.get("algorithm", ""))
    if made_by in catalogue.ALGORITHMS:
        return made_by
    return "sac" if squashes(policy) else "ppo"


def activation(policy: Policy) -> Activation | None:
    """Name of the nonlinearity of a policy's hidden layers; None where it has none.

    Raises:
        ArchitectureError: runs do not have it.
    """
    between = hidden_activations(policy)
    if not between:
        return None
    own = repr(MODULES[between[0].name](**between[0].settings))
    for name, make in ACTIVATIONS.items():
        if repr(make()) == own:
            return cast(Activation, name)
    raise ArchitectureError(
        f"the policy has the nonlinearity {own}; runs have {', '.join(ACTIVATIONS)}"
    )


@torch.no_grad()
def write_spread(model: BaseAlgorithm, policy: Policy, share: float | None = None) -> None:
    """Let PPO explore around a policy as much as that says, in place of stable-baselines3's 1.

    Args:
        model: PPO with continuous actions; others stay as they are.
        policy: its provenance may hold `action_std`, one number an action, in their units.
        share: the standard deviation in place of that, as a share of half the range of the actions.

    Raises:
        ConfigError: `share` for a model that has no such spread.
    """
    log_std = getattr(model.policy, "log_std", None)
    action = policy.action
    if not (
        isinstance(log_std, nn.Parameter) and log_std.dim() == 1 and isinstance(action, BoxAction)
    ):
        if share is not None:
            raise ConfigError("--start-std is of PPO with continuous actions, without gSDE")
        return
    half = (action.high.reshape(-1) - action.low.reshape(-1)) / 2
    half = np.where(np.isfinite(half), half, 1.0)
    std = (SPREAD if share is None else share) * half
    known = policy.provenance.get("action_std")
    if share is None and known is not None and np.shape(known) == std.shape:
        known = np.asarray(known, np.float64)
        # A clone can be nearer to what was demonstrated than is of use to explore with.
        std = np.maximum(known, std) if policy.provenance.get("algorithm") == "fit" else known
    log_std.copy_(torch.as_tensor(np.log(np.maximum(std, 1e-3))))


def network_arguments(policy: Policy) -> dict[str, Any]:
    """``policy_kwargs`` that make actor and critic with the policy's hidden layers and activation.

    Raises:
        ArchitectureError: it has other layers than linear ones with one activation between them.
    """
    linear, others = linear_layers(policy.operations), hidden_activations(policy)
    activation: Callable[[], nn.Module] = nn.Tanh
    if others:
        activation = functools.partial(MODULES[others[0].name], **others[0].settings)
    sizes = [len(operation.arrays["bias"]) for operation in linear[:-1]]
    return {"net_arch": sizes, "activation_fn": activation}


def linear_layers(operations: Sequence[Operation]) -> list[Operation]:
    """The linear ones, in order."""
    return [operation for operation in operations if operation.name == "linear"]


def hidden_activations(policy: Policy) -> list[Operation]:
    """Those between the linear layers, all of one kind.

    Raises:
        ArchitectureError: there are other layers, or several kinds.
    """
    names = [o.name for o in policy.operations if o.name != "flatten"]
    if squashes(policy):
        names.pop()
    activations = [o for o in policy.operations if o.name not in ("linear", "flatten")]
    activations = activations[: len(names) // 2]
    if len(names) % 2 == 0 or {*names[::2]} != {"linear"} or len({*names[1::2]}) > 1:
        raise ArchitectureError(
            "a policy learns further if it has linear layers with one kind of activation between "
            f"them; this one has {', '.join(names)}"
        )
    return activations


def squashes(policy: Policy) -> bool:
    """Whether its last operation is the tanh of SAC and TD3."""
    return policy.operations[-1].name == "tanh"


def write_policy(model: BaseAlgorithm, policy: Policy) -> None:
    """Make a model act as a policy does; what a policy file does not hold stays as it is.

    That is the critic and the spread of the exploration. If the policy scales its observations, so
    must the model's environment (`VecNormalize`); it takes over the policy's statistics.

    Args:
        model: with the layers of `network_arguments`.
        policy: what it shall do.

    Raises:
        ArchitectureError: they differ in layers, in the way of their actions, or in the normaliser.
    """
    write_network(model, policy)
    _write_normaliser(model.get_vec_normalize_env(), policy)


@torch.no_grad()
def write_network(model: BaseAlgorithm, policy: Policy) -> None:
    """The same without the normaliser.

    Raises:
        ArchitectureError: they differ in layers or in the way of their actions.
    """
    assert isinstance(model.policy, BasePolicy), "set by the constructor"
    modules = nn.Sequential(*network_of(model.policy)).modules()
    layers: list[Any] = [module for module in modules if hasattr(module, "weight")]
    arrays = [
        (operation.arrays["weight"], operation.arrays["bias"])
        for operation in linear_layers(policy.operations)
    ]
    if isinstance(model.action_space, spaces.MultiBinary):  # "on" less "off"
        weight, bias = arrays[-1]
        arrays[-1] = (weight[1::2] - weight[::2], bias[1::2] - bias[::2])
    given = [tuple(weight.shape) for weight, _ in arrays]
    if given != [tuple(layer.weight.shape) for layer in layers]:
        raise ArchitectureError(f"the policy's layers are {given}; the model has others")
    arrays[-1] = _last_layer(model.policy, policy, *arrays[-1])
    for layer, (weight, bias) in zip(layers, arrays, strict=True):
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))
    if isinstance(model.policy, TD3Policy):
        model.policy.actor_target.load_state_dict(model.policy.actor.state_dict())


def _last_layer(target: BasePolicy, policy: Policy, weight: Any, bias: Any) -> tuple[Any, Any]:  # noqa: ANN401 - arrays
    """Weight and bias of the outputs, in the units of the target's actions."""
    relative = isinstance(target, DirectPolicy)  # ±1 for the bounds, cut off beyond
    if squashes(policy) != (target.squash_output and not relative):
        kinds = ("SAC and TD3", "PPO and NRL")
        raise ArchitectureError(
            f"the policy is of the kind that {kinds[not squashes(policy)]} learn, with outputs "
            f"{'squashed by' if squashes(policy) else 'without'} tanh; choose one of these"
        )
    if squashes(policy) or not isinstance(policy.action, BoxAction):
        return weight, bias
    low, high = policy.action.low.reshape(-1), policy.action.high.reshape(-1)
    half, middle = (high - low) / 2, (high + low) / 2
    if relative and policy.action.mapping == "clip":
        return weight / half[:, None], (bias - middle) / half
    if not relative and policy.action.mapping == "rescale":
        return weight * half[:, None], bias * half + middle
    return weight, bias


def _write_normaliser(vector: VecNormalize | None, policy: Policy) -> None:
    known = policy.normaliser
    if (known is None) != (vector is None or not vector.norm_obs):
        raise ArchitectureError(
            "the policy was trained on plain observations; the environment scales them"
            if known is None
            else "the policy scales its observations; put the environment into a VecNormalize"
        )
    if known is None or vector is None:
        return
    statistics = RunningMeanStd(epsilon=0.0, shape=known.mean.shape)
    statistics.mean, statistics.var = known.mean.copy(), known.var.copy()
    statistics.count = SEEN
    vector.obs_rms = statistics  # type: ignore[assignment]  # SB3's type is that of dicts
    vector.epsilon, vector.clip_obs = known.epsilon, known.clip


SEEN = 1e6
"""Observations that a policy's statistics count as, as the file does not say how many they were:
new ones change them slowly, and the policy with them."""
