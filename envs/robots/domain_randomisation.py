"""A robot that differs from its model, anew in each episode: mass, friction, gains, pushes."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import NDArray

from ..actuators.actuator_model import ActuatorModel
from ..actuators.actuator_noise import EpisodeBias, WhiteNoise
from ..actuators.command_timing import RandomDelay
from ..actuators.mechanics import Lag
from .robot_state import RobotLayout
from .robot_task import RandomiseOptions

Array = NDArray[np.float64]

_FIELDS = (
    *("body_mass", "body_inertia", "body_ipos", "geom_friction", "actuator_gainprm"),
    *("actuator_biasprm", "dof_damping", "dof_frictionloss", "body_subtreemass"),
    *("dof_invweight0", "body_invweight0", "dof_M0"),
)
_LAG, _NOISE, _BIAS, _LATE = 0.04, 0.02, 0.02, 0.04


def randomised_actuators(layout: RobotLayout) -> tuple[ActuatorModel, ...]:
    """The actuators of a randomised robot: late by up to 40 ms, slow, noisy, a little off.

    Lateness is of whole control steps and changes from step to step, between none and 40 ms; the
    zero of each actuator is another in each episode.
    """
    late = round(_LATE / layout.control_period)
    return (
        RandomDelay(minimum=0, maximum=late),
        Lag(_LAG),
        EpisodeBias(_BIAS),
        WhiteNoise(_NOISE),
    )


class Randomiser:
    """Changes an environment's own copy of a model before each episode.

    Args:
        shared: the model that all environments share; it stays as it is.
        layout: of the robot.
        options: how much.

    Attributes:
        model: the copy.
    """

    def __init__(
        self, shared: mujoco.MjModel, layout: RobotLayout, options: RandomiseOptions
    ) -> None:
        self.model = copy.copy(shared)
        self._shared, self._options = shared, options
        self._scratch = mujoco.MjData(self.model)
        self._base = mujoco.mj_name2id(shared, mujoco.mjtObj.mjOBJ_BODY, layout.robot.base_body)
        kinds = [a.kind for a in layout.robot.actuators]
        # A servo's damping and stiffness change together with its gain; a motor has no bias.
        self._servos = np.array([kind in ("position", "velocity") for kind in kinds])

    def draw(self, generator: np.random.Generator) -> float:
        """Make the robot of the next episode; returns the factor on its friction.

        Args:
            generator: of this episode alone.
        """
        model, shared, options = self.model, self._shared, self._options
        for field in _FIELDS:
            getattr(model, field)[:] = getattr(shared, field)
        mass = generator.uniform(*options.mass, model.nbody)
        model.body_mass[:] *= mass
        model.body_inertia[:] *= mass[:, None]
        shift = options.centre_of_mass
        model.body_ipos[self._base] += generator.uniform(-shift, shift, 3)
        friction = float(generator.uniform(*options.friction))
        model.geom_friction[:, 0] *= friction
        gains = generator.uniform(*options.gains, model.nu)
        model.actuator_gainprm[:, 0] *= gains
        model.actuator_biasprm[self._servos] *= gains[self._servos, None]
        damping = generator.uniform(*options.damping, model.nv)
        model.dof_damping[:] *= damping
        model.dof_frictionloss[:] *= damping
        mujoco.mj_setConst(model, self._scratch)
        return friction

    def push(self, qvel: Array, base: int, generator: np.random.Generator) -> None:
        """Change the velocity of a free base along the ground by a kick.

        Args:
            qvel: of the simulation, `(nv,)`; changed in place.
            base: place of the base's first degree of freedom in it.
            generator: of this episode.
        """
        most = self._options.push
        qvel[base : base + 2] += generator.uniform(-most, most, 2)
