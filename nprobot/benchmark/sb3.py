"""Runs of algorithms with stable-baselines3's interface: ours by any rule, and SB3's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from nprobot.algorithms.nrl import NRL
from nprobot.algorithms.ppo import PPO
from nprobot.algorithms.sac import SAC
from nprobot.algorithms.td3 import TD3
from nprobot.policies.networks import ACTIVATIONS

from .algorithms import RULE
from .environments import Array, Predict, Seeds, make_vector
from .ledger import Ledger, Metered
from .recorder import Recorder
from .spec import RunSpec

CLASSES: dict[str, type[BaseAlgorithm]] = {
    "ppo": PPO,
    "sac": SAC,
    "td3": TD3,
    "nrl": NRL,
    "sb3-ppo": stable_baselines3.PPO,
    "sb3-sac": stable_baselines3.SAC,
    "sb3-td3": stable_baselines3.TD3,
}
OUR_NAMES = (
    *("lr_schedule", "normalise", "action_noise", "activation", "noise_from"),
    "ent_coef_start",
)
"""Settings that SB3 has other names for."""

ROLLOUT = 2048
"""Transitions between two updates of PPO, all environments together, as in SB3 with one."""


def run(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Train and measure.

    Returns:
        What the run has spent.
    """
    settings = dict(spec.settings)
    normalise = settings.get("normalise", "on" if spec.algo in ("ppo", "nrl") else "off")
    env = make_vector(spec, normalise=normalise, gamma=settings.get("gamma", 0.99))
    model = build(spec, env)
    env.seed(Seeds.spawn(spec.seed).environments)  # SB3 has seeded them with its own seed
    spending = Spending(model, spec)
    predict = predictor(model, env)
    recorder.start(spending.ledger(), predict)
    watch(model, recorder, spending, predict)
    model.learn(spec.steps)
    check_finite(model)
    spent = recorder.finish(spending.ledger(), predict)
    env.close()
    return spent


def build(spec: RunSpec, env: VecNormalize) -> BaseAlgorithm:
    """The algorithm on its environments; what the settings leave open is its own default."""
    settings = dict(spec.settings)
    seeds = Seeds.spawn(spec.seed)
    arguments = {k: v for k, v in settings.items() if k not in RULE and k not in OUR_NAMES}
    if "lr_schedule" in settings:
        start = settings["learning_rate"]
        linear = settings["lr_schedule"] == "linear"
        arguments["learning_rate"] = (
            LinearSchedule(start, 0.0, 1.0) if linear else ConstantSchedule(start)
        )
    network: dict[str, Any] = {"net_arch": list(spec.hidden)}
    if "activation" in settings:
        network["activation_fn"] = ACTIVATIONS[settings["activation"]]
    if "action_noise" in settings:
        size = env.action_space.shape or (1,)
        arguments["action_noise"] = NormalActionNoise(
            np.zeros(size), np.full(size, settings["action_noise"])
        )
    if spec.algo in ("ppo", "sb3-ppo"):
        arguments.setdefault("n_steps", max(ROLLOUT // spec.envs, 1))
    if "ent_coef_start" in settings:
        arguments["ent_coef"] = f"auto_{settings['ent_coef_start']!r}"
    if "noise_from" in settings:
        arguments["noise"] = settings["noise_from"]
    if spec.rule is not None:
        rule_kwargs = {k: v for k, v in settings.items() if k in RULE} | {"seed": seeds.rule}
        if spec.samples is not None:
            rule_kwargs["samples"] = spec.samples
        arguments |= {"rule": spec.rule, "rule_kwargs": rule_kwargs}
    make: Callable[..., BaseAlgorithm] = CLASSES[spec.algo]
    return make(
        "MlpPolicy", env, policy_kwargs=network, seed=seeds.torch, device="cpu", **arguments
    )


def predictor(model: BaseAlgorithm, env: VecNormalize) -> Predict:
    """The policy as it is whenever it is called, on raw observations, without exploration."""

    def predict(observations: Array) -> Array:
        normalised = env.normalize_obs(observations)
        return model.predict(np.asarray(normalised), deterministic=True)[0]

    return predict


class Spending:
    """Counts what a model spends; in place of its `train` and `collect_rollouts`.

    Args:
        model: the model.
        spec: the run.
    """

    def __init__(self, model: BaseAlgorithm, spec: RunSpec) -> None:
        self.model = model
        self.off_policy = isinstance(model, OffPolicyAlgorithm)
        # TD3 updates its actor in every second call only: a call alone would not be typical.
        probes = 8 if self.off_policy else 1
        self._acting = Metered(model.collect_rollouts, probes, self._warming_up)  # type: ignore[attr-defined]
        self._learning = Metered(model.train, probes)  # type: ignore[attr-defined]
        model.collect_rollouts = self._acting  # type: ignore[attr-defined]
        model.train = self._count(self._learning)  # type: ignore[attr-defined]
        self._passes = [0, 0]

    def ledger(self) -> Ledger:
        """What has been spent, without the time."""
        steps = self.model.num_timesteps
        rule = getattr(self.model, "rule", None)
        forward, backward = self._passes
        if rule is not None:
            forward, backward = rule.forward_passes, rule.backward_passes
        return Ledger(
            env_steps=steps,
            forward_passes=forward + self._acted(steps),
            backward_passes=backward,
            multiply_adds=self._acting.multiply_adds + self._learning.multiply_adds,
        )

    def _acted(self, steps: int) -> int:
        """Passes that acting took: of the actor, and of PPO's critic."""
        if isinstance(self.model, NRL):
            return 0  # its rule has counted them
        if isinstance(self.model, OffPolicyAlgorithm):
            return max(steps - self.model.learning_starts, 0)
        return 2 * steps

    def _warming_up(self) -> bool:
        if not isinstance(self.model, OffPolicyAlgorithm):
            return False
        return self.model.num_timesteps <= self.model.learning_starts

    def _count(self, train: Metered) -> Callable[..., object]:
        """Count the passes of SB3's own algorithms, which do not."""
        model: Any = self.model
        if hasattr(model, "rule"):
            return train

        def counted(*args: Any, **kwargs: Any) -> object:
            if isinstance(model, stable_baselines3.PPO):
                passes = 2 * model.n_epochs * model.n_steps * model.n_envs
                forward = backward = passes
            else:
                steps = kwargs.get("gradient_steps", args[0] if args else 1)
                samples = steps * kwargs.get("batch_size", model.batch_size)
                critics = model.critic.n_critics
                if isinstance(model, stable_baselines3.SAC):
                    # Actor: here and at the next state. Critics: target, regression, judging.
                    forward, backward = samples * (2 + 3 * critics), samples * (1 + 2 * critics)
                else:
                    # Actor and one critic judging it: in every second step.
                    forward = samples * (1 + 2 * critics) + samples * 2 // model.policy_delay
                    backward = samples * critics + samples * 2 // model.policy_delay
            self._passes[0] += forward
            self._passes[1] += backward
            return train(*args, **kwargs)

        return counted


def watch(model: BaseAlgorithm, recorder: Recorder, spending: Spending, predict: Predict) -> None:
    """Add points to the curve between two updates, and stop a policy that lost its numbers.

    Not by a callback: SB3 calls those inside `collect_rollouts`, whose products are counted.
    """
    ours: Any = model
    collect = ours.collect_rollouts

    def collect_rollouts(*args: Any, **kwargs: Any) -> object:
        steps = model.num_timesteps
        if steps:  # the point at 0 is there
            if not spending.off_policy:
                check_finite(model)
            recorder.pass_by(spending.ledger, steps, predict)
        return collect(*args, **kwargs)

    ours.collect_rollouts = collect_rollouts


def check_finite(model: BaseAlgorithm) -> None:
    """Raise `FloatingPointError` if a weight is NaN or infinite."""
    for name, tensor in model.policy.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(
                f"{name} of the policy became NaN or infinite before step {model.num_timesteps:,}"
            )
