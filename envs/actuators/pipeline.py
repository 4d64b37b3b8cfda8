"""A chain of actuator models at work on a batch of robots, with random numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from ...errors import ActuatorError
from .dynamics import Array, Mask, Plant
from .model import ActuatorModel

#: Spawn key of everything drawn here ("npac"). The environment's own stream has an empty key, so
#: the two have nothing in common even when they have the same seed.
_KEY = 0x6E706163
_STEP, _EPISODE, _DEVICE = range(3)


class Pipeline:
    """The models of one chain, one after the other.

    Each model has its own random numbers, which follow from its place in the chain: leaving a model
    out or making it stronger does not change what the others draw.
    """

    def __init__(self, models: Sequence[ActuatorModel], plant: Plant, part: int) -> None:
        """Makes the chain.

        Args:
            models: The models in the order in which commands pass them.
            plant: The robots.
            part: Which chain of a wrapper it is; chains with other numbers draw other noise.
        """
        self._part = part
        # A model without effect costs nothing, and does not even turn −0.0 into 0.0.
        self._stages = [
            _Stage(model, place, plant) for place, model in enumerate(models) if not model.inert
        ]
        self._direct = [
            stage.dynamics.apply if stage.columns is None else stage.on_columns
            for stage in self._stages
        ]

    def __len__(self) -> int:
        """Number of models that have an effect."""
        return len(self._stages)

    def manufacture(self, row: int, secret: Sequence[int]) -> None:
        """Draws the differences between devices of a robot, from their number or a secret seed."""
        for stage in self._stages:
            number = getattr(stage.model, "device_seed", None)
            entropy = list(secret) if number is None else number
            sequence = self._sequence(entropy, stage, _DEVICE)
            stage.dynamics.manufacture(row, Generator(PCG64(sequence)))

    def seed(self, row: int, entropy: int | Sequence[int]) -> None:
        """Makes a robot's hardware new again, with random numbers that follow from the entropy."""
        for stage in self._stages:
            stage.episodes[row] = Generator(PCG64(self._sequence(entropy, stage, _EPISODE)))
            if hasattr(stage.dynamics, "noise"):
                stage.dynamics.noise.seed(row, self._sequence(entropy, stage, _STEP))
            stage.dynamics.restart(row)

    def begin(self, row: int) -> None:
        """Starts an episode of one robot."""
        for stage in self._stages:
            stage.dynamics.begin(row, stage.episodes[row])

    def apply(self, u: Array, active: Mask | None) -> Array:
        """What becomes of the commands of one step.

        Args:
            u: Commands, shape (R, d), native units.
            active: Robots that take a step, shape (R,); none for all. The others keep their state
                and draw nothing, and their commands pass.

        Returns:
            Shape (R, d), native units.
        """
        if active is None:
            for apply in self._direct:
                u = apply(u, None)
        else:
            for stage in self._stages:
                u = stage.apply(u, active)
        return u

    def save(self) -> list[dict[str, Any]]:
        """All that `restore` needs to go on with the same numbers, without the parameters."""
        return [
            {
                "dynamics": stage.dynamics.save(),
                "episodes": [generator.bit_generator.state for generator in stage.episodes],
            }
            for stage in self._stages
        ]

    def restore(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Goes back to what `save` described."""
        for stage, entry in zip(self._stages, saved, strict=True):
            stage.dynamics.restore(entry["dynamics"])
            for generator, state in zip(stage.episodes, entry["episodes"], strict=True):
                generator.bit_generator.state = state

    def _sequence(self, entropy: int | Sequence[int], stage: _Stage, use: int) -> SeedSequence:
        return SeedSequence(entropy, spawn_key=(_KEY, self._part, stage.place, use))


class _Stage:
    """One model of a chain, on the actuators that it concerns."""

    def __init__(self, model: ActuatorModel, place: int, plant: Plant) -> None:
        self.model, self.place = model, place
        self.columns = None
        if model.actuators is not None:
            self.columns = np.array(model.actuators, np.intp)
            if self.columns.max() >= plant.size:
                raise ActuatorError(
                    f"{model} names actuator {self.columns.max()}, but the action space has "
                    f"{plant.size}: 0 to {plant.size - 1}."
                )
            plant = plant.select(self.columns)
        self.dynamics = model.build(plant)
        self.episodes = [Generator(PCG64(0)) for _ in range(plant.rows)]

    def apply(self, u: Array, active: Mask) -> Array:
        idle = ~active
        kept = {name: getattr(self.dynamics, name)[idle] for name in self.dynamics.state}
        v = self.on_columns(u, active)
        for name, rows in kept.items():
            getattr(self.dynamics, name)[idle] = rows
        return np.where(active[:, None], v, u)

    def on_columns(self, u: Array, active: Mask | None) -> Array:
        if self.columns is None:
            return self.dynamics.apply(u, active)
        v = u.copy()
        v[:, self.columns] = self.dynamics.apply(u[:, self.columns], active)
        return v
