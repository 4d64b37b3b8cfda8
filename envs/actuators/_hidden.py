"""What a learner must not see: noise, generators and realised actions, out of the wrapper's reach.

A wrapper holds no reference to any of it. It is kept here, in the cache of a C function, which has
no attribute to look into: no chain of attributes, closures or module globals that starts at the
wrapper ends at the noise. (Python's garbage collector and debugger can see everything in a process,
and calling this private module on purpose is cheating, not learning. A learner that is to be kept
out by more than manners belongs in another process.)
"""

from __future__ import annotations

import functools
import hashlib
import json
import weakref
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.random import SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError
from .dynamics import Mask, Plant, clip
from .model import ActuatorModel, did_you_mean
from .oracle import ActuatorOracle
from .pipeline import Pipeline
from .seal import seal, unseal

#: Which actions are clipped to the action space: what leaves the actuators, what enters them, both
#: or neither.
Clip = Literal["realised", "command", "both", "none"]


class Actuation:
    """The actuators of one wrapper: R robots, a chain of models, a sensor, secret seeds."""

    def __init__(
        self,
        space: Space[Any],
        rows: int | None,
        models: Sequence[ActuatorModel],
        sensor: Sequence[ActuatorModel] | None,
        secrets: Sequence[tuple[int, ...] | None],
        clipping: Clip,
        dt: float | None,
        oracle: ActuatorOracle | None,
    ) -> None:
        """Makes the actuators.

        Args:
            space: Action space of one robot.
            rows: Number of robots of a vectorised environment; none for a single environment.
            models: The chain of models.
            sensor: The chain of models between realised action and reading, if it is read.
            secrets: For each robot the words of its secret seed, or none.
            clipping: Which actions are clipped.
            dt: Control period, s, if known.
            oracle: Told of every step.
        """
        low, high = _bounds(space)
        one_of(clipping, get_args(Clip), "clip")
        if sensor is not None and not any(m.draws_each_step and not m.inert for m in sensor):
            raise ActuatorError(
                f"The sensor {list(sensor)} has no noise of its own at every step, so that reading "
                "minus command would give the hidden perturbation away. Add some, for example "
                "WhiteNoise(0.02); to look at the realised action in a test, pass an oracle."
            )
        self.finished = np.zeros(rows or 1, np.bool_)
        self._plant = Plant(rows or 1, low, high, dt)
        self._low, self._high = self._plant.tile(low), self._plant.tile(high)
        self._dtype = space.dtype
        self._shape = (*(() if rows is None else (rows,)), *(space.shape or ()))
        self._clip_command = clipping in ("command", "both")
        self._clip_realised = clipping in ("realised", "both")
        self._secrets = secrets
        self._oracle = oracle
        self._models = Pipeline(models, self._plant, part=0)
        self._sensor = None if sensor is None else Pipeline(sensor, self._plant, part=1)
        self._transparent = not len(self._models) and clipping == "none"
        self._digest = _digest(models, sensor, self._plant, self._shape, clipping)
        for row, secret in enumerate(secrets):
            unrepeatable = SeedSequence().generate_state(8).tolist()
            for chain in self._chains:
                chain.manufacture(row, secret or unrepeatable)
            self._seed(row, secret or unrepeatable)
            self.begin(row)

    @property
    def acts(self) -> bool:
        """Whether any model has an effect, so that there is something to hide."""
        return len(self._models) > 0

    @property
    def has_sensor(self) -> bool:
        """Whether the realised action is read."""
        return self._sensor is not None

    def reset(self, row: int, seed: int | None) -> None:
        """Starts an episode of a robot; with a seed, on hardware made new and seeded with it."""
        if seed is not None:
            secret = self._secrets[row]
            self._seed(row, int(seed) if secret is None else [int(seed), *secret])
        self.begin(row)

    def begin(self, row: int) -> None:
        """Starts an episode of a robot, random numbers going on where they are."""
        for chain in self._chains:
            chain.begin(row)

    def realise(self, action: NDArray[Any], active: Mask | None = None) -> NDArray[Any]:
        """What the actuators make of an action of all robots, as a new array of the same shape.

        Raises:
            ActuatorError: If the action does not have the action space's shape.
        """
        command = np.asarray(action)
        if command.shape != self._shape:
            raise ActuatorError(
                f"The action has shape {command.shape}, but the action space has {self._shape}."
            )
        if self._transparent and self._oracle is None and self._sensor is None:
            return action
        plant = self._plant
        u = np.array(command, np.float64).reshape(plant.rows, plant.size)
        if self._clip_command:
            u = clip(u, self._low, self._high)
        v = self._models.apply(u, active)
        if self._clip_realised:
            v = clip(v, self._low, self._high)
        dtype = command.dtype if command.dtype.kind == "f" else self._dtype
        realised = v.astype(dtype).reshape(command.shape)
        if self._oracle is not None:
            stepping = np.ones(plant.rows, np.bool_) if active is None else active
            self._oracle.record(command, realised, stepping)
        return realised

    def read(self, realised: NDArray[Any], active: Mask | None = None) -> NDArray[Any]:
        """The sensor's reading of what `realise` returned, same shape, the action space's type."""
        if self._sensor is None:
            raise ActuatorError("These actuators have no sensor; make them with sensor=….")
        v = np.array(realised, np.float64).reshape(self._plant.rows, self._plant.size)
        return self._sensor.apply(v, active).astype(self._dtype).reshape(realised.shape)

    def save(self) -> bytes:
        """The whole state, sealed with the secret seeds.

        Raises:
            ActuatorError: If there is no secret seed.
        """
        state = {
            "digest": self._digest,
            "finished": self.finished,
            "chains": [chain.save() for chain in self._chains],
        }
        return seal(state, self._secret())

    def restore(self, capsule: bytes) -> None:
        """Goes back to a state that `save` returned.

        Raises:
            ActuatorError: If the capsule is damaged, or was saved by other actuators.
        """
        state = unseal(capsule, self._secret())
        if state["digest"] != self._digest:
            raise ActuatorError(
                "The saved state belongs to actuators with other models, sensor, clipping, action "
                "range, control period or number of environments. Make the wrapper with the same "
                "arguments as in the run that saved it."
            )
        self.finished = state["finished"]
        for chain, saved in zip(self._chains, state["chains"], strict=True):
            chain.restore(saved)

    @property
    def _chains(self) -> tuple[Pipeline, ...]:
        return (self._models,) if self._sensor is None else (self._models, self._sensor)

    def _seed(self, row: int, entropy: int | Sequence[int]) -> None:
        for chain in self._chains:
            chain.seed(row, entropy)

    def _secret(self) -> list[int]:
        words = [word for secret in self._secrets for word in secret or ()]
        if any(secret is None for secret in self._secrets):
            raise ActuatorError(
                "These actuators were made without a seed, the secret that keeps their saved state "
                "from the learner and opens it again. Make the wrapper with seed=… (a child of the "
                "run's SeedSequence) to save and restore it."
            )
        return words


@functools.cache
def _cell(owner: int) -> list[Actuation]:
    """The place where an object's actuators lie: a cached list, so always the same one.

    An empty list stays behind for each address that ever held a wrapper; addresses are used again.
    """
    return []


def hide(owner: object, actuation: Actuation) -> None:
    """Keeps the actuators of a wrapper as long as the wrapper lives."""
    _cell(id(owner))[:] = [actuation]
    # By number: a reference here would be one that others can follow.
    weakref.finalize(owner, _forget, id(owner)).atexit = False


def hidden(owner: object) -> Actuation:
    """The actuators of a wrapper."""
    return _cell(id(owner))[0]


def secret_words(seed: int | SeedSequence | None) -> tuple[int, ...] | None:
    """The words of a secret seed.

    Raises:
        ActuatorError: If it is no seed.
    """
    if seed is None:
        return None
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0:
        seed = SeedSequence(int(seed))
    if not isinstance(seed, SeedSequence):
        raise ActuatorError(
            f"seed={seed!r} must be an integer of at least 0, a numpy SeedSequence, or None."
        )
    return tuple(seed.generate_state(8).tolist())


def one_of(value: object, options: Sequence[str], name: str) -> None:
    """Refuses a value that is not among the options."""
    if value not in options:
        raise ActuatorError(
            f"{name}={value!r} is not one of {tuple(options)}{did_you_mean(value, options)}"
        )


def _forget(owner: int) -> None:
    _cell(owner).clear()


def _bounds(space: Space[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not isinstance(space, Box) or space.dtype.kind != "f":
        raise ActuatorError(
            f"The action space is {space}, but noisy actuators need a Box of floats: forces, "
            "torques or positions. There is nothing to be noisy about in a discrete choice."
        )
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return low.astype(np.float64), high.astype(np.float64)


def _digest(
    models: Sequence[ActuatorModel],
    sensor: Sequence[ActuatorModel] | None,
    plant: Plant,
    shape: tuple[int, ...],
    clipping: str,
) -> str:
    description = {
        "models": [model.to_dict() for model in models],
        "sensor": None if sensor is None else [model.to_dict() for model in sensor],
        "low": plant.low.tolist(),
        "high": plant.high.tolist(),
        "dt": plant.dt,
        "shape": shape,
        "clip": clipping,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
