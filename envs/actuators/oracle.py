"""A test's window on what hidden actuators did; whoever has no oracle sees nothing."""

from __future__ import annotations

from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from ...errors import NoiseInaccessibleError


class ActuatorOracle:
    """Records commanded and realised actions of the wrapper that it is given to.

    Make one outside, pass it in with `oracle=`, and keep it to yourself: the wrapper has no
    attribute that leads to it. For tests and figures; no learner may have one.

    Attributes:
        commands: The actions as given to `step`, one array a step, of the action space's shape.
        realised: What the actuators did, one array a step.
        active: For vectorised environments, which of them took a step, shape (num_envs,), one array
            a step; the others were being reset, and their action was ignored.
    """

    def __init__(self) -> None:
        """Makes an oracle that has seen nothing."""
        self.commands: list[NDArray[Any]] = []
        self.realised: list[NDArray[Any]] = []
        self.active: list[NDArray[np.bool_]] = []

    @property
    def perturbations(self) -> list[NDArray[Any]]:
        """Realised minus commanded action, one array a step."""
        return [v - u for u, v in zip(self.commands, self.realised, strict=True)]

    def clear(self) -> None:
        """Forgets all steps."""
        self.commands.clear()
        self.realised.clear()
        self.active.clear()

    def record(
        self, command: NDArray[Any], realised: NDArray[Any], active: NDArray[np.bool_]
    ) -> None:
        """Notes one step; called by the wrapper."""
        self.commands.append(command.copy())
        self.realised.append(realised.copy())
        self.active.append(active.copy())

    def __reduce_ex__(self, protocol: object) -> Never:
        """Refuses to be copied: a copy would see nothing, and not say so."""
        raise NoiseInaccessibleError(
            "An ActuatorOracle cannot be pickled or copied: the copy would record nothing. Keep "
            "the environment in this process (SyncVectorEnv, DummyVecEnv) to look at it."
        )
