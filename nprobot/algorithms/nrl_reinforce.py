"""The backprop twin of NRL, for comparison: the same but for how credit reaches the nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.learning.activity import Activity, Tree
from nprobot.learning.noise import PerturbationStream

from .nrl import NRL
from .nrl_exploration import Exploration, RunningPower, Trial, positive


class BackpropagatedNoise(Exploration):
    """Noise on the actions; how eligible a node is, backpropagation tells.

    The derivative of the Gaussian log-probability of what was done with respect to every
    pre-activation. Done is, where a sensor tells, what the actuators did, with the mean square of
    all noise as its variance; else the command with the noise that the learner added.

    Args:
        sigma: standard deviation of the noise that the learner adds; 0 for none.
        seed: the seed of the noise.
    """

    def __init__(self, sigma: float, seed: int | None) -> None:
        self.sigma = sigma
        self.source = PerturbationStream("gaussian", seed)
        self.power = RunningPower()

    @override
    @torch.enable_grad()
    def act(self, actor: nn.Module, observations: Tree) -> Trial:
        activity = Activity(actor, observations)
        outputs = activity.outputs
        noise = self.sigma * self.source.draw(outputs.shape, outputs)
        self.mean = outputs
        calls = activity.calls
        return Trial(
            outputs.detach() + noise, calls, [call.inputs.detach() for call in calls], noise, 1
        )

    @override
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        noise = trial.perturbation
        if sensed is not None:
            noise = sensed - self.mean.detach().clamp(-1.0, 1.0)
        variance = self.sigma**2 if sensed is None else self.power.update(noise)
        nodes = [call.pre_activation for call in trial.calls]
        parts = torch.autograd.grad(self.mean, nodes, noise / variance)
        return torch.cat([part.flatten(1) for part in parts], -1)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"power": self.power.value, "source": self.source.state_dict()}

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.power = RunningPower(state["power"])
        self.source.load_state_dict(state["source"])


class REINFORCE(NRL):
    """REINFORCE (Williams 1992) by backpropagation, with NRL's traces, critic and update.

    Args:
        arguments: of `NRL`. The network is silent; noise is added to the actions alone, with
            `action_noise`.
        action_noise: its standard deviation, in half ranges of the action.
        keywords: arguments of `NRL`.
    """

    def __init__(self, *arguments: Any, action_noise: float = 0.1, **keywords: Any) -> None:
        self.action_noise_std = positive("action_noise", action_noise)
        super().__init__(*arguments, noise_source="injected", **keywords)

    @override
    def _make_exploration(self) -> Exploration:
        return BackpropagatedNoise(self.action_noise_std, self.seed)
