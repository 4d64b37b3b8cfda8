"""`NoisyActuatorsVector`: noisy actuators in front of a vectorised environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never, get_args

import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.random import SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError
from ._hidden import Actuation, Clip, hidden, hide, one_of, secret_words
from .control_cost import ControlCost, check_separable, executing
from .disclosure import declared_keys, undisclosed, warn_of_observed_forces
from .dynamics import Mask
from .oracle import ActuatorOracle
from .presets import SENSORS, ModelSpec, resolve
from .wrapper import (
    READING,
    control_period,
    refusal_to_copy,
    refuse_nesting,
)


class NoisyActuatorsVector(VectorWrapper[Any, Any, Any, Any, Any], RecordConstructorArgs):
    """Noisy actuators for all sub-environments of a gymnasium `VectorEnv` at once.

    Gives the same numbers as one `NoisyActuators` in each sub-environment, number i seeded with
    `seed + i` and reset with `seed + i`, at a fraction of the cost. Noise streams are independent,
    and every sub-environment's episodes, faults and delays are its own, in all autoreset modes.

    Attributes:
        models: The models, in the order in which commands pass them.
        sensor: The models of the sensor, or none.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        models: ModelSpec,
        *,
        sensor: ModelSpec | None = None,
        seed: int | SeedSequence | Sequence[int | SeedSequence | None] | None = None,
        control_cost: ControlCost = "realised",
        clip: Clip = "realised",
        dt: float | None = None,
        oracle: ActuatorOracle | None = None,
    ) -> None:
        """Puts actuators before a vectorised environment.

        Args:
            env: Environments with a `Box` of floats as action space.
            models: As for `NoisyActuators`.
            sensor: As for `NoisyActuators`; readings have shape (num_envs, *action shape), and the
                mask `_actuator_reading` tells which sub-environments took a step.
            seed: Secret part of the noise's seed: an integer (sub-environment i gets seed + i), a
                `SeedSequence` (gets child i), or one for each sub-environment.
            control_cost: As for `NoisyActuators`; "commanded" needs sub-environments in this
                process.
            clip: As for `NoisyActuators`.
            dt: As for `NoisyActuators`.
            oracle: For tests: records what the actuators did.

        Raises:
            ActuatorError: A subclass says what is wrong with the arguments.
        """
        resolved = resolve(models)
        reader = None if sensor is None else resolve(sensor, SENSORS)
        RecordConstructorArgs.__init__(
            self,
            models=[model.to_dict() for model in resolved],
            sensor=None if reader is None else [model.to_dict() for model in reader],
            control_cost=control_cost,
            clip=clip,
            dt=dt,
        )
        super().__init__(env)
        one_of(control_cost, get_args(ControlCost), "control_cost")
        _refuse_nesting(env)
        self.models = resolved
        self.sensor = reader
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._bases = _bases(env)
        self._declared = declared_keys(env.metadata)
        self._charge_command = control_cost == "commanded"
        if self._charge_command and not self._bases:
            raise ActuatorError(
                "control_cost='commanded' needs the sub-environments in this process, as in a "
                "SyncVectorEnv. Or put NoisyActuators into each of them: "
                "make_vec(…, wrappers=[lambda env: NoisyActuators(env, …)])."
            )
        for base in self._bases:
            warn_of_observed_forces(base)
            if self._charge_command:
                check_separable(base)
        hide(
            self,
            Actuation(
                env.single_action_space,
                env.num_envs,
                resolved,
                reader,
                [secret_words(one) for one in _seeds(seed, env.num_envs)],
                clip,
                control_period(dt, lambda name: _attribute(env, name)),
                oracle,
            ),
        )

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the sub-environments (those of `options["reset_mask"]`) and their actuators."""
        mask = None if options is None else options.get("reset_mask")
        seeds = _reset_seeds(seed, self.num_envs)
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        actuation = hidden(self)
        for row in range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist():
            actuation.reset(row, seeds[row])
            actuation.finished[row] = False
        return observations, undisclosed(infos, self._declared) if actuation.acts else infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps the sub-environments with what the actuators make of the actions.

        Raises:
            ActuatorError: If the actions do not have the action space's shape.
            ActuatorError: If an environment turns out not to be able to charge the command.
        """
        actuation = hidden(self)
        active: Mask | None = None
        if actuation.finished.any():
            # These sub-environments reset themselves now, and their actions go nowhere.
            active = ~actuation.finished
            for row in np.flatnonzero(actuation.finished).tolist():
                actuation.begin(row)
        realised = actuation.realise(actions, active)
        if self._charge_command:
            rows = range(self.num_envs) if active is None else np.flatnonzero(active).tolist()
            with executing(
                [self._bases[row] for row in rows],
                [actions[row] for row in rows],
                [realised[row] for row in rows],
            ):
                result = self.env.step(actions)
        else:
            result = self.env.step(realised)
        observations, rewards, terminations, truncations, infos = result
        done = np.logical_or(terminations, truncations)
        if actuation.acts:
            infos = undisclosed(infos, self._declared)
        if actuation.has_sensor:
            infos = self._with_readings(infos, actuation.read(realised, active), active, done)
        if self._mode is AutoresetMode.NEXT_STEP:
            actuation.finished = done
        elif self._mode is AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(done).tolist():
                actuation.begin(row)
        return observations, rewards, terminations, truncations, infos

    def save_actuators(self) -> bytes:
        """The state of all actuators and their noise, sealed, for a checkpoint of the run.

        The bytes can be opened only by a wrapper made with the same `seed`.

        Raises:
            ActuatorError: If the wrapper was made without a seed.
        """
        return hidden(self).save()

    def restore_actuators(self, capsule: bytes) -> None:
        """Goes back to a state from `save_actuators`, of this wrapper or one made like it.

        Raises:
            ActuatorError: If the capsule was damaged, or comes from other actuators.
        """
        hidden(self).restore(capsule)

    def __reduce_ex__(self, protocol: object) -> Never:
        """Refuses to be copied."""
        raise refusal_to_copy(self)

    def _with_readings(
        self, infos: dict[str, Any], readings: NDArray[Any], active: Mask | None, done: Mask
    ) -> dict[str, Any]:
        """Puts the readings where gymnasium puts what single environments return."""
        infos = dict(infos)
        stepped = np.ones(self.num_envs, np.bool_) if active is None else active
        if self._mode is AutoresetMode.SAME_STEP:
            if done.any():
                infos["final_info"] = {
                    **infos.get("final_info", {}),
                    **_masked(readings, stepped & done),
                }
            stepped = stepped & ~done
        if stepped.any():
            infos.update(_masked(readings, stepped))
        return infos


def _masked(readings: NDArray[Any], rows: Mask) -> dict[str, Any]:
    column = rows.reshape(-1, *(1,) * (readings.ndim - 1))
    return {READING: np.where(column, readings, np.zeros_like(readings)), f"_{READING}": rows}


def _refuse_nesting(env: VectorEnv[Any, Any, Any]) -> None:
    layer = env
    while isinstance(layer, VectorWrapper):
        if isinstance(layer, NoisyActuatorsVector):
            raise ActuatorError(
                "The environments already have noisy actuators. Models can be chained: give both "
                "sets to one wrapper: NoisyActuatorsVector(env, ['servo', WhiteNoise(0.1)])."
            )
        layer = layer.env
    for single in getattr(env.unwrapped, "envs", ()):
        refuse_nesting(single)


def _bases(env: VectorEnv[Any, Any, Any]) -> list[Any]:
    return [single.unwrapped for single in getattr(env.unwrapped, "envs", ())]


def _attribute(env: VectorEnv[Any, Any, Any], name: str) -> object:
    """An attribute of the first sub-environment, wherever it runs, or none."""
    bases = _bases(env)
    if bases:
        return getattr(bases[0], name, None)
    remote: Any = env.unwrapped
    if hasattr(remote, "call") and all(remote.call("has_wrapper_attr", name)):
        return remote.call("get_wrapper_attr", name)[0]
    return getattr(remote, name, None)


def _seeds(
    seed: int | SeedSequence | Sequence[int | SeedSequence | None] | None, rows: int
) -> list[int | SeedSequence | None]:
    if seed is None:
        return [None] * rows
    if isinstance(seed, SeedSequence):
        # By hand, because spawn() would change what the owner's next spawn() returns.
        return [
            SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, row), pool_size=seed.pool_size)
            for row in range(rows)
        ]
    if isinstance(seed, Sequence) and not isinstance(seed, str):
        if len(seed) != rows:
            raise ActuatorError(
                f"{len(seed)} seeds were given for {rows} environments; give one for each."
            )
        return list(seed)
    secret_words(seed)
    return [seed + row for row in range(rows)]


def _reset_seeds(seed: int | Sequence[int | None] | None, rows: int) -> list[int | None]:
    if seed is None:
        return [None] * rows
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + row for row in range(rows)]
    return list(seed)
