"""`NoisyActuators` and `NoisyActuatorsVector`: wrappers between the policy's command and robots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never, get_args

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.random import SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError, ConfigError, NoiseInaccessibleError, UnknownNameError
from .actuation import ACTUATIONS, Actuation, ActuatorOracle, Clip, secret_words
from .actuator_model import ActuatorModel, Mask
from .base_environment import (
    ControlCost,
    check_base,
    control_period,
    own_control_cost,
    simulating,
    without_actions,
)
from .presets import SENSORS, ModelSpec, resolve

#: Key of the sensor's reading in the information that `step` returns.
READING = "actuator_reading"


class _Actuated(RecordConstructorArgs):
    """What the two wrappers share: configuration on the outside, everything else hidden."""

    models: tuple[ActuatorModel, ...]
    sensor: tuple[ActuatorModel, ...] | None

    def _configure(
        self,
        models: ModelSpec,
        sensor: ModelSpec | None,
        control_cost: ControlCost | None,
        clip: Clip,
        dt: float | None,
    ) -> None:
        """Check the settings and record those that are public, for `spec`."""
        if control_cost not in get_args(ControlCost):
            raise UnknownNameError("control_cost", control_cost, get_args(ControlCost))
        self.models = resolve(models)
        self.sensor = None if sensor is None else resolve(sensor, SENSORS)
        self._charge_command = control_cost == "commanded"
        RecordConstructorArgs.__init__(
            self,
            models=[model.to_dict() for model in self.models],
            sensor=None if self.sensor is None else [model.to_dict() for model in self.sensor],
            control_cost=control_cost,
            clip=clip,
            dt=dt,
        )

    def refit(self, models: ModelSpec) -> None:
        """Put other actuators in, while the robot works; the sensor stays.

        They are new: nothing is under way, no drift has begun, and their noise is no repetition.

        Args:
            models: as for the constructor.

        Raises:
            UnknownNameError: there is no such preset, model or parameter.
            ActuatorError: the models do not fit the robot.
        """
        resolved = resolve(models)
        ACTUATIONS.hide(self, ACTUATIONS.of(self).refitted(resolved, self.sensor))
        self.models = resolved
        self._saved_kwargs["models"] = [model.to_dict() for model in resolved]

    def save_actuators(self) -> bytes:
        """The state of the actuators and their noise, sealed, for a checkpoint of the run.

        The bytes can be opened only by a wrapper made with the same `seed`.

        Raises:
            ActuatorError: the wrapper was made without a seed.
        """
        return ACTUATIONS.of(self).save()

    def restore_actuators(self, capsule: bytes) -> None:
        """Go back to a state from `save_actuators`, of this wrapper or one made like it.

        Raises:
            ActuatorError: the wrapper was made without a seed, or the state is of other actuators.
            DamagedFileError: the bytes were altered, or saved by a wrapper with another seed.
        """
        ACTUATIONS.of(self).restore(capsule)

    def __reduce_ex__(self, protocol: object) -> Never:
        """Refuse to be copied."""
        raise NoiseInaccessibleError(
            f"{type(self).__name__} cannot be copied or pickled: the copy would let its noise be "
            "tried out in advance. Make another with gymnasium.make(env.spec), or keep its state "
            "for a checkpoint with save_actuators()."
        )


class NoisyActuators(_Actuated, gymnasium.Wrapper[Any, Any, Any, Any]):
    """Noisy, slow, worn or failing actuators in front of an environment with continuous actions.

    What the actuators really did stays hidden: it is in no observation, no `info`, no attribute and
    no pickle of this wrapper. `docs/reference/actuators.md` says what exactly that covers and what
    it cannot.

    Randomness is the wrapper's own, from a fixed child of a `SeedSequence`: the environment's
    random stream is the same with and without it. `reset(seed=s)` makes the actuators new (drift,
    fault clocks) and seeds their noise with `s`, the secret `seed`, and the number of seeded resets
    before: resetting again with the same `s` does *not* bring the same noise back. Two wrappers
    made alike draw the same noise in the same sequence of resets. Other resets begin an episode.

    With models that have no effect, every action of the action space passes bit for bit.

    Args:
        env: an environment with a `Box` of floats as action space. Wrappers below this one see the
            realised action; put it as far down as possible.
        models: name of a preset ("ideal", "servo", "torque-motor", "worn-gearbox", "easy",
            "medium", "hard"), a model, a dictionary as `ActuatorModel.to_dict` writes it, or a
            sequence of these.
        sensor: models between what an actuator did and `info["actuator_reading"]` (shape and units
            of the action), or "current-sense"; they must add noise. None: no reading.
        seed: secret part of the noise's seed, which the wrapper does not show and `spec` does not
            repeat. Without it the noise follows from the seeds given to `reset` alone, so that
            anyone who knows the models can draw it too, and the state cannot be saved. Give every
            environment another.
        control_cost: which action the environment's `step` sees, and so its reward and `info`:
            "realised" (as under any wrapper) or "commanded" (only the simulator gets the realised
            one; MuJoCo environments only). By default "realised", but for environments that take
            the two apart themselves, such as `nprobot/Robot-v0`, which observes its last action.
        clip: which action is clipped to the action space: what leaves the actuators ("realised"),
            what enters them ("command"), "both" or "none". Clipping biases noise at the bounds.
        dt: control period, s; by default the environment's `dt`, else 1/`render_fps`.
        oracle: for tests: records what the actuators did. `ActuatorOracle(replay=True)` makes
            resets with one seed replay the noise; there is no other way.

    Attributes:
        models: the models, in the order in which commands pass them.
        sensor: the models of the sensor, or none.

    Raises:
        ConfigError: a setting has a value that is not allowed.
        UnknownNameError: there is no such preset, model or parameter.
        ActuatorError: the actuators do not fit the environment, or the sensor has no noise.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        models: ModelSpec,
        *,
        sensor: ModelSpec | None = None,
        seed: int | SeedSequence | None = None,
        control_cost: ControlCost | None = None,
        clip: Clip = "realised",
        dt: float | None = None,
        oracle: ActuatorOracle | None = None,
    ) -> None:
        control_cost = control_cost or own_control_cost(env)
        self._configure(models, sensor, control_cost, clip, dt)
        gymnasium.Wrapper.__init__(self, env)
        _refuse_nesting(env, "one wrapper")
        check_base(env.unwrapped, control_cost)
        self._declared = _declared(env)
        dt = control_period(dt, lambda name: getattr(env.unwrapped, name, None))
        actuation = Actuation(
            env.action_space, None, self.models, self.sensor, [secret_words(seed)], clip, dt, oracle
        )
        ACTUATIONS.hide(self, actuation)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """How to make this environment again, without the secret seed.

        Marked as not deterministic where there are noisy actuators: a seed repeats the task, not
        the noise.
        """
        spec = super().spec
        if spec is not None and (ACTUATIONS.of(self).acts or self.sensor is not None):
            spec.nondeterministic = True
        return spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and the actuators with it; a seed does not replay their noise."""
        observation, info = self.env.reset(seed=seed, options=options)
        actuation = ACTUATIONS.of(self)
        actuation.reset(0, seed)
        return observation, without_actions(info, self._declared) if actuation.acts else info

    def step(self, action: NDArray[Any]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment with what the actuators make of the action.

        Raises:
            ActuatorError: the action does not have the action space's shape, or the environment
                turns out not to be able to charge the command.
        """
        actuation = ACTUATIONS.of(self)
        realised = actuation.realise(action)
        if self._charge_command:
            with simulating([self.unwrapped], [action], [realised]):
                observation, reward, terminated, truncated, info = self.env.step(action)
        else:
            observation, reward, terminated, truncated, info = self.env.step(realised)
        if actuation.acts:
            info = without_actions(info, self._declared)
        if actuation.has_sensor:
            info = {**info, READING: actuation.read(realised)}
        return observation, reward, terminated, truncated, info


class NoisyActuatorsVector(_Actuated, VectorWrapper[Any, Any, Any, Any, Any]):
    """Noisy actuators for all sub-environments of a gymnasium `VectorEnv` at once.

    Gives the same numbers as one `NoisyActuators` in each sub-environment, number i seeded with
    `seed + i` and reset with `seed + i`, at a fraction of the cost. Noise streams are independent,
    and every sub-environment's episodes, faults, delays and number of seeded resets are its own, in
    all autoreset modes.

    Args:
        env: environments with a `Box` of floats as action space.
        models: as for `NoisyActuators`.
        sensor: as for `NoisyActuators`; readings have shape (num_envs, *action shape), and the mask
            `_actuator_reading` tells which sub-environments took a step.
        seed: secret part of the noise's seed: an integer (sub-environment i gets seed + i), a
            `SeedSequence` (gets child i), or one for each sub-environment.
        control_cost: as for `NoisyActuators`; "commanded" needs sub-environments in this process.
        clip: as for `NoisyActuators`.
        dt: as for `NoisyActuators`.
        oracle: as for `NoisyActuators`.

    Attributes:
        models: the models, in the order in which commands pass them.
        sensor: the models of the sensor, or none.

    Raises:
        ConfigError: as for `NoisyActuators`, or another number of seeds than of environments.
        UnknownNameError: as for `NoisyActuators`.
        ActuatorError: as for `NoisyActuators`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        models: ModelSpec,
        *,
        sensor: ModelSpec | None = None,
        seed: int | SeedSequence | Sequence[int | SeedSequence | None] | None = None,
        control_cost: ControlCost | None = None,
        clip: Clip = "realised",
        dt: float | None = None,
        oracle: ActuatorOracle | None = None,
    ) -> None:
        control_cost = control_cost or own_control_cost(env)
        self._configure(models, sensor, control_cost, clip, dt)
        VectorWrapper.__init__(self, env)
        _refuse_nesting(env, "one wrapper")
        for single in getattr(env.unwrapped, "envs", ()):
            _refuse_nesting(single, "the wrapper around all of them")
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._bases = _bases(env)
        self._declared = _declared(env)
        if self._charge_command and not self._bases:
            raise ActuatorError(
                "control_cost='commanded' needs the sub-environments in this process, as in a "
                "SyncVectorEnv. Or put NoisyActuators into each of them: "
                "make_vec(…, wrappers=[lambda env: NoisyActuators(env, …)])."
            )
        for base in self._bases:
            check_base(base, control_cost)
        rows, space = env.num_envs, env.single_action_space
        secrets = [secret_words(one) for one in _secrets(seed, rows)]
        dt = control_period(dt, lambda name: _attribute(env, name))
        actuation = Actuation(space, rows, self.models, self.sensor, secrets, clip, dt, oracle)
        ACTUATIONS.hide(self, actuation)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the sub-environments (those of `options["reset_mask"]`) and their actuators."""
        mask = None if options is None else options.get("reset_mask")
        rows = range(self.num_envs)
        if seed is None or isinstance(seed, (int, np.integer)):
            seeds = [None if seed is None else int(seed) + row for row in rows]
        else:
            seeds = list(seed)
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        actuation = ACTUATIONS.of(self)
        for row in rows if mask is None else np.flatnonzero(mask).tolist():
            actuation.reset(row, seeds[row])
            actuation.finished[row] = False
        return observations, without_actions(infos, self._declared) if actuation.acts else infos

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step the sub-environments with what the actuators make of the actions.

        Raises:
            ActuatorError: the actions do not have the action space's shape, or an environment turns
                out not to be able to charge the command.
        """
        actuation = ACTUATIONS.of(self)
        active: Mask | None = None
        if actuation.finished.any():
            # These sub-environments reset themselves now, and their actions go nowhere.
            active = ~actuation.finished
            for row in np.flatnonzero(actuation.finished).tolist():
                actuation.begin(row)
        realised = actuation.realise(actions, active)
        if self._charge_command:
            rows = range(self.num_envs) if active is None else np.flatnonzero(active).tolist()
            with simulating(
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
            infos = without_actions(infos, self._declared)
        if actuation.has_sensor:
            infos = self._with_readings(infos, actuation.read(realised, active), active, done)
        if self._mode is AutoresetMode.NEXT_STEP:
            actuation.finished = done
        elif self._mode is AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(done).tolist():
                actuation.begin(row)
        return observations, rewards, terminations, truncations, infos

    def _with_readings(
        self, infos: dict[str, Any], readings: NDArray[Any], active: Mask | None, done: Mask
    ) -> dict[str, Any]:
        """Put the readings where gymnasium puts what single environments return."""
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


def _declared(env: Any) -> frozenset[str]:  # noqa: ANN401 - an environment or a vector of them
    """The keys of `info` that an environment itself marks as telling what its actuators did."""
    return frozenset(env.metadata.get("actuator_info", ()))


def _refuse_nesting(env: Any, where: str) -> None:  # noqa: ANN401 - one or a vector of them
    while isinstance(env, (gymnasium.Wrapper, VectorWrapper)):
        if isinstance(env, _Actuated):
            raise ActuatorError(
                "The environment already has noisy actuators. Models can be chained: give both "
                f"sets to {where}, such as NoisyActuators(env, ['servo', WhiteNoise(0.1)])."
            )
        env = env.env


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


def _secrets(
    seed: int | SeedSequence | Sequence[int | SeedSequence | None] | None, rows: int
) -> list[int | SeedSequence | None]:
    """The secret seed of each sub-environment."""
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
            raise ConfigError(
                f"{len(seed)} seeds were given for {rows} environments; give one for each."
            )
        return list(seed)
    secret_words(seed)
    return [seed + row for row in range(rows)]
