"""The configuration of an adaptation: for how long a policy learns on the robot, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from nprobot import catalogue
from nprobot.catalogue import NoiseSource
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Count, Options, Positive, Seed, Share


@dataclass(frozen=True)
class AdaptationConfig(Options):
    """How it learns.

    Raises:
        ConfigError: a value is not allowed, or options do not fit each other.
        UnknownNameError: there are no such actuators.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hardware": "actuators", "noise": "noise_source"}

    steps: Count = 100_000
    """Control steps of all robots together, calibration included; rounded down to whole steps of
    them all."""
    calibration: Annotated[int, Meta(ge=0)] = 20_000
    """Steps at the beginning in which the policy stays as it is and a critic learns what to expect;
    at their end the faults strike."""
    robots: Count = 8
    """Identical robots side by side, which learn together."""
    actuators: str | None = None
    """Actuators between policy and robot: servo, torque-motor, worn-gearbox, easy, medium, hard.
    Left out: ideal ones."""
    noise_source: NoiseSource = "network"
    """Source of the perturbations: network (a noisy chip; nobody reads its noise), actuators
    (their own noise, by a noisy sensor; needs --actuators), injected (by the learner)."""
    node_noise: Positive = 0.05
    """Standard deviation of the noise in the network, in half ranges of an action."""
    chip: str | None = None
    """Chip that the network runs on, instead of one with --node-noise: as for train, a preset,
    models, or the address of a device, tcp://127.0.0.1:5858."""
    dead_nodes: Share = 0.0
    """Share of the nodes of that chip that die when the faults strike. Evaluations are on the chip
    then, not off it."""
    rule: str = "anp"
    """How credit reaches the nodes: anp, each node from its own noise; np+feedback, from that of
    the outputs, by learned feedback, at about a third of the learning rate. Rules that decorrelate
    would change, step by step, what the policy does."""
    learning_rate: Positive = 3e-4
    """Step size of the policy's optimiser."""
    batch: Count = 512
    """Control steps between two updates, of all robots together."""
    critic_epochs: Count = 4
    """Steps of the critic on the transitions between two updates."""
    gamma: Share = 0.99
    """Discount factor."""
    seed: Seed = 0
    """Seed of everything random."""
    frozen: bool = False
    """Learn nothing; for comparison."""

    def check(self) -> None:
        """Refuse options that do not fit each other."""
        if self.calibration >= self.steps:
            raise ConfigError(
                f"calibration takes the first {self.calibration} of {self.steps} steps; some "
                f"must be left for learning: give a calibration of {self.steps // 5}, say"
            )
        if self.steps < self.robots:
            raise ConfigError(
                f"{self.steps} steps are less than one for each of {self.robots} robots"
            )
        if catalogue.rule_named(self.rule).decorrelated:
            raise ConfigError(
                f"rule {self.rule!r} decorrelates, which changes what a trained policy does; leave "
                "the d away"
            )
        if (self.dead_nodes or self.chip) and self.noise_source != "network":
            raise ConfigError(
                "chip, and dead_nodes, which are nodes of one, need noise_source network"
            )
        if self.dead_nodes and self.chip:
            raise ConfigError("dead_nodes are for the chip of node_noise; leave one of both away")
        presets = catalogue.actuator_presets()
        if self.actuators is not None and self.actuators not in presets:
            known = f"Known: {', '.join(presets)}."
            raise UnknownNameError("actuators", self.actuators, presets, known)
        if self.noise_source == "actuators" and self.actuators is None:
            raise ConfigError(
                "noise_source 'actuators' learns from noisy actuators, and these are ideal; name "
                "actuators, such as torque-motor"
            )

    def dying_chip(self, *, settled: bool) -> str | None:
        """The chip that nodes die on; None if none does.

        Args:
            settled: whether they are dead from the beginning.
        """
        if not self.dead_nodes:
            return None
        onset = 0 if settled else 2 * self.calibration  # two passes a step
        return f"{self.node_noise},DeadNodes:share={self.dead_nodes}:onset={onset}"

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        upgraded = super().upgraded(values)
        if "learn" in upgraded:
            upgraded["frozen"] = not upgraded.pop("learn")
        return upgraded
