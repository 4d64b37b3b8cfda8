"""Where the perturbation comes from that a robot learns from on-line, and what it did to each node.

Every class here runs the actor once a control step, says what to do, and afterwards how every node
was *eligible* for what comes of it: an estimate, in expectation, of the derivative of the
log-probability of what was done with respect to the node's pre-activation. The reward prediction
error turns eligibility into learning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import NoiseInaccessibleError, RuleError
from nprobot.learning.activity import Activity, Call, Tree
from nprobot.learning.hidden_noise import HiddenFeedback, NoisyPasses
from nprobot.learning.noise import PerturbationStream
from nprobot.learning.rule import LearningRule, PerturbationRule
from nprobot.learning.rules import FeedbackNodePerturbation
from nprobot.policies.chip.crossbar import on_chip


@dataclass
class Trial:
    """One control step of all robots.

    Attributes:
        outputs: the outputs of the actor's pass that is acted on, shape (B, actions).
        calls: the layers of the actor in the order in which they ran.
        inputs: what each was fed in that pass, x*, shape (B, d).
        perturbation: what is known of the nodes' perturbation at once, shape (B, N).
        forward_passes: the forward passes of one robot.
    """

    outputs: Tensor
    calls: list[Call]
    inputs: list[Tensor]
    perturbation: Tensor
    forward_passes: int

    def layer_inputs(self) -> list[tuple[nn.Module, Tensor]]:
        """Every layer and what it was fed."""
        return [
            (c.layer.module, c.layer.correlated_rows(x))
            for c, x in zip(self.calls, self.inputs, strict=True)
        ]


class Exploration(ABC):
    """A source of perturbation."""

    @abstractmethod
    def act(self, actor: nn.Module, observations: Tree) -> Trial:
        """Run the actor.

        Args:
            actor: outputs ±1 for the bounds of an action.
            observations: preprocessed, of B robots.
        """

    @abstractmethod
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        """How eligible every node is, shape (B, N).

        Args:
            trial: the step.
            sensed: what the actuators are said to have done, in the units of the outputs, shape
                (B, actions); None without sensor.
        """

    def learn(self) -> None:  # noqa: B027 - most have nothing to learn
        """Learn from the steps since the last call, before the network changes."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is remembered from step to step."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Continue from saved memories."""


class HiddenNoise(Exploration):
    """The network's own noise, which nobody can read: two passes on the same observation.

    The robot does what pass 1 says. ``δa = a⁽¹⁾ − a⁽²⁾`` at every node; at the outputs, where a
    sensor tells what the actuators did, ``δa = sensed − a⁽²⁾``, so that their noise teaches, too.

    Args:
        references: passes whose mean pass 1 is compared with; one is enough.
    """

    def __init__(self, references: int = 1) -> None:
        if references < 1:
            raise RuleError(f"references must be at least 1, got {references!r}")
        self.references = references
        self.powers: dict[int, RunningPower] = {}

    @override
    def act(self, actor: nn.Module, observations: Tree) -> Trial:
        if not on_chip(actor):
            raise RuleError(
                "noise_source='network' learns from the noise of a network on a chip, and this one "
                "is not on any: give node_noise=…, or choose noise_source='actuators' or 'injected'"
            )
        passes = self._passes(actor, observations)
        return Trial(
            passes.outputs[0],
            passes.activity.calls,
            [call.inputs[: passes.batch] for call in passes.activity.calls],
            passes.pre_activations[0] - passes.pre_activations[1:].mean(0),
            passes.passes,
        )

    def _passes(self, actor: nn.Module, observations: Tree) -> NoisyPasses:
        return NoisyPasses(actor, observations, 1 + self.references)

    @override
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        delta_activity = self._change(trial, sensed)
        parts = []
        for layer, call in enumerate(trial.calls):
            own = delta_activity[:, call.nodes]
            parts.append(own / self._power(layer).update(own))
        return torch.cat(parts, -1) * self._excess

    @property
    def _excess(self) -> float:
        """Part of the difference is the references' noise, which the robot never felt."""
        return 1 + 1 / self.references

    def _power(self, layer: int) -> RunningPower:
        return self.powers.setdefault(layer, RunningPower())

    def _change(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        """δa, with what the actuators did, if that is known, in the place of the outputs'."""
        delta_activity = trial.perturbation
        if sensed is not None:
            last = trial.calls[-1].nodes
            reference = (trial.outputs - delta_activity[:, last]).clamp(-1.0, 1.0)
            delta_activity[:, last] = sensed - reference
        return delta_activity

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"powers": {layer: power.value for layer, power in self.powers.items()}}

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.powers = {int(layer): RunningPower(value) for layer, value in state["powers"].items()}


class GuidedNoise(HiddenNoise):
    """The same noise, and only what it did to the outputs: learned feedback does the rest.

    What the outputs were beyond those of the reference, over its mean square, is how eligible they
    are: the score of a Gaussian around what the network says on average. Down from there it passes
    as errors do under `nprobot.learning.hidden_noise`, by maps that every layer fits to its own
    inputs and pre-activations as read. So a hidden node hears what it does to the actions, and not
    what the noise of all nodes together did to the reward.

    Args:
        references: as of `HiddenNoise`.
        rule: keeps the maps.
    """

    def __init__(self, references: int, rule: FeedbackNodePerturbation) -> None:
        super().__init__(references)
        self.rule = rule
        self._seen: list[Activity] = []

    @override
    def _passes(self, actor: nn.Module, observations: Tree) -> NoisyPasses:
        self._guide: HiddenFeedback = self.rule.hidden_feedback(
            actor, observations, 1 + self.references
        )
        self._seen.append(self._guide.passes.activity)
        return self._guide.passes

    @override
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        batch = len(trial.outputs)
        change = self._change(trial, sensed)[:, trial.calls[-1].nodes]
        error = change * (self._excess / self._power(-1).update(change))
        # Rewarded was what pass 1 did.
        silent = error.new_zeros(self.references * batch, error.shape[1])
        return self._guide.pull(torch.cat([error, silent]))[:batch]

    @override
    def learn(self) -> None:
        self._guide.learn(self._seen)
        self._seen.clear()


class InjectedNoise(Exploration):
    """Noise that the learner adds to every node and knows: ``ε / σ²``, as in node perturbation.

    Args:
        sigma: standard deviation σ.
        seed: the seed of the noise.
    """

    def __init__(self, sigma: float, seed: int | None) -> None:
        self.sigma = positive("the standard deviation of injected noise", sigma)
        self.source = PerturbationStream("gaussian", seed)

    @override
    def act(self, actor: nn.Module, observations: Tree) -> Trial:
        if on_chip(actor):
            raise NoiseInaccessibleError(
                "noise_source='injected' needs to know all noise, and this network is on a chip "
                "that is noisy itself: choose noise_source='network'"
            )
        activity = Activity(actor, observations)
        shape = (1, activity.batch, activity.size)
        noise = self.source.draw(shape, activity.like) * self.sigma
        outputs = activity.perturbed(noise)[0]
        inputs = [call.inputs for call in activity.calls]
        return Trial(outputs, activity.calls, inputs, noise[0], 2)

    @override
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        return trial.perturbation / self.sigma**2

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.source.load_state_dict(state)


class ActuatorNoise(Exploration):
    """The actuators' noise alone, as far as their sensor tells: the network itself is silent.

    What the actuators did beyond the command, over its mean square, is how eligible the outputs
    are. Which hidden nodes the outputs came from is found by a learning rule in the learner's own
    copy of the network, from its change under small perturbations; the robot does not notice.

    Args:
        rule: a perturbation rule.
    """

    def __init__(self, rule: LearningRule) -> None:
        if not isinstance(rule, PerturbationRule):
            raise RuleError(
                f"noise_source='actuators' needs a perturbation rule, got {rule.name!r}; for the "
                "same by backpropagation use nprobot.algorithms.nrl_reinforce.REINFORCE"
            )
        self.rule = rule
        self.power = RunningPower()

    @override
    def act(self, actor: nn.Module, observations: Tree) -> Trial:
        if on_chip(actor):
            raise NoiseInaccessibleError(
                "noise_source='actuators' is for a network that is not noisy itself: choose "
                "noise_source='network', which learns from the actuators' noise, too"
            )
        self.activity = Activity(actor, observations)
        calls = self.activity.calls
        outputs = self.activity.outputs
        silent = outputs.new_zeros(len(outputs), self.activity.size)
        passes = 1 + self.rule.samples * self.rule.noisy_passes(self.activity)
        return Trial(outputs, calls, [call.inputs for call in calls], silent, passes)

    @override
    def eligibility(self, trial: Trial, sensed: Tensor | None) -> Tensor:
        if sensed is None:
            raise RuleError(
                "noise_source='actuators' learns from what the actuators did, and nothing tells: "
                "put nprobot.envs.NoisyActuators with sensor='current-sense' before the environment"
            )
        change = sensed - trial.outputs.clamp(-1.0, 1.0)
        direction = change / self.power.update(change)
        shape = (self.rule.samples, *trial.perturbation.shape)
        noise = self.rule.source.draw(shape, self.activity.like) * self.rule.sigma

        def along(outputs: Tensor) -> Tensor:
            """How far outputs (K, B, actions) moved the way that the actuators went."""
            return ((outputs - trial.outputs) * direction).sum(-1)

        node_error = self.rule.node_error(self.activity, noise, along)
        return node_error * self.activity.batch

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"power": self.power.value}

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.power = RunningPower(state["power"])


class RunningPower:
    """Mean square of a perturbation, over its entries and over time.

    Args:
        value: what is known of it.
    """

    RATE = 0.01

    def __init__(self, value: float | None = None) -> None:
        self.value = value

    def update(self, perturbation: Tensor) -> float:
        """The mean square, this perturbation included; never 0."""
        now = float(perturbation.square().mean())
        # Silent units (quantised ones, say) must not make the next step a leap.
        self.value = now if not self.value else self.value + self.RATE * (now - self.value)
        return self.value or 1.0


def positive(name: str, value: float) -> float:
    """The value as a float.

    Raises:
        RuleError: it is not a finite number above 0.
    """
    if not 0.0 < value < float("inf"):
        raise RuleError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)
