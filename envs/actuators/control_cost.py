"""Charging the learner for its command while the robot executes what the actuators made of it.

MuJoCo environments of gymnasium compute reward and information from the action that `step` receives
and hand the same action to the simulator through `do_simulation`. For the time of one step the two
are taken apart here: `step` receives the command, the simulator the realised action.

Other environments can offer the same with an attribute `executed_action`, usually None: where it is
an action, `step` is to simulate that one, and to compute everything else from its argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ...errors import ActuatorError

#: Which action the environment's `step` sees, and with it reward, information and observation.
ControlCost = Literal["realised", "commanded"]


def check_separable(base: gymnasium.Env[Any, Any]) -> None:
    """Refuses base environments whose simulator cannot be given another action than `step`.

    Raises:
        ActuatorError: If there is neither `executed_action` nor `do_simulation`.
    """
    if not hasattr(base, "executed_action") and not hasattr(base, "do_simulation"):
        raise ActuatorError(
            "control_cost='commanded' needs an environment with an attribute executed_action, or "
            "one that passes its actions to gymnasium's MujocoEnv.do_simulation; "
            f"{type(base).__name__} is neither. Use control_cost='realised'."
        )


@contextmanager
def executing(
    bases: Sequence[gymnasium.Env[Any, Any]],
    commands: Sequence[NDArray[Any]],
    realised: Sequence[NDArray[Any]],
) -> Iterator[None]:
    """Lets each base environment simulate its realised action when it is stepped with its command.

    Raises:
        ActuatorError: If an environment changes the action before it simulates it, so that
            nobody can say what the realised action should become.
    """
    plugs = [
        (_Handover if hasattr(base, "executed_action") else _Plug)(base, command, action)
        for base, command, action in zip(bases, commands, realised, strict=True)
    ]
    try:
        for plug in plugs:
            plug.insert()
        yield
    finally:
        for plug in plugs:
            plug.remove()
    for plug in plugs:
        plug.check()


class _Handover:
    """Gives the realised action to an environment that knows what to do with it."""

    def __init__(
        self, base: gymnasium.Env[Any, Any], command: NDArray[Any], realised: NDArray[Any]
    ) -> None:
        plugged: Any = base
        self._base = plugged
        self._realised = realised

    def insert(self) -> None:
        self._base.executed_action = self._realised

    def remove(self) -> None:
        self._base.executed_action = None

    def check(self) -> None:
        """Nothing: the environment says that it simulates the action."""


class _Plug:
    """Stands in for `do_simulation` of one environment."""

    def __init__(
        self, base: gymnasium.Env[Any, Any], command: NDArray[Any], realised: NDArray[Any]
    ) -> None:
        plugged: Any = base
        self._base = plugged
        self._command = command
        self._realised = realised
        self._simulate: Callable[[NDArray[Any], int], None] = plugged.do_simulation
        self._own = vars(base).get("do_simulation")
        self._used = False

    def insert(self) -> None:
        self._base.do_simulation = self._do_simulation

    def remove(self) -> None:
        if self._own is None:
            del self._base.do_simulation
        else:
            self._base.do_simulation = self._own

    def check(self) -> None:
        if not self._used:
            raise ActuatorError(
                f"{type(self._base).__name__} did not call do_simulation in its step, so the "
                "realised action was never executed. Use control_cost='realised'."
            )

    def _do_simulation(self, ctrl: NDArray[Any], n_frames: int) -> None:
        if not np.array_equal(ctrl, self._command):
            raise ActuatorError(
                f"{type(self._base).__name__}, or a wrapper below the noisy actuators, changes the "
                "action before it is simulated. Put the noisy actuators below such wrappers, or "
                "use control_cost='realised'."
            )
        self._used = True
        self._simulate(self._realised, n_frames)
        # Humanoid's control cost reads the simulator's copy.
        self._base.data.ctrl[:] = self._command
