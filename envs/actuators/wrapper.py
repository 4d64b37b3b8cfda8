"""`NoisyActuators`: a gymnasium wrapper between the policy's command and the robot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Never, TypeGuard, get_args

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.random import SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError, NoiseInaccessibleError
from ._hidden import Actuation, Clip, hidden, hide, one_of, secret_words
from .control_cost import ControlCost, check_separable, executing
from .disclosure import declared_keys, undisclosed, warn_of_observed_forces
from .oracle import ActuatorOracle
from .presets import SENSORS, ModelSpec, resolve

#: Key of the sensor's reading in the information that `step` returns.
READING = "actuator_reading"


class NoisyActuators(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Noisy, slow, worn or failing actuators in front of an environment with continuous actions.

    What the actuators really did stays hidden: it is in no observation, no `info`, no attribute and
    no pickle of this wrapper. `docs/actuators.md` says what exactly that covers and what it cannot.

    Randomness is the wrapper's own, from a fixed child of a `SeedSequence`: the environment's
    random stream is the same with and without it. `reset(seed=s)` makes the hardware new (drift,
    fault clocks) and seeds its noise with `s` and the secret `seed`; other resets begin an episode.

    With models that have no effect, every action of the action space passes bit for bit.

    Attributes:
        models: The models, in the order in which commands pass them.
        sensor: The models of the sensor, or none.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        models: ModelSpec,
        *,
        sensor: ModelSpec | None = None,
        seed: int | SeedSequence | None = None,
        control_cost: ControlCost = "realised",
        clip: Clip = "realised",
        dt: float | None = None,
        oracle: ActuatorOracle | None = None,
    ) -> None:
        """Puts actuators before an environment.

        Args:
            env: An environment with a `Box` of floats as action space. Wrappers below this one see
                the realised action; put it as far down as possible.
            models: Name of a preset ("ideal", "servo", "torque-motor", "worn-gearbox", "easy",
                "medium", "hard"), a model, a dictionary as `ActuatorModel.to_dict` writes it, or a
                sequence of these.
            sensor: Models between what an actuator did and `info["actuator_reading"]` (shape and
                units of the action), or "current-sense"; they must have noise of their own. None:
                no reading.
            seed: Secret part of the noise's seed, which the wrapper does not show and `spec` does
                not repeat. Without it the noise follows from `reset(seed=…)` alone, so that whoever
                knows the models can draw it too, and the state cannot be saved. Give every
                environment another.
            control_cost: Which action the environment's `step` sees, and so its reward and `info`:
                "realised" (as under any wrapper) or "commanded" (only the simulator gets the
                realised one; MuJoCo environments only).
            clip: Which action is clipped to the action space: what leaves the actuators
                ("realised"), what enters them ("command"), "both" or "none". Clipping biases noise
                at the bounds.
            dt: Control period, s; by default the environment's `dt`, else 1/`render_fps`.
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
        refuse_nesting(env)
        warn_of_observed_forces(env.unwrapped)
        if control_cost == "commanded":
            check_separable(env.unwrapped)
        self.models = resolved
        self.sensor = reader
        self._charge_command = control_cost == "commanded"
        self._declared = declared_keys(env.metadata)
        hide(
            self,
            Actuation(
                env.action_space,
                None,
                resolved,
                reader,
                [secret_words(seed)],
                clip,
                control_period(dt, lambda name: getattr(env.unwrapped, name, None)),
                oracle,
            ),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, and the actuators with it."""
        observation, info = self.env.reset(seed=seed, options=options)
        actuation = hidden(self)
        actuation.reset(0, seed)
        return observation, undisclosed(info, self._declared) if actuation.acts else info

    def step(self, action: NDArray[Any]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment with what the actuators make of the action.

        Raises:
            ActuatorError: If the action does not have the action space's shape.
            ActuatorError: If the environment turns out not to be able to charge the command.
        """
        actuation = hidden(self)
        realised = actuation.realise(action)
        if self._charge_command:
            with executing([self.unwrapped], [action], [realised]):
                observation, reward, terminated, truncated, info = self.env.step(action)
        else:
            observation, reward, terminated, truncated, info = self.env.step(realised)
        if actuation.acts:
            info = undisclosed(info, self._declared)
        if actuation.has_sensor:
            info = {**info, READING: actuation.read(realised)}
        return observation, reward, terminated, truncated, info

    def save_actuators(self) -> bytes:
        """The state of the actuators and their noise, sealed, for a checkpoint of the run.

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


def control_period(dt: float | None, attribute: Callable[[str], Any]) -> float | None:
    """The control period in s, from the argument, else the environment's `dt` or `render_fps`.

    Args:
        dt: What the user said.
        attribute: Looks up an attribute of the base environment, none if it has no such attribute.

    Raises:
        ActuatorError: If the user said something impossible.
    """
    if dt is not None:
        if not _is_positive(dt):
            raise ActuatorError(f"dt={dt!r} must be a positive number of seconds.")
        return float(dt)
    known = attribute("dt")
    if _is_positive(known):
        return float(known)
    rate = (attribute("metadata") or {}).get("render_fps")
    return 1.0 / rate if _is_positive(rate) else None


def _is_positive(value: object) -> TypeGuard[float]:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return number and bool(0 < value < math.inf)  # type: ignore[operator]


def refuse_nesting(env: gymnasium.Env[Any, Any]) -> None:
    """Refuses an environment that has noisy actuators already.

    Raises:
        ActuatorError: If it has.
    """
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, NoisyActuators):
            raise ActuatorError(
                "The environment already has noisy actuators. Models can be chained: give both "
                "sets to one wrapper, such as NoisyActuators(env, ['servo', WhiteNoise(0.1)])."
            )
        env = env.env


def refusal_to_copy(wrapper: object) -> NoiseInaccessibleError:
    """The error for an attempt to copy or pickle a wrapper."""
    return NoiseInaccessibleError(
        f"{type(wrapper).__name__} cannot be copied or pickled: the copy would let its noise be "
        "tried out in advance. Make another with gymnasium.make(env.spec), or keep its state for a "
        "checkpoint with save_actuators()."
    )
