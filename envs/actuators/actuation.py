"""What a wrapper hides: its chains of models at work, their noise, and the oracle that watches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Never, get_args

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError, ConfigError, NoiseInaccessibleError, UnknownNameError
from ...hidden import Vault, seal, unseal
from .actuator_model import ActuatorModel, Array, Mask, Plant, clip

#: Which actions are clipped to the action space: what leaves the actuators, what enters them, both
#: or neither.
Clip = Literal["realised", "command", "both", "none"]

#: Spawn key of everything drawn here ("npac"). The environment's own stream has an empty key, so
#: the two have nothing in common even when they have the same seed.
_KEY = 0x6E706163
_STEP, _EPISODE, _DEVICE = range(3)


class ActuatorOracle:
    """Records commanded and realised actions of the wrapper that it is given to.

    Make one outside, pass it in with `oracle=`, and keep it to yourself: the wrapper has no
    attribute that leads to it. For tests and figures; no learner may have one.

    Args:
        replay: whether every `reset(seed=s)` of the wrapper draws the noise of the first one again,
            so that steps can be repeated exactly. Otherwise the oracle changes nothing.

    Attributes:
        commands: the actions as given to `step`, one array a step, of the action space's shape.
        realised: what the actuators did, one array a step.
        active: for vectorised environments, which of them took a step, shape (num_envs,), one array
            a step; the others were being reset, and their action was ignored.
    """

    def __init__(self, *, replay: bool = False) -> None:
        self.replay = replay
        self.commands: list[NDArray[Any]] = []
        self.realised: list[NDArray[Any]] = []
        self.active: list[NDArray[np.bool_]] = []

    @property
    def perturbations(self) -> list[NDArray[Any]]:
        """Realised minus commanded action, one array a step."""
        return [v - u for u, v in zip(self.commands, self.realised, strict=True)]

    def clear(self) -> None:
        """Forget all steps."""
        self.commands.clear()
        self.realised.clear()
        self.active.clear()

    def record(
        self, command: NDArray[Any], realised: NDArray[Any], active: NDArray[np.bool_]
    ) -> None:
        """Note one step; called by the wrapper."""
        self.commands.append(command.copy())
        self.realised.append(realised.copy())
        self.active.append(active.copy())

    def __reduce_ex__(self, protocol: object) -> Never:
        """Refuse to be copied: a copy would see nothing, and not say so."""
        raise NoiseInaccessibleError(
            "An ActuatorOracle cannot be pickled or copied: the copy would record nothing. Keep "
            "the environment in this process (SyncVectorEnv, DummyVecEnv) to look at it."
        )


class Actuation:
    """The actuators of one wrapper: R robots, a chain of models, a sensor, secret seeds.

    Args:
        space: action space of one robot.
        rows: number of robots of a vectorised environment; none for a single environment.
        models: the chain of models.
        sensor: the chain of models between realised action and reading, if it is read.
        secrets: for each robot the words of its secret seed, or none.
        clipping: which actions are clipped.
        dt: control period, s, if known.
        oracle: told of every step.

    Raises:
        ActuatorError: the models do not fit the robot, or the sensor adds no noise.
    """

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
        low, high = _bounds(space)
        if clipping not in get_args(Clip):
            raise UnknownNameError("clip", clipping, get_args(Clip))
        if sensor is not None and not any(m.draws_each_step and not m.inert for m in sensor):
            raise ActuatorError(
                f"The sensor {list(sensor)} adds no noise at every step, so that reading "
                "minus command would give the hidden perturbation away. Add some, for example "
                "WhiteNoise(0.02); to look at the realised action in a test, pass an oracle."
            )
        self.finished = np.zeros(rows or 1, np.bool_)
        self._plant = Plant(rows or 1, low, high, dt)
        self._low, self._high = self._plant.tile(low), self._plant.tile(high)
        self._dtype = space.dtype
        self._made_with = space, rows, clipping, dt
        self._shape = (*(() if rows is None else (rows,)), *(space.shape or ()))
        self._clip_command = clipping in ("command", "both")
        self._clip_realised = clipping in ("realised", "both")
        self._secrets = secrets
        self._oracle = oracle
        self._seeded_resets = [0] * self._plant.rows
        self._refits = 0
        self._models = _Chain(models, self._plant, part=0)
        self._sensor = None if sensor is None else _Chain(sensor, self._plant, part=1)
        self._transparent = not self.acts and clipping == "none"
        self._digest = _digest(models, sensor, self._plant, self._shape, clipping)
        for row, secret in enumerate(secrets):
            entropy = list(secret or SeedSequence().generate_state(8).tolist())
            for chain in self._chains:
                chain.manufacture(row, entropy)
                chain.seed(row, entropy)
            self.begin(row)

    @property
    def acts(self) -> bool:
        """Whether any model has an effect, so that there is something to hide."""
        return bool(self._models.stages)

    @property
    def has_sensor(self) -> bool:
        """Whether the realised action is read."""
        return self._sensor is not None

    def refitted(
        self, models: Sequence[ActuatorModel], sensor: Sequence[ActuatorModel] | None
    ) -> Actuation:
        """New actuators in the place of these, on the same robots; their noise is new, too.

        Raises:
            ActuatorError: the models do not fit the robots.
        """
        space, rows, clipping, dt = self._made_with
        refits = self._refits + 1
        secrets = [None if words is None else (*words, refits) for words in self._secrets]
        new = Actuation(space, rows, models, sensor, secrets, clipping, dt, self._oracle)
        new.finished, new._seeded_resets, new._refits = self.finished, self._seeded_resets, refits
        return new

    def reset(self, row: int, seed: int | None) -> None:
        """Start an episode of a robot; with a seed, with actuators made new and seeded with it.

        The number of earlier resets with a seed goes into the noise: the same seed does not bring
        the same noise back, unless there is an oracle that asks for it.
        """
        if seed is not None:
            entropy = [int(seed), *(self._secrets[row] or ())]
            replay = self._oracle is not None and self._oracle.replay
            for chain in self._chains:
                chain.seed(row, entropy, 0 if replay else self._seeded_resets[row])
            self._seeded_resets[row] += 1
        self.begin(row)

    def begin(self, row: int) -> None:
        """Start an episode of a robot; its random streams continue where they are."""
        for chain in self._chains:
            chain.begin(row)

    def realise(self, action: NDArray[Any], active: Mask | None = None) -> NDArray[Any]:
        """What the actuators make of an action of all robots, as a new array of the same shape.

        Raises:
            ActuatorError: the action does not have the action space's shape.
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
            ActuatorError: there is no secret seed.
        """
        state = {
            "digest": self._digest,
            "finished": self.finished,
            "seeded_resets": self._seeded_resets,
            "chains": [chain.save() for chain in self._chains],
        }
        return seal(state, self._secret(), "actuators")

    def restore(self, capsule: bytes) -> None:
        """Go back to a state that `save` returned.

        Raises:
            ActuatorError: there is no secret seed, or the state is that of other actuators.
            DamagedFileError: the capsule was altered, or sealed with another seed.
        """
        state = unseal(capsule, self._secret(), "actuators")
        if state["digest"] != self._digest:
            raise ActuatorError(
                "The saved state belongs to actuators with other models, sensor, clipping, action "
                "range, control period or number of environments. Make the wrapper with the same "
                "arguments as in the run that saved it."
            )
        self.finished = state["finished"]
        self._seeded_resets = state["seeded_resets"]
        for chain, saved in zip(self._chains, state["chains"], strict=True):
            chain.restore(saved)

    @property
    def _chains(self) -> tuple[_Chain, ...]:
        return (self._models,) if self._sensor is None else (self._models, self._sensor)

    def _secret(self) -> list[int]:
        if any(secret is None for secret in self._secrets):
            raise ActuatorError(
                "These actuators were made without a seed, the secret that keeps their saved state "
                "from the learner and opens it again. Make the wrapper with seed=… (a child of the "
                "run's SeedSequence) to save and restore it."
            )
        return [word for secret in self._secrets for word in secret or ()]


#: Where the actuators of every wrapper lie; the wrappers themselves hold no reference to them.
ACTUATIONS: Vault[Actuation] = Vault()


class _Chain:
    """Models that act one after the other on a batch of robots.

    Each model has its own random numbers, which follow from its place in the chain: leaving a model
    out or making it stronger does not change what the others draw.

    Args:
        models: the models in the order in which commands pass them.
        plant: the robots.
        part: which chain of a wrapper it is; chains with other numbers draw other noise.
    """

    def __init__(self, models: Sequence[ActuatorModel], plant: Plant, part: int) -> None:
        self._part = part
        # A model without effect costs nothing, and does not even turn −0.0 into 0.0.
        self.stages = [
            _Stage(model, place, plant) for place, model in enumerate(models) if not model.inert
        ]
        self._direct = [
            stage.dynamics.apply if stage.columns is None else stage.on_columns
            for stage in self.stages
        ]

    def manufacture(self, row: int, secret: Sequence[int]) -> None:
        """Draw the differences between devices of a robot, from their number or a secret seed."""
        for stage in self.stages:
            number = getattr(stage.model, "device_seed", None)
            sequence = self._sequence(secret if number is None else number, stage, _DEVICE)
            stage.dynamics.manufacture(row, Generator(PCG64(sequence)))

    def seed(self, row: int, entropy: Sequence[int], count: int = 0) -> None:
        """Make a robot's actuators new again, with random numbers that follow from the entropy.

        Args:
            row: the robot.
            entropy: words of the seed.
            count: how often the robot was seeded before; other counts make other noise.
        """
        for stage in self.stages:
            stage.episodes[row] = Generator(PCG64(self._sequence(entropy, stage, _EPISODE, count)))
            if hasattr(stage.dynamics, "noise"):
                stage.dynamics.noise.seed(row, self._sequence(entropy, stage, _STEP, count))
            stage.dynamics.restart(row)

    def begin(self, row: int) -> None:
        """Start an episode of one robot."""
        for stage in self.stages:
            stage.dynamics.begin(row, stage.episodes[row])

    def apply(self, u: Array, active: Mask | None) -> Array:
        """What becomes of the commands of one step.

        Args:
            u: commands, shape (R, d), native units.
            active: robots that take a step, shape (R,); none for all. The others keep their state
                and draw nothing, and their commands pass.

        Returns:
            Shape (R, d), native units.
        """
        if active is None:
            for apply in self._direct:
                u = apply(u, None)
        else:
            for stage in self.stages:
                u = stage.apply(u, active)
        return u

    def save(self) -> list[dict[str, Any]]:
        """All that `restore` needs to continue with the same numbers, without the parameters."""
        return [
            {
                "dynamics": stage.dynamics.save(),
                "episodes": [generator.bit_generator.state for generator in stage.episodes],
            }
            for stage in self.stages
        ]

    def restore(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Go back to what `save` described."""
        for stage, entry in zip(self.stages, saved, strict=True):
            stage.dynamics.restore(entry["dynamics"])
            for generator, state in zip(stage.episodes, entry["episodes"], strict=True):
                generator.bit_generator.state = state

    def _sequence(
        self, entropy: int | Sequence[int], stage: _Stage, use: int, count: int = 0
    ) -> SeedSequence:
        again = (count,) if count else ()
        return SeedSequence(entropy, spawn_key=(_KEY, self._part, stage.place, use, *again))


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
        self.dynamics = model.dynamics(model, plant)
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


def secret_words(seed: int | SeedSequence | None) -> tuple[int, ...] | None:
    """The words of a secret seed.

    Raises:
        ConfigError: it is no seed.
    """
    if seed is None:
        return None
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0:
        seed = SeedSequence(int(seed))
    if not isinstance(seed, SeedSequence):
        raise ConfigError(
            f"seed={seed!r} must be an integer of at least 0, a numpy SeedSequence, or None."
        )
    return tuple(seed.generate_state(8).tolist())


def _bounds(space: Space[Any]) -> tuple[Array, Array]:
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
