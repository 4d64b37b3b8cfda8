"""What noisy actuators need of the environment below: control period, information, simulator.

*Information.* Environments report in `info`, and some in their observations, what their actuators
did. The first is withheld, the second warned of.

*Simulator.* The learner can be charged for its command while the robot executes what the actuators
made of it. MuJoCo environments of gymnasium compute reward and information from the action that
`step` receives and hand the same action to the simulator through `do_simulation`. For the time of
one step the two are taken apart here: `step` receives the command, the simulator the realised
action. Other environments can offer the same with an attribute `executed_action`, usually None:
where it is an action, `step` is to simulate that one, and to compute everything else from its
argument.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ActuatorError, ActuatorWarning, ConfigError
from ..timestep import positive, time_step

#: Which action the environment's `step` sees, and with it reward, information and observation.
ControlCost = Literal["realised", "commanded"]

#: Parts of names under which environments report the action that they were given.
_TELLING = ("torque", "action", "actuator", "ctrl")
#: Beginnings of names that are parts of the reward, which the learner gets anyway.
_REWARD = ("reward", "cost", "penalty")


def control_period(dt: float | None, attribute: Callable[[str], Any]) -> float | None:
    """The control period in s, from the argument, else the environment's `dt` or `render_fps`.

    Args:
        dt: what the user said.
        attribute: looks up an attribute of the base environment; none if it has no such attribute.

    Raises:
        ConfigError: the user said something impossible.
    """
    if dt is not None:
        given = positive(dt)
        if given is None:
            raise ConfigError(f"dt={dt!r} must be a positive number of seconds.")
        return given
    found = time_step(None, attribute)
    return None if found is None else found.seconds


def without_actions(info: dict[str, Any], declared: Collection[str]) -> dict[str, Any]:
    """Information without what tells the realised action; the same object if nothing does.

    Args:
        info: what `step` or `reset` of an environment, or of a vectorised one, returned.
        declared: further keys that the environment says tell it, in `metadata["actuator_info"]`.
    """
    if not any(_tells(key) or key in declared or key == "final_info" for key in info):
        return info
    kept = {
        key: value
        for key, value in info.items()
        # A vectorised environment has a mask "_key" beside every "key".
        if not _tells(key) and key.removeprefix("_") not in declared
    }
    if isinstance(kept.get("final_info"), dict):
        kept["final_info"] = without_actions(kept["final_info"], declared)
    return kept


@cache
def _tells(key: str) -> bool:
    name = key.removeprefix("_").lower()
    return not name.startswith(_REWARD) and any(part in name for part in _TELLING)


def own_control_cost(env: Any) -> ControlCost:  # noqa: ANN401 - any environment, or several
    """What an environment is charged for where nobody says: its own, if it takes the two apart."""
    bases = [single.unwrapped for single in getattr(env.unwrapped, "envs", ())] or [env.unwrapped]
    return "commanded" if all(hasattr(base, "executed_action") for base in bases) else "realised"


def check_base(base: Any, control_cost: ControlCost) -> None:  # noqa: ANN401 - any environment
    """Refuse a base environment that cannot do what is asked; warn if it observes the noise.

    Raises:
        ActuatorError: its simulator cannot be given another action than `step`.
    """
    if getattr(base, "_include_qfrc_actuator_in_observation", False):
        warnings.warn(
            f"{type(base).__name__} observes the actuator forces, so the learner can see what the "
            "noisy actuators did. Make it with include_qfrc_actuator_in_observation=False.",
            ActuatorWarning,
            stacklevel=3,
        )
    offers = hasattr(base, "executed_action") or hasattr(base, "do_simulation")
    if control_cost == "commanded" and not offers:
        raise ActuatorError(
            "control_cost='commanded' needs an environment with an attribute executed_action, or "
            "one that passes its actions to gymnasium's MujocoEnv.do_simulation; "
            f"{type(base).__name__} is neither. Use control_cost='realised'."
        )


@contextmanager
def simulating(
    bases: Sequence[Any], commands: Sequence[NDArray[Any]], realised: Sequence[NDArray[Any]]
) -> Iterator[None]:
    """Lets each base environment simulate its realised action when it is stepped with its command.

    Raises:
        ActuatorError: an environment changes the action before it simulates it, so that nobody can
            say what the realised action should become.
    """
    simulated: set[int] = set()
    ends = [
        _divert(base, command, action, simulated)
        for base, command, action in zip(bases, commands, realised, strict=True)
    ]
    try:
        yield
    finally:
        for end in ends:
            end()
    for base in bases:
        if id(base) not in simulated:
            raise ActuatorError(
                f"{type(base).__name__} did not call do_simulation in its step, so the realised "
                "action was never executed. Use control_cost='realised'."
            )


def _divert(
    base: Any,  # noqa: ANN401 - any environment
    command: NDArray[Any],
    realised: NDArray[Any],
    simulated: set[int],
) -> Callable[[], None]:
    """Give the simulator of `base` the realised action, and return what ends that."""
    if hasattr(base, "executed_action"):
        base.executed_action = realised
        simulated.add(id(base))
        return partial(setattr, base, "executed_action", None)
    simulate, own = base.do_simulation, vars(base).get("do_simulation")

    def do_simulation(ctrl: NDArray[Any], n_frames: int) -> None:
        if not np.array_equal(ctrl, command):
            raise ActuatorError(
                f"{type(base).__name__}, or a wrapper below the noisy actuators, changes the "
                "action before it is simulated. Put the noisy actuators below such wrappers, or "
                "use control_cost='realised'."
            )
        simulated.add(id(base))
        simulate(realised, n_frames)
        # Humanoid's control cost reads the simulator's copy.
        base.data.ctrl[:] = command

    base.do_simulation = do_simulation
    if own is None:
        return partial(delattr, base, "do_simulation")
    return partial(setattr, base, "do_simulation", own)
