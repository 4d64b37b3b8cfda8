"""Commands that come late, get lost, or stay: delays, drop-outs, sticking, slow updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from ...errors import ConfigError
from ...options import Count, NotNegative, Share
from .actuator_model import ActuatorModel, Array, Dynamics, Mask, Plant, Steps, parameter


@dataclass(frozen=True)
class Delay(ActuatorModel):
    """Every command takes effect a fixed number of control steps late."""

    formula: ClassVar[str] = "v(t) = u(t − steps); the rest command until the first one arrives"
    memory: ClassVar[str] = "no command under way"

    steps: Steps = parameter(1, "1", "delay, control steps", neutral=0)


@dataclass(frozen=True)
class Latency(ActuatorModel):
    """Every command takes effect a fixed time late, rounded to whole control steps."""

    formula: ClassVar[str] = "v(t) = u(t − round(seconds/dt)·dt); the rest command until then"
    memory: ClassVar[str] = "no command under way"

    seconds: NotNegative = parameter(0.02, "s", "delay", neutral=0)


class _Delay(Dynamics, of=[Delay, Latency]):
    state = ("queue",)

    def __init__(self, model: Delay | Latency, plant: Plant) -> None:
        steps = model.steps if isinstance(model, Delay) else plant.steps(model.seconds, model)
        self.rest = plant.rest
        self.queue = np.tile(plant.rest, (plant.rows, steps + 1, 1))

    def begin(self, row: int, generator: Generator) -> None:
        self.queue[row] = self.rest

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.queue[:, 1:] = self.queue[:, :-1]
        self.queue[:, 0] = u
        return self.queue[:, -1].copy()


@dataclass(frozen=True)
class RandomDelay(ActuatorModel):
    """Every command takes its own time; the actuator holds the newest that has arrived.

    All actuators of a robot get a command together, as over a bus. A command that is overtaken by a
    newer one is never executed.
    """

    formula: ClassVar[str] = (
        "u(t) arrives at t + n with n uniform on {minimum, …, maximum}; "
        "v(t) = the newest u that has arrived"
    )
    memory: ClassVar[str] = "no command under way"
    draws_each_step: ClassVar[bool] = True

    minimum: Steps = parameter(0, "1", "shortest delay, control steps", neutral=0)
    maximum: Steps = parameter(2, "1", "longest delay, control steps", neutral=0)

    def check(self) -> None:
        """Refuse delays in the wrong order."""
        super().check()
        if self.minimum > self.maximum:
            raise ConfigError(f"minimum={self.minimum} is larger than maximum={self.maximum}")


class _RandomDelay(Dynamics, of=[RandomDelay]):
    state = ("queue", "steps_left")

    def __init__(self, model: RandomDelay, plant: Plant) -> None:
        self.minimum, self.choices = model.minimum, model.maximum - model.minimum + 1
        self.rest = plant.rest
        self.every_row = np.arange(plant.rows)
        self.noise = plant.uniform(width=1)
        self.queue = np.tile(plant.rest, (plant.rows, model.maximum + 1, 1))
        self.steps_left = np.zeros((plant.rows, model.maximum + 1), np.int64)

    def begin(self, row: int, generator: Generator) -> None:
        self.queue[row] = self.rest
        self.steps_left[row] = 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.queue[:, 1:] = self.queue[:, :-1]
        self.steps_left[:, 1:] = self.steps_left[:, :-1] - 1
        self.queue[:, 0] = u
        self.steps_left[:, 0] = self.minimum + self.noise.take(active)[:, 0] * self.choices
        # The oldest entry has always arrived, so there is one to find; argmax finds the newest.
        newest = np.argmax(self.steps_left <= 0, axis=1)
        arrived: Array = self.queue[self.every_row, newest]
        return arrived


@dataclass(frozen=True)
class DroppedCommands(ActuatorModel):
    """Now and then an actuator gets no command for some steps and falls back to rest."""

    formula: ClassVar[str] = (
        "while commands arrive, an outage of `steps` steps begins with `probability`; "
        "in an outage v = the rest command"
    )
    memory: ClassVar[str] = "no outage"
    draws_each_step: ClassVar[bool] = True

    probability: Share = parameter(
        0.01, "1", "chance of an outage at a step", neutral=0, noise=True
    )
    steps: Count = parameter(1, "1", "length of an outage, control steps")


@dataclass(frozen=True)
class StuckCommands(ActuatorModel):
    """Now and then an actuator keeps to its last command for some steps."""

    formula: ClassVar[str] = (
        "as for dropped commands, but in an outage v = what came out before it began"
    )
    memory: ClassVar[str] = "no outage; held: the rest command"
    draws_each_step: ClassVar[bool] = True

    probability: Share = parameter(
        0.01, "1", "chance of an outage at a step", neutral=0, noise=True
    )
    steps: Count = parameter(1, "1", "length of an outage, control steps")


class _Outages(Dynamics):
    state: ClassVar[tuple[str, ...]] = ("steps_left",)

    def __init__(self, model: DroppedCommands | StuckCommands, plant: Plant) -> None:
        self.probability, self.steps, self.rest = model.probability, model.steps, plant.rest
        self.noise = plant.uniform()
        self.steps_left = np.zeros((plant.rows, plant.size), np.int64)

    def begin(self, row: int, generator: Generator) -> None:
        self.steps_left[row] = 0

    def outage(self, active: Mask | None) -> Mask:
        begins = (self.steps_left == 0) & (self.noise.take(active) < self.probability)
        left = np.where(begins, self.steps, self.steps_left)
        self.steps_left = np.maximum(left - 1, 0)
        return left > 0


class _Dropped(_Outages, of=[DroppedCommands]):
    def apply(self, u: Array, active: Mask | None) -> Array:
        return np.where(self.outage(active), self.rest, u)


class _Stuck(_Outages, of=[StuckCommands]):
    state = ("steps_left", "held")

    def __init__(self, model: StuckCommands, plant: Plant) -> None:
        super().__init__(model, plant)
        self.held = plant.tile(plant.rest)

    def begin(self, row: int, generator: Generator) -> None:
        super().begin(row, generator)
        self.held[row] = self.rest

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.held = np.where(self.outage(active), self.held, u)
        return self.held


@dataclass(frozen=True)
class SampleAndHold(ActuatorModel):
    """The actuator looks for a new command only every few control steps."""

    formula: ClassVar[str] = "v(t) = u(steps·⌊t/steps⌋), t counted from the start of the episode"
    memory: ClassVar[str] = "takes the first command"

    steps: Count = parameter(2, "1", "control steps between updates", neutral=1)


class _SampleAndHold(Dynamics, of=[SampleAndHold]):
    state = ("held", "age")

    def __init__(self, model: SampleAndHold, plant: Plant) -> None:
        self.steps = model.steps
        self.held = plant.tile(plant.rest)
        self.age = np.zeros((plant.rows, 1), np.int64)

    def begin(self, row: int, generator: Generator) -> None:
        self.age[row] = 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.held = np.where(self.age == 0, u, self.held)
        self.age = (self.age + 1) % self.steps
        return self.held
