"""Episodes of a task: where they start, what is asked, what a step is worth, when they end.

Written once over the leading axes of a `Simulation`: none for one robot (`RobotEnv`), one for many
(`RobotVectorEnv`). Only what is rare (starts, commands, ends) goes from robot to robot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ActuatorError, ConfigError
from .domain_randomisation import Randomiser
from .reference_tracking import ReferenceFollower
from .reward_terms import find_term, weighted
from .robot_sensing import noise_of, observe, part_sizes
from .robot_state import Memory, RobotState
from .task_model import TaskModel

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_FIRST_SHARE = 0.3
"""Share of the commands' ranges that a curriculum begins with."""
_MASTERED, _LOST = 0.75, 0.5
"""Shares of the best tracking reward above which a curriculum moves on, below which back."""
_FASTEST = 1000.0
"""Speed that no joint has, rad/s or m/s: the simulation has broken down."""
_STREAMS = ("start", "command", "robot", "sensors", "pushes")


class Simulation(Protocol):
    """The physics of one robot or of many; every array has the leading axes of the batch.

    Attributes:
        batch: the leading axes: none, or the number of robots.
        qpos: `(…, nq)`; so are the others. They may be written to between two steps.
        qvel: `(…, nv)`.
        ctrl: `(…, nu)`.
        mocap_pos: `(…, nmocap, 3)`, m.
        sensordata: `(…, nsensordata)`, as MuJoCo leaves it after a step.
        actuator_force: `(…, nu)`.
        actuator_velocity: `(…, nu)`.
    """

    batch: tuple[int, ...]
    qpos: Array
    qvel: Array
    ctrl: Array
    mocap_pos: Array
    sensordata: Array
    actuator_force: Array
    actuator_velocity: Array

    def step(self, ctrl: Array, steps: int) -> None:
        """Simulate some physics steps under commands `(…, nu)`."""

    def broken_down(self) -> Flags:
        """Where MuJoCo has gone back to the start, because numbers became impossible, `(…)`."""

    def starting(self, number: int) -> AbstractContextManager[tuple[mujoco.MjModel, mujoco.MjData]]:
        """The model and the reset data of a robot, to be placed; kept on leaving."""


@dataclass(frozen=True)
class StepOutcome:
    """What a step has brought; every array has the leading axes of the batch.

    Attributes:
        reward: `(…)`.
        terminated: `(…)`.
        truncated: `(…)`.
        info: of every step, by name, `(…, n)`.
        ends: what is told at the end of an episode, by the number of the robot.
    """

    reward: Array
    terminated: Flags
    truncated: Flags
    info: dict[str, Array]
    ends: dict[int, dict[str, Any]]


class RobotEpisodes:
    """The episodes of one robot, or of a batch.

    Args:
        built: the model of the task.
        simulation: of the robots.
        skip: physics steps between two actions.
        randomisers: one a robot; none where robots are as their model says.

    Attributes:
        memory: of the episodes.
        terms: of the reward, with their weights.
        progress: how far each robot's curricula have come, 0 to 1, by name.
        unstable: whether each robot's simulation has ever broken down, `(…)`.
        count: steps of each episode until now, `(…)`.
        length: steps of an episode at the most.
        size: numbers of an observation.
        privileged_size: of those, at the end, those that an actor may not see.

    Raises:
        ConfigError: the task has no observations.
        UnknownNameError: there is no part or reward term of a name.
    """

    def __init__(
        self,
        built: TaskModel,
        simulation: Simulation,
        skip: int,
        randomisers: Sequence[Randomiser] = (),
    ) -> None:
        self._built, self.layout = built, built.layout
        self.task = task = built.layout.task
        self._simulation, self._skip, self._randomisers = simulation, skip, randomisers
        self._batch = batch = simulation.batch
        self._robots = batch[0] if batch else 1
        self._period = float(built.model.opt.timestep) * skip
        self.length = max(round(task.duration / self._period), 1)
        self.terms = {n: (w, find_term(n)) for n, w in task.reward.items() if w}
        self._base = _base_addresses(built)
        self._pushes = bool(
            randomisers and self.layout.robot.base == "free" and task.randomise.push
        )
        self.memory = Memory.fresh(self.layout, batch)
        self._drawn = self.memory.command.copy()
        self.unstable: Flags = np.zeros(batch, bool)
        self.count = np.zeros(batch, np.int64)
        self._sums = {name: np.zeros(batch) for name in self.terms}
        self._generators = [_generators(0) for _ in range(self._robots)]
        curricula = {
            **({"command": _FIRST_SHARE} if task.command.grow else {}),
            **({"terrain": 0.0} if self._climbs else {}),
        }
        self.progress = [dict(curricula) for _ in range(self._robots)]
        self.follower = ReferenceFollower(built, batch) if built.limits is not None else None
        for number in range(self._robots):
            with simulation.starting(number) as (_, data):
                data.qpos[:] = self.layout.robot.home
            if self.follower is not None:
                first = np.random.default_rng(0)
                self.follower.begin(self._place(number), first, self.length, skip, self.memory)
        state = self.state()
        self.part_sizes = part_sizes(state, task.observations)
        self.privileged_size = sum(part_sizes(state, task.privileged).values())
        seen = sum(self.part_sizes.values())
        self.size = task.history * seen + self.privileged_size
        if self.size == 0:
            raise ConfigError("the task has no observations; name parts in `observations`")
        self._noise = task.randomise.sensor_noise * noise_of(self.part_sizes)
        self._history = np.zeros((*batch, task.history, seen))

    def checked(self, actions: ArrayLike) -> Array:
        """Actions `(…, actuators)`, clipped to ±1.

        Raises:
            ActuatorError: they have another shape, or are not finite.
        """
        asked = np.asarray(actions, dtype=np.float64)
        actuators = len(self.layout.robot.actuators)
        if asked.shape != (*self._batch, actuators) or not np.isfinite(asked).all():
            each = "" if not self._batch else f" for each of {self._batch[0]} robots"
            raise ActuatorError(
                f"An action is {actuators} finite numbers, one an actuator{each}; got shape "
                f"{asked.shape}{'' if np.isfinite(asked).all() else ' with NaN or infinity'}."
            )
        return np.clip(asked, -1.0, 1.0)

    def begin(
        self, numbers: Sequence[int], seeds: Sequence[int], command: ArrayLike | None = None
    ) -> Array:
        """Start episodes of some robots.

        Args:
            numbers: of the robots.
            seeds: one an episode; all that is random in it follows from it.
            command: what is asked; None: drawn.

        Returns:
            The first observations, `(len(numbers), n)`; of one robot `(n,)`.
        """
        for number, seed in zip(numbers, seeds, strict=True):
            self._begin(number, seed, command)
        where = np.asarray(numbers) if self._batch else ()
        return self._observe(self.state(where), numbers, where, first=True)

    def step(self, asked: Array, executed: Array | None = None) -> tuple[Array, StepOutcome]:
        """Simulate one control period.

        Args:
            asked: actions from `checked`.
            executed: what actuators made of them; None where they do as they are told.

        Returns:
            The observations `(…, n)`, of an episode that ends its last; and the rest.
        """
        done = asked if executed is None else executed
        memory, simulation, task = self.memory, self._simulation, self.task
        memory.act(asked)
        if self.follower is not None:
            self.follower.simulate(simulation, done, self.count)
        else:
            simulation.step(self._built.actions(done), self._skip)
        if done is not asked:
            simulation.ctrl[...] = self._built.actions(asked)  # what was done stays hidden
        self.count += 1
        if self.follower is not None:
            self.follower.show(memory, self.count)
        if self._pushes:
            for number in map(int, np.flatnonzero(self._due(task.randomise.push_every))):
                velocity = simulation.qvel[self._place(number)]
                generator = self._generators[number]["pushes"]
                self._randomisers[number].push(velocity, self._base[1], generator)
        state = self.state()
        memory.tread(state.contacts, self._period)
        if task.task in ("reach", "hover"):
            near = state.distance <= task.ends.tolerance
            memory.there = np.where(near, memory.there + self._period, 0.0)
        terms = weighted(state, self.terms)
        terminated = np.zeros(self._batch, bool)
        if "fall" in task.ends.on:
            terminated |= state.fallen
        if "success" in task.ends.on:
            terminated |= state.succeeded
        fast = np.abs(simulation.qvel).max(-1, initial=0.0) > _FASTEST
        broken = fast | simulation.broken_down()
        if broken.any():
            # What the broken state is worth says nothing.
            self.unstable |= broken
            terminated |= broken
            terms = {name: np.where(broken, 0.0, value) for name, value in terms.items()}
        reward = np.zeros(self._batch)
        for name, value in terms.items():
            self._sums[name] += value
            reward = reward + value
        truncated = self.count >= self.length
        info: dict[str, Array] = {}
        if self.follower is not None:
            info = self.follower.information(memory, state)
        over = terminated | truncated
        ends = {number: self._end(number, state) for number in map(int, np.flatnonzero(over))}
        if task.command.every is not None:
            for number in map(int, np.flatnonzero(self._due(task.command.every) & ~over)):
                self._draw_command(number)
                self._show_goal(number, simulation.mocap_pos[self._place(number)])
        reward = np.maximum(reward, task.floor)
        everyone = range(self._robots)
        observations = self._observe(state, everyone, ... if self._batch else ())
        return observations, StepOutcome(reward, terminated, np.asarray(truncated), info, ends)

    def state(self, where: Any = None) -> RobotState:  # noqa: ANN401 - any index of numpy
        """The present moment, of all robots or of some."""
        s, memory = self._simulation, self.memory
        arrays = (s.qpos, s.qvel, s.sensordata, s.actuator_force, s.actuator_velocity)
        if where is not None and self._batch:
            memory, arrays = memory.of(where), tuple(array[where] for array in arrays)
        return RobotState(self.layout, memory, *arrays)

    def restore_progress(self, number: int, progress: Mapping[str, float]) -> None:
        """Let a robot's curricula continue from there."""
        own = self.progress[number]
        own |= {name: float(progress.get(name, at)) for name, at in own.items()}

    # -- parts of it -------------------------------------------------------------------------------

    def _place(self, number: int) -> Any:  # noqa: ANN401 - any index of numpy
        """Where a robot stands in arrays with leading axes."""
        return number if self._batch else ()

    def _observe(
        self,
        state: RobotState,
        numbers: Sequence[int],
        where: Any,  # noqa: ANN401 - any index of numpy
        first: bool = False,
    ) -> Array:
        seen = observe(state, self.task.observations)
        if self._randomisers:
            sensors = [self._generators[number]["sensors"] for number in numbers]
            drawn = np.array([generator.standard_normal(seen.shape[-1]) for generator in sensors])
            seen = seen + self._noise * drawn.reshape(seen.shape)
        if self.task.history > 1:
            history = np.repeat(seen[..., None, :], self.task.history, -2)
            if not first:
                history[..., 1:, :] = self._history[where][..., :-1, :]
            self._history[where] = history
            seen = history.reshape(*seen.shape[:-1], -1)
        if self.privileged_size:
            seen = np.concatenate([seen, observe(state, self.task.privileged)], -1)
        return seen

    def _due(self, every: float) -> Flags:
        """Where a multiple of `every` seconds has just passed, `(…)`."""
        return np.asarray(self.count % max(round(every / self._period), 1) == 0)

    def _begin(self, number: int, seed: int, command: ArrayLike | None) -> None:
        place = self._place(number)
        self._generators[number] = _generators(seed)
        self.memory.restart(place)
        if self._randomisers:
            friction = self._randomisers[number].draw(self._generators[number]["robot"])
            self.memory.friction[place] = friction
        self.count[place] = 0
        for total in self._sums.values():
            total[place] = 0.0
        with self._simulation.starting(number) as (model, data):
            self._put(number, model, data)
            self._draw_command(number)
            if command is not None:
                self.memory.command[place] = command
            self._show_goal(number, data.mocap_pos)

    def _put(self, number: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Put a robot where an episode starts."""
        generator = self._generators[number]["start"]
        start, layout = self.task.start, self.layout
        data.qpos[:] = layout.robot.home
        data.qvel[:] = 0
        count = len(layout.home)
        noise = generator.uniform(-start.joint_noise, start.joint_noise, count)
        speed = generator.uniform(-start.velocity_noise, start.velocity_noise, count)
        tilt = generator.uniform(-start.tilt_noise, start.tilt_noise, 2)
        drift = generator.uniform(-start.speed_noise, start.speed_noise, 3)
        data.qpos[layout.qpos] = np.clip(layout.home + noise, layout.low, layout.high)
        data.qvel[layout.dofs] = speed
        position, velocity = self._base
        if position >= 0:
            turned = np.empty(4)
            axis = np.array([*tilt, 0.0])
            angle = float(np.linalg.norm(axis))
            if angle > 0:
                mujoco.mju_axisAngle2Quat(turned, axis / angle, angle)
                upright = data.qpos[position + 3 : position + 7].copy()
                mujoco.mju_mulQuat(data.qpos[position + 3 : position + 7], turned, upright)
            data.qvel[velocity : velocity + 3] = drift
            if layout.terrain is not None:
                level, kind = self._level(number), int(generator.integers(1 << 16))
                patch = layout.terrain.start(level, kind)
                data.qpos[position : position + 2] = patch
                data.qpos[position + 2] += float(layout.terrain.height(*patch)) + 0.01
        self._rest(model, data)
        if self.follower is not None:
            place = self._place(number)
            self.follower.begin(place, generator, self.length, self._skip, self.memory)
            angles, velocities = self.follower.start(place)
            data.qpos[layout.qpos] = angles + noise
            data.qvel[layout.dofs] = velocities

    def _rest(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Let actuators that follow their command have done so."""
        centre = self._built.actions.centre
        data.ctrl[:] = centre
        filters = (mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT)
        for index in range(model.nu):
            if int(model.actuator_dyntype[index]) in map(int, filters):
                data.act[model.actuator_actadr[index]] = centre[index]

    def _draw_command(self, number: int) -> None:
        """Draw what is asked of a robot, unless somebody else steers it."""
        place = self._place(number)
        command = self.memory.command
        if self.count[place] and not np.array_equal(command[place], self._drawn[place]):
            return
        generator, options = self._generators[number]["command"], self.task.command
        ranges = self.layout.ranges
        drawn = generator.uniform(ranges[:, 0], ranges[:, 1])
        goal = int(generator.integers(max(len(self._built.goals), 1)))
        zero = generator.random() < options.zero
        if self.task.task == "reach" and not options.ranges:
            drawn = self._built.goals[goal].copy()
        if self.task.task == "velocity":
            drawn = drawn * self.progress[number].get("command", 1.0)
            if zero:
                drawn = np.zeros_like(drawn)
        command[place] = self._drawn[place] = drawn

    def _show_goal(self, number: int, marks: Array) -> None:
        if self._built.target >= 0:
            marks[self._built.target] = self.memory.command[self._place(number)][:3]

    # -- curricula ---------------------------------------------------------------------------------

    @property
    def _climbs(self) -> bool:
        return self.layout.terrain is not None and self.task.terrain.curriculum

    def _level(self, number: int) -> int:
        """Which patches of the ground come next."""
        assert self.layout.terrain is not None
        hardest = self.layout.terrain.levels - 1
        return round(self.progress[number].get("terrain", 1.0) * hardest)

    def _end(self, number: int, state: RobotState) -> dict[str, Any]:
        """What is told at the end of an episode; curricula take note of it."""
        place, progress = self._place(number), self.progress[number]
        steps = int(self.count[place])
        means = {name: float(total[place] / steps) for name, total in self._sums.items()}
        succeeded = (
            bool(state.succeeded[place])
            if self.task.task in ("reach", "hover")
            else (steps >= self.length and not bool(state.fallen[place]))
        )
        weight = self.task.reward.get("velocity", 0.0)
        share = means.get("velocity", 0.0) / weight if weight > 0 else float(succeeded)
        share *= steps / self.length
        for name, step in (("command", 0.05), ("terrain", 1 / max(self.task.terrain.levels, 2))):
            if name in progress:
                change = step if share > _MASTERED else -step if share < _LOST else 0.0
                lowest = _FIRST_SHARE if name == "command" else 0.0
                progress[name] = float(np.clip(progress[name] + change, lowest, 1.0))
        told = {**means, **{f"at_{name}": at for name, at in progress.items()}}
        if self.unstable[place]:
            told["unstable"] = 1.0
        return {"reward_terms": told, "is_success": succeeded}


def _generators(seed: int) -> dict[str, np.random.Generator]:
    children = np.random.SeedSequence(seed).spawn(len(_STREAMS))
    return {
        name: np.random.default_rng(child) for name, child in zip(_STREAMS, children, strict=True)
    }


def _base_addresses(built: TaskModel) -> tuple[int, int]:
    """Places of a free base in `qpos` and `qvel`; −1 without one."""
    robot, model = built.layout.robot, built.model
    if robot.base != "free":
        return -1, -1
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, robot.base_body)
    joint = int(model.body_jntadr[body])
    return int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
