"""Joint trajectories to follow, by feed-forward forces on top of servos, for any arm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..dynamics import InverseDynamics
from ..trajectories import Trajectory, point_to_point, rhythmic, synergies
from .robot_state import Memory, RobotState
from .task_model import TaskModel

if TYPE_CHECKING:
    from .robot_episodes import Simulation

Array = NDArray[np.float64]

_FREQUENCY = 3.0
"""Natural frequency of the PD control that stands in where motors have no servo, Hz."""


class ReferenceFollower:
    """References of episodes, and the servos that follow them.

    A position servo gives ``stiffness (ctrl − length) − damping velocity``. Its command is
    ``reference + (feed-forward + damping · reference velocity) / stiffness``, so that its force is
    feed-forward + stiffness · position error + damping · velocity error. Motors get the same law
    with gains from the inertia of their joints at home: natural frequency 3 Hz, critically damped.

    Args:
        built: the model of a task that has `limits`.
        batch: the leading axes of what follows: none, or the number of robots.
    """

    def __init__(self, built: TaskModel, batch: tuple[int, ...] = ()) -> None:
        assert built.limits is not None
        model, self._layout, self._limits = built.model, built.layout, built.limits
        robot, task = self._layout.robot, self._layout.task.track
        self._mixing = synergies(len(robot.joints), task.synergy)
        self._motion = task.motion
        self._limits = self._limits.scaled(task.speed)
        place = {int(j.dof): n for n, j in enumerate(robot.joints)}
        dofs = [int(model.jnt_dofadr[a.joint]) for a in robot.actuators]
        self.joint = np.array([place[dof] for dof in dofs], dtype=np.intp)
        self.gear = np.where(model.actuator_gear[:, 0] == 0, 1.0, model.actuator_gear[:, 0])
        self.force = self._layout.force
        self._servo = np.array([a.kind == "position" for a in robot.actuators])
        self.gain = np.where(model.actuator_gainprm[:, 0] == 0, 1.0, model.actuator_gainprm[:, 0])
        inertia = _inertias(model, robot.home, dofs) / self.gear**2
        omega = 2 * np.pi * _FREQUENCY
        self.stiffness = np.where(self._servo, -model.actuator_biasprm[:, 1], inertia * omega**2)
        self.damping = np.where(self._servo, -model.actuator_biasprm[:, 2], 2 * inertia * omega)
        self._model = model
        self._inverse: InverseDynamics | None = None
        self._skip = 1
        self._batch = batch
        # Which robot each row of the leading axes is; the episodes of all are equally long.
        self._robots = tuple(np.arange(size) for size in batch)
        self._fine: Trajectory | None = None
        self._given: tuple[Array, Array] = (np.zeros(model.nu), np.zeros(model.nu))

    @property
    def fine(self) -> Trajectory:
        """The references of the episodes at the rate of the physics; arrays `(…, steps, joints)`.

        Raises:
            ConfigError: there is none before the first `reset`.
        """
        if self._fine is None:
            raise ConfigError("there is no reference before reset(); call it first")
        return self._fine

    def exact_torque(self, memory: Memory) -> Array:
        """Exact force at each actuator's joint for the reference one step ahead, N·m or N."""
        if self._inverse is None:
            joints = self._layout
            self._inverse = InverseDynamics(self._model, joints.dofs, joints.qpos)
        return self._inverse(*np.split(memory.reference, 3, -1))[..., self.joint]

    def exact_action(self, memory: Memory) -> Array:
        """The action of exact inverse dynamics for the step to come: the bound for any model."""
        return np.clip(self.exact_torque(memory) / (self.force * self.gear), -1.0, 1.0)

    def start(self, place: int | tuple[()]) -> tuple[Array, Array]:
        """Where a robot's joints are at first and how fast, `(joints,)` each."""
        return self.fine.position[place][0], self.fine.velocity[place][0]

    def begin(
        self,
        place: int | tuple[()],
        generator: np.random.Generator,
        steps: int,
        skip: int,
        memory: Memory,
    ) -> None:
        """Draw the reference of a robot's episode of some control steps."""
        timestep = self._layout.robot.timestep
        steady = self._motion == "rhythmic"
        if self._motion == "mixed":
            steady = bool(generator.integers(2))
        draw = rhythmic if steady else point_to_point
        self._skip = skip
        drawn = draw(
            generator,
            self._limits,
            duration=((steps + 2) * skip) * timestep,
            rate=1 / timestep,
            mixing=self._mixing,
        )
        if self._fine is None:
            space = (*self._batch, *drawn.position.shape)
            self._fine = Trajectory(drawn.time, np.zeros(space), np.zeros(space), np.zeros(space))
        fine = self._fine
        fine.position[place] = drawn.position
        fine.velocity[place] = drawn.velocity
        fine.acceleration[place] = drawn.acceleration
        memory.wanted[place] = drawn.position[0]
        ahead = [part[skip] for part in (drawn.position, drawn.velocity, drawn.acceleration)]
        memory.reference[place] = np.concatenate(ahead)

    def show(self, memory: Memory, step: NDArray[np.int64]) -> None:
        """Put the reference at control steps `(…)`, and the ones to come, into the memory."""
        fine = self.fine
        now, ahead = (*self._robots, step * self._skip), (*self._robots, (step + 1) * self._skip)
        memory.wanted = fine.position[now].copy()  # written to when an episode begins
        memory.reference = np.concatenate(
            [fine.position[ahead], fine.velocity[ahead], fine.acceleration[ahead]], -1
        )

    def simulate(self, simulation: Simulation, action: Array, step: NDArray[np.int64]) -> None:
        """A control period with feed-forward forces of `action` times the largest."""
        fine, layout = self.fine, self._layout
        feedforward = action * self.force
        feedback = np.zeros_like(feedforward)
        for substep in range(self._skip):
            now = (*self._robots, step * self._skip + substep)
            target = self.gear * fine.position[now][..., self.joint]
            rate = self.gear * fine.velocity[now][..., self.joint]
            length = self.gear * simulation.qpos[..., layout.qpos][..., self.joint]
            velocity = self.gear * simulation.qvel[..., layout.dofs][..., self.joint]
            correction = self.stiffness * (target - length) + self.damping * (rate - velocity)
            servo = target + (feedforward + self.damping * rate) / self.stiffness
            motor = (feedforward + correction) / self.gain
            simulation.step(np.where(self._servo, servo, motor), 1)
            feedback += correction / self._skip
        self._given = feedforward * self.gear, feedback * self.gear

    def information(self, memory: Memory, state: RobotState) -> dict[str, Array]:
        """What `nprobot/ArmTrack-v0` tells of a step, in the same units."""
        feedforward, feedback = self._given
        return {
            "tracking_error": state.tracking_error,
            "joint_error": memory.wanted - state.joint_angles,
            "feedforward_torque": feedforward,
            "feedback_torque": feedback,
        }


def _inertias(model: mujoco.MjModel, home: Array, dofs: list[int]) -> Array:
    """Inertia that each joint feels at home, kg·m² or kg."""
    data = mujoco.MjData(model)
    data.qpos[:] = home
    mujoco.mj_forward(model, data)
    found = np.empty(len(dofs))
    unit, column = np.zeros(model.nv), np.zeros(model.nv)
    for number, dof in enumerate(dofs):
        unit[:] = 0
        unit[dof] = 1
        mujoco.mj_mulM(model, data, column, unit)
        found[number] = column[dof]
    return found
