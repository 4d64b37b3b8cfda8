"""What is known of robots at one moment, for one or for a batch: arrays with leading axes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .inspection import RobotDescription
from .robot_task import RobotTask

if TYPE_CHECKING:
    from .terrain import Terrain

Array = NDArray[np.float64]


def total(values: Array) -> Array:
    """Sum over the last axis."""
    summed: Array = np.add.reduce(np.ascontiguousarray(values), axis=-1)
    return summed


def mean(values: Array) -> Array:
    """Mean over the last axis; 0 where it is empty."""
    averaged: Array = total(values) / max(values.shape[-1], 1)
    return averaged


@dataclass(frozen=True, eq=False)
class RobotLayout:
    """Where the numbers of a robot stand, and its figures.

    Attributes:
        robot: what was found in the model that is simulated.
        task: what it does.
        home: joints at home `(joints,)`, rad or m.
        low: lower ends of their ranges; −inf without.
        high: upper ends.
        qpos: places of the joints in `qpos`, `(joints,)`.
        dofs: the same in `qvel`.
        sensors: where the added sensors are in `sensordata`, by name.
        force: largest force of each actuator `(actuators,)`; of a servo without a limit, what it
            gives when it is half its range away from its target.
        commands: names of the commands, in order.
        ranges: from … to of each, `(commands, 2)`, in its unit.
        speed: largest commanded speed, m/s; the scale of errors.
        control_period: between two actions, s.
        terrain: the ground that was made; None for the model's own.
        ground: height of the model's own ground, m.
    """

    robot: RobotDescription
    task: RobotTask
    home: Array
    low: Array
    high: Array
    qpos: NDArray[np.intp]
    dofs: NDArray[np.intp]
    sensors: dict[str, slice]
    force: Array
    commands: tuple[str, ...]
    ranges: Array
    speed: float
    control_period: float
    terrain: Terrain | None = None
    ground: float = 0.0


@dataclass
class Memory:
    """What an episode has to remember; every array has the leading axes of the batch.

    Attributes:
        command: `(…, commands)`.
        action: the last one, `(…, actuators)`.
        action_before: the one before it.
        air_time: how long each foot has been in the air, `(…, feet)`, s.
        landed: how long a foot that has just come down had been in the air, 0 for the others.
        there: how long the robot has been at its goal, `(…)`, s.
        reference: position, velocity and acceleration that the joints should have at the next
            step, `(…, 3 · joints)`; empty where nothing is tracked.
        wanted: positions that they should have now, `(…, joints)`.
        friction: factor on the friction of this episode, `(…)`.
    """

    command: Array
    action: Array
    action_before: Array
    air_time: Array
    landed: Array
    there: Array
    reference: Array = field(default_factory=lambda: np.zeros(0))
    wanted: Array = field(default_factory=lambda: np.zeros(0))
    friction: Array = field(default_factory=lambda: np.ones(()))

    @classmethod
    def fresh(cls, layout: RobotLayout, batch: tuple[int, ...] = ()) -> Memory:
        """At the start of an episode."""
        actuators, feet = len(layout.robot.actuators), len(layout.robot.feet)
        tracked = len(layout.home) if layout.task.task == "track" else 0
        return cls(
            command=np.zeros((*batch, len(layout.commands))),
            action=np.zeros((*batch, actuators)),
            action_before=np.zeros((*batch, actuators)),
            air_time=np.zeros((*batch, feet)),
            landed=np.zeros((*batch, feet)),
            there=np.zeros(batch),
            reference=np.zeros((*batch, 3 * tracked)),
            wanted=np.broadcast_to(layout.home, (*batch, len(layout.home))).copy(),
            friction=np.ones(batch),
        )

    def of(self, robots: NDArray[np.intp]) -> Memory:
        """A copy for some robots of a batch, `(len(robots), …)`."""
        return Memory(**{f.name: getattr(self, f.name)[robots] for f in fields(self)})

    def restart(self, place: int | tuple[()]) -> None:
        """Forget the episode of a robot; its command and its reference are drawn elsewhere."""
        for past in (self.action, self.action_before, self.air_time, self.landed, self.there):
            past[place] = 0.0
        self.friction[place] = 1.0

    def act(self, action: Array) -> None:
        """Take note of an action."""
        self.action_before = self.action
        self.action = action

    def tread(self, contacts: Array, period: float) -> None:
        """Take note of which feet are on the ground, `(…, feet)`, after a step of `period` s."""
        on = contacts > 0
        air = self.air_time + period
        self.landed = np.where(on & (self.air_time > 0), air, 0.0)
        self.air_time = np.where(on, 0.0, air)


class RobotState:
    """One moment of one robot, or of a batch; what reward terms and observations are made of.

    Every array has the leading axes of `qpos`, written … below: none for one robot.

    Args:
        layout: of the robot.
        memory: of the episode.
        qpos: `(…, nq)`.
        qvel: `(…, nv)`.
        sensordata: `(…, nsensordata)`.
        actuator_force: `(…, nu)`.
        actuator_velocity: `(…, nu)`.
    """

    def __init__(
        self,
        layout: RobotLayout,
        memory: Memory,
        qpos: Array,
        qvel: Array,
        sensordata: Array,
        actuator_force: Array,
        actuator_velocity: Array,
    ) -> None:
        self.layout, self.memory, self.task = layout, memory, layout.task
        self.qpos, self.qvel, self.sensordata = qpos, qvel, sensordata
        self.actuator_force, self.actuator_velocity = actuator_force, actuator_velocity

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading axes."""
        return self.qpos.shape[:-1]

    def sensor(self, name: str, width: int) -> Array:
        """Readings of an added sensor, `(…, width)`; zeros where the robot has none."""
        place = self.layout.sensors.get(name)
        if place is None:
            return np.zeros((*self.batch, width))
        return self.sensordata[..., place]

    # -- joints ------------------------------------------------------------------------------------

    @cached_property
    def joint_angles(self) -> Array:
        """`(…, joints)`, rad or m."""
        return self.qpos[..., self.layout.qpos]

    @cached_property
    def joint_positions(self) -> Array:
        """Relative to home, `(…, joints)`, rad or m."""
        return self.joint_angles - self.layout.home

    @cached_property
    def joint_velocities(self) -> Array:
        """`(…, joints)`, rad/s or m/s."""
        return self.qvel[..., self.layout.dofs]

    # -- base --------------------------------------------------------------------------------------

    @cached_property
    def base_position(self) -> Array:
        """World frame, `(…, 3)`, m."""
        return self.sensor("base_position", 3)

    @cached_property
    def linear_velocity(self) -> Array:
        """Velocity of the base in its own frame, `(…, 3)`, m/s."""
        return self.sensor("linear_velocity", 3)

    @cached_property
    def angular_velocity(self) -> Array:
        """Angular velocity of the base in its own frame, `(…, 3)`, rad/s."""
        return self.sensor("angular_velocity", 3)

    @cached_property
    def _quaternion(self) -> tuple[Array, Array, Array, Array]:
        place = self.layout.sensors.get("base_orientation")
        if place is None:
            one = np.ones(self.batch)
            return one, 0 * one, 0 * one, 0 * one
        q = self.sensordata[..., place]
        return q[..., 0], q[..., 1], q[..., 2], q[..., 3]

    @cached_property
    def gravity(self) -> Array:
        """Direction of gravity in the base's frame, `(…, 3)`; (0, 0, −1) when it is level."""
        w, x, y, z = self._quaternion
        down = np.empty((*self.batch, 3))
        down[..., 0] = 2 * (w * y - x * z)
        down[..., 1] = -2 * (y * z + w * x)
        down[..., 2] = 2 * (x * x + y * y) - 1
        return down

    @cached_property
    def heading(self) -> Array:
        """Rotation of the base about the vertical, `(…)`, rad."""
        w, x, y, z = self._quaternion
        return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))

    @cached_property
    def height(self) -> Array:
        """Height of the base above the ground under it, `(…)`, m."""
        position = self.base_position
        return position[..., 2] - self.ground_at(position[..., 0], position[..., 1])

    def ground_at(self, x: Array, y: Array) -> Array:
        """Height of the ground, m, at places of any one shape, m."""
        terrain = self.layout.terrain
        if terrain is None:
            return np.full(np.shape(x), self.layout.ground)
        return terrain.height(x, y)

    def rotate_to_base(self, vector: Array) -> Array:
        """Vectors of the world, `(…, 3)`, in the base's frame."""
        w, x, y, z = self._quaternion
        a, b, c = np.moveaxis(vector, -1, 0)
        return np.stack(
            [
                (1 - 2 * (y * y + z * z)) * a + 2 * (x * y + w * z) * b + 2 * (x * z - w * y) * c,
                2 * (x * y - w * z) * a + (1 - 2 * (x * x + z * z)) * b + 2 * (y * z + w * x) * c,
                2 * (x * z + w * y) * a + 2 * (y * z - w * x) * b + (1 - 2 * (x * x + y * y)) * c,
            ],
            -1,
        )

    # -- feet --------------------------------------------------------------------------------------

    @cached_property
    def contacts(self) -> Array:
        """1 for each foot that touches something, `(…, feet)`."""
        return (self.sensor("contacts", len(self.layout.robot.feet)) > 0).astype(np.float64)

    @cached_property
    def feet_velocity(self) -> Array:
        """World frame, `(…, feet, 3)`, m/s."""
        feet = len(self.layout.robot.feet)
        return self.sensor("feet_velocity", 3 * feet).reshape(*self.batch, feet, 3)

    @cached_property
    def feet_height(self) -> Array:
        """Heights of the origins of the feet's bodies above the ground, `(…, feet)`, m."""
        feet = len(self.layout.robot.feet)
        at = self.sensor("feet_position", 3 * feet).reshape(*self.batch, feet, 3)
        return at[..., 2] - self.ground_at(at[..., 0], at[..., 1])

    # -- goal --------------------------------------------------------------------------------------

    @cached_property
    def tip(self) -> Array:
        """The end effector (of a robot that flies, the base), world frame, `(…, 3)`, m."""
        return self.sensor("tip", 3)

    def command(self, name: str) -> Array:
        """A command by name, `(…)`; zero where there is none of that name."""
        if name not in self.layout.commands:
            return np.zeros(self.batch)
        return self.memory.command[..., self.layout.commands.index(name)]

    @cached_property
    def tip_error(self) -> Array:
        """From the end effector to the commanded point, `(…, 3)`, m, in the base's frame."""
        goal = np.stack([self.command(axis) for axis in ("x", "y", "z")], -1)
        return self.rotate_to_base(goal - self.tip)

    @cached_property
    def distance(self) -> Array:
        """From the end effector to the commanded point, `(…)`, m."""
        return np.sqrt(total(self.tip_error**2))

    @cached_property
    def tracking_error(self) -> Array:
        """Root mean square over the joints of reference minus position, `(…)`, rad or m."""
        return np.sqrt(mean((self.memory.wanted - self.joint_angles) ** 2))

    @cached_property
    def fallen(self) -> NDArray[np.bool_]:
        """Whether the base is on its side or too low, or has flown off, `(…)`."""
        ends, robot = self.task.ends, self.layout.robot
        fallen = np.zeros(self.batch, bool)
        if robot.base == "fixed":
            return fallen
        fallen |= -self.gravity[..., 2] < np.cos(ends.tilt)
        if robot.legged:
            fallen |= self.height < ends.height * robot.home_height
        if self.task.task == "hover":
            fallen |= (self.distance > ends.distance) | (self.height < 0.05)
        return fallen

    @cached_property
    def succeeded(self) -> NDArray[np.bool_]:
        """Whether the robot has been at its goal for long enough, `(…)`."""
        return self.memory.there >= max(self.task.ends.hold, self.layout.control_period) - 1e-9
