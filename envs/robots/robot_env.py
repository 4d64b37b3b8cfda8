"""`nprobot/Robot-v0`: a task for any robot that MuJoCo can load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import mujoco
import numpy as np
from gymnasium import spaces, utils
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import ArrayLike, NDArray

from ...errors import ActuatorError, ConfigError, UnknownNameError
from ..actuators.actuator_model import ActuatorModel
from .domain_randomisation import Randomiser, randomised_actuators
from .inspection import inspect_robot
from .model_loading import RobotFile, model_file
from .reference_tracking import ReferenceFollower
from .reward_terms import find_term, weighted
from .robot_sensing import noise_of, observe, part_sizes
from .robot_state import Memory, RobotState
from .robot_task import RobotTask, TaskLike, load_task, option_names
from .task_model import task_model

Array = NDArray[np.float64]

_FIRST_SHARE = 0.3
"""Share of the commands' ranges that a curriculum begins with."""
_MASTERED, _LOST = 0.75, 0.5
"""Shares of the best tracking reward above which a curriculum moves on, below which back."""
_FASTEST = 1000.0
"""Speed that no joint has, rad/s or m/s: the simulation has broken down."""
_BREAKDOWNS = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
_STREAMS = ("start", "command", "robot", "sensors", "pushes")
_MUJOCO_ARGUMENTS = (
    *("render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config"),
    *("max_geom", "visual_options"),
)


class RobotEnv(MujocoEnv, utils.EzPickle):
    """A task (velocity, stand, reach, track, hover) for any robot that MuJoCo can load.

    ## Action space
    `Box(-1, 1, (actuators,), float32)`, clipped beyond.

    | actuator | an action of 0, ±1 |
    |---|---|
    | position servo | target at home; up to `actions.scale` (0.3 rad) beside it, within its range |
    | motor | no force; `actions.effort` of its range (1) |
    | the same in hover | the thrust that holds it up; 0.4 of the way to the ends of its range |
    | velocity servo, others | rest; the ends of its range |
    | in the task track | feed-forward force, as a share of the actuator's largest |

    An actuator without a range gets one from its joint or its force; one that has neither is
    refused by name. `actions.servo` makes position servos of motors.

    ## Observation space
    `Box(-inf, inf, (n,), float64)`: the parts named in `observations`, one after the other (of
    `history` steps, the newest first), then those named in `privileged`, which a critic may see and
    an actor may not: the last `privileged_size` numbers. `nprobot.envs.robots.PARTS` lists them.

    ## Reward
    The sum of the terms in `reward` times their weights (`nprobot.envs.robots.TERMS`, or
    ``module:function``), `floor` at the least. The ready-made weights give 1 to 2 a step to a robot
    that does its task.

    `info` of the last step of an episode: `reward_terms`, the mean of each term a step, and
    `is_success`.

    ## Start and end
    From a keyframe ("home", else the first, else the initial posture) or `start.pose`, with noise.
    An episode ends when the robot has fallen, or, if `ends.on` says so, when it has been at its
    goal for `ends.hold`; it is cut off after `duration`. (The environment does this itself.)

    ## Arguments
    Args:
        model: name of a robot in the package, or path of an MJCF or URDF file.
        task: name of a task, a TOML file or its text, a table, or a `RobotTask`.
        frame_skip: physics steps between two actions; instead of `control_rate`.
        **settings: options of the task, by name, such as ``control_rate=100`` or
            ``**{"reward.energy": -0.2, "randomise": True}``; and `render_mode`, `width`,
            `height`, `camera_name`, … of `MujocoEnv`.

    Attributes:
        task: the task with all its options.
        layout: what was found in the model, and where its numbers stand.
        command: what is asked of the robot now, `(commands,)`; write into it to steer the robot,
            and no other command is drawn until the next reset.
        command_ranges: names of the commands in that order, and from … to of each.
        progress: how far curricula have come, 0 to 1, by name.
        unstable: whether the simulation has ever broken down; the episode ends there.
        executed_action: what actuators made of the action; None where they do as they are told.

    Raises:
        RobotError: the robot cannot be loaded, or cannot do the task.
        ConfigError: a setting is not allowed.
        UnknownNameError: there is no such task, option, term or part.

    ## Versions
    * v0: first.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared by gymnasium
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
    }

    def __new__(cls, *arguments: Any, **settings: Any) -> Self:
        """Keep the arguments, with which a pickled environment is made again."""
        env = super().__new__(cls)
        utils.EzPickle.__init__(env, *arguments, **settings)
        return env

    def __init__(
        self,
        model: RobotFile = "quadruped",
        task: TaskLike | None = None,
        *,
        frame_skip: int | None = None,
        **settings: Any,
    ) -> None:
        drawing = {n: settings.pop(n) for n in _MUJOCO_ARGUMENTS if n in settings}
        self.task = task_for(model, task, settings)
        built = task_model(model, self.task)
        self._built, self.layout = built, built.layout
        self._randomiser: Randomiser | None = None
        if self.task.randomise.on:
            self._randomiser = Randomiser(built.model, self.layout, self.task.randomise)
        timestep = float(built.model.opt.timestep)
        skip = frame_skip or round(self.layout.control_period / timestep)
        self.metadata = {**self.metadata, "render_fps": int(np.round(1.0 / (timestep * skip)))}
        self.width, self.height = drawing.get("width", 480), drawing.get("height", 480)
        self._terms = {n: (w, find_term(n)) for n, w in self.task.reward.items() if w}
        self._steps = max(round(self.task.duration / (timestep * skip)), 1)
        self._actuators = len(self.layout.robot.actuators)
        self._follower = ReferenceFollower(built) if built.limits is not None else None
        super().__init__(str(model_file(model)), skip, None, **drawing)
        self.executed_action: Array | None = None
        self.unstable = False
        self.progress = {
            **({"command": _FIRST_SHARE} if self.task.command.grow else {}),
            **({"terrain": 0.0} if self._climbs else {}),
        }
        self._base = self._base_addresses()
        self._pushes = bool(
            self._randomiser is not None
            and self.layout.robot.base == "free"
            and self.task.randomise.push
        )
        self._memory = Memory.fresh(self.layout)
        self.command: Array = self._memory.command
        self._drawn = self.command.copy()
        self._generators = self._new_generators(0)
        self._sums: dict[str, float] = {}
        self._step = 0
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.layout.robot.home
        mujoco.mj_forward(self.model, self.data)
        if self._follower is not None:
            self._follower.begin(np.random.default_rng(0), self._steps, skip, self._memory)
        state = self._state()
        self.part_sizes = part_sizes(state, self.task.observations)
        self.privileged_size = sum(part_sizes(state, self.task.privileged).values())
        size = self.task.history * sum(self.part_sizes.values()) + self.privileged_size
        if size == 0:
            raise ConfigError("the task has no observations; name parts in `observations`")
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self._noise = self.task.randomise.sensor_noise * noise_of(self.part_sizes)
        self._history: list[Array] = []

    # -- what others may ask -----------------------------------------------------------------------

    @property
    def command_ranges(self) -> dict[str, tuple[float, float]]:
        """Names of the commands in order, and from … to of each, in its unit."""
        return {
            name: (float(low), float(high))
            for name, (low, high) in zip(self.layout.commands, self.layout.ranges, strict=True)
        }

    @property
    def randomised_actuators(self) -> tuple[ActuatorModel, ...] | None:
        """What belongs before a randomised robot, for `NoisyActuators`; None if nothing does."""
        options = self.task.randomise
        return randomised_actuators(self.layout) if options.on and options.actuators else None

    def save_progress(self) -> dict[str, float]:
        """How far the curricula have come, for a checkpoint."""
        return dict(self.progress)

    def restore_progress(self, progress: Mapping[str, float]) -> None:
        """Continue from there."""
        self.progress = {name: float(progress.get(name, at)) for name, at in self.progress.items()}

    @property
    def follower(self) -> ReferenceFollower:
        """What follows joint trajectories.

        Raises:
            ConfigError: the task is another.
        """
        if self._follower is None:
            raise ConfigError(f"the task is {self.task.task!r}; only 'track' follows references")
        return self._follower

    def reference_torque(self) -> Array:
        """Exact force at each actuator's joint for the reference one step ahead, N·m or N."""
        return self.follower.exact_torque(self._memory)

    def exact_action(self) -> Array:
        """The feed-forward action of exact inverse dynamics, in the task track."""
        return self.follower.exact_action(self._memory)

    # -- episodes ----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; `options` may hold its `command`, a number for each."""
        super(MujocoEnv, self).reset(seed=seed)
        for name in options or {}:
            if name != "command":
                raise UnknownNameError("option of reset", name, ["command"])
        # One draw an episode: what is randomised has no say in where an episode starts.
        self._generators = self._new_generators(int(self.np_random.integers(2**63)))
        self._memory = Memory.fresh(self.layout)
        self._memory.command = self.command  # one array, so that others may keep it
        if self._randomiser is not None:
            friction = self._randomiser.draw(self._generators["robot"])
            self._memory.friction = np.asarray(friction)
        self._step, self._sums = 0, dict.fromkeys(self._terms, 0.0)
        mujoco.mj_resetData(self.model, self.data)
        self._place()
        self._draw_command()
        if options and "command" in options:
            self.command[:] = options["command"]
        self._show_goal()
        mujoco.mj_forward(self.model, self.data)
        self._history = []
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        return self._observation(self._state()), {}

    def step(  # type: ignore[override]
        self,
        action: ArrayLike,
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Simulate one control period.

        Raises:
            ActuatorError: the action has another shape, or is not finite.
        """
        asked = self._checked(action)
        done = asked if self.executed_action is None else self._checked(self.executed_action)
        self._memory.act(asked)
        if self._follower is not None:
            self._follower.simulate(self.model, self.data, done, self._step)
        else:
            self.data.ctrl[:] = self._built.actions(done)
            mujoco.mj_step(self.model, self.data, nstep=self.frame_skip)
        if done is not asked:
            self.data.ctrl[:] = self._built.actions(asked)  # what was done stays hidden
        self._step += 1
        if self._follower is not None:
            self._follower.show(self._memory, self._step)
        if self._pushes and self._due(self.task.randomise.push_every):
            assert self._randomiser is not None
            self._randomiser.push(self.data, self._base[1], self._generators["pushes"])
        state = self._state()
        period = self.dt
        self._memory.tread(state.contacts, period)
        if self.task.task in ("reach", "hover"):
            near = state.distance <= self.task.ends.tolerance
            self._memory.there = np.where(near, self._memory.there + period, 0.0)
        terms = {name: float(term) for name, term in weighted(state, self._terms).items()}
        ends = self.task.ends.on
        terminated = ("fall" in ends and bool(state.fallen)) or (
            "success" in ends and bool(state.succeeded)
        )
        if self._broken_down():
            # What the broken state is worth says nothing.
            self.unstable = terminated = True
            terms = dict.fromkeys(terms, 0.0)
        for name, value in terms.items():
            self._sums[name] += value
        truncated = self._step >= self._steps
        info: dict[str, Any] = {}
        if self._follower is not None:
            info = self._follower.information(self.data, self._memory, state)
        if terminated or truncated:
            info |= self._end(state)
        elif self.task.command.every is not None and self._due(self.task.command.every):
            self._draw_command()
            self._show_goal()
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        reward = max(sum(terms.values()), self.task.floor)
        return self._observation(state), reward, terminated, truncated, info

    # -- parts of it -------------------------------------------------------------------------------

    def _checked(self, action: ArrayLike) -> Array:
        asked = np.asarray(action, dtype=np.float64)
        if asked.shape != (self._actuators,) or not np.isfinite(asked).all():
            raise ActuatorError(
                f"An action is {self._actuators} finite numbers, one an actuator; got shape "
                f"{asked.shape}{'' if np.isfinite(asked).all() else ' with NaN or infinity'}."
            )
        return np.clip(asked, -1.0, 1.0)

    def _state(self) -> RobotState:
        data = self.data
        return RobotState(
            self.layout,
            self._memory,
            data.qpos,
            data.qvel,
            data.sensordata,
            data.actuator_force,
            data.actuator_velocity,
        )

    def _observation(self, state: RobotState) -> Array:
        seen = observe(state, self.task.observations)
        if self._randomiser is not None:
            seen = seen + self._noise * self._generators["sensors"].standard_normal(len(seen))
        if self.task.history > 1:
            self._history = [seen, *(self._history or [seen] * self.task.history)]
            self._history = self._history[: self.task.history]
            seen = np.concatenate(self._history)
        if self.privileged_size:
            seen = np.concatenate([seen, observe(state, self.task.privileged)])
        return seen

    def _broken_down(self) -> bool:
        """Whether the simulation has exploded, or MuJoCo has gone back to the start."""
        warnings = self.data.warning
        fast = bool(np.abs(self.data.qvel).max(initial=0.0) > _FASTEST)
        return fast or any(warnings[int(kind)].number for kind in _BREAKDOWNS)

    def _due(self, every: float) -> bool:
        """Whether a multiple of `every` seconds has just passed."""
        steps = max(round(every / self.dt), 1)
        return self._step % steps == 0

    def _new_generators(self, seed: int) -> dict[str, np.random.Generator]:
        children = np.random.SeedSequence(seed).spawn(len(_STREAMS))
        return {
            name: np.random.default_rng(child)
            for name, child in zip(_STREAMS, children, strict=True)
        }

    def _base_addresses(self) -> tuple[int, int]:
        """Places of a free base in `qpos` and `qvel`; −1 without one."""
        if self.layout.robot.base != "free":
            return -1, -1
        body = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, self.layout.robot.base_body)
        joint = int(self.model.body_jntadr[body])
        return int(self.model.jnt_qposadr[joint]), int(self.model.jnt_dofadr[joint])

    def _place(self) -> None:
        """Put the robot where an episode starts."""
        generator, start, layout = self._generators["start"], self.task.start, self.layout
        data = self.data
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
                patch = layout.terrain.start(self._level(), int(generator.integers(1 << 16)))
                data.qpos[position : position + 2] = patch
                data.qpos[position + 2] += float(layout.terrain.height(*patch)) + 0.01
        self._rest()
        if self._follower is not None:
            self._follower.begin(generator, self._steps, self.frame_skip, self._memory)
            data.qpos[layout.qpos] = self._follower.start + noise
            data.qvel[layout.dofs] = self._follower.start_velocity

    def _rest(self) -> None:
        """Let actuators that follow their command have done so."""
        model, centre = self.model, self._built.actions.centre
        self.data.ctrl[:] = centre
        filters = (mujoco.mjtDyn.mjDYN_FILTER, mujoco.mjtDyn.mjDYN_FILTEREXACT)
        for index in range(model.nu):
            if int(model.actuator_dyntype[index]) in map(int, filters):
                self.data.act[model.actuator_actadr[index]] = centre[index]

    def _draw_command(self) -> None:
        """Draw what is asked of the robot, unless somebody else steers it."""
        if not np.array_equal(self.command, self._drawn) and self._step:
            return
        generator, options = self._generators["command"], self.task.command
        ranges = self.layout.ranges
        drawn = generator.uniform(ranges[:, 0], ranges[:, 1])
        goal = int(generator.integers(max(len(self._built.goals), 1)))
        zero = generator.random() < options.zero
        if self.task.task == "reach" and not options.ranges:
            drawn = self._built.goals[goal].copy()
        drawn = drawn * self.progress.get("command", 1.0) if self.task.task == "velocity" else drawn
        if zero and self.task.task == "velocity":
            drawn = np.zeros_like(drawn)
        self.command[:] = self._drawn[:] = drawn

    def _show_goal(self) -> None:
        if self._built.target >= 0:
            self.data.mocap_pos[self._built.target] = self.command[:3]

    # -- curricula ---------------------------------------------------------------------------------

    @property
    def _climbs(self) -> bool:
        return self.layout.terrain is not None and self.task.terrain.curriculum

    def _level(self) -> int:
        """Which patches of the ground come next."""
        assert self.layout.terrain is not None
        hardest = self.layout.terrain.levels - 1
        return round(self.progress.get("terrain", 1.0) * hardest)

    def _end(self, state: RobotState) -> dict[str, Any]:
        """What is told at the end of an episode; curricula take note of it."""
        means = {name: total / self._step for name, total in self._sums.items()}
        succeeded = (
            bool(state.succeeded)
            if self.task.task in ("reach", "hover")
            else (self._step >= self._steps and not bool(state.fallen))
        )
        weight = self.task.reward.get("velocity", 0.0)
        share = means.get("velocity", 0.0) / weight if weight > 0 else float(succeeded)
        share *= self._step / self._steps
        for name, step in (("command", 0.05), ("terrain", 1 / max(self.task.terrain.levels, 2))):
            if name in self.progress:
                change = step if share > _MASTERED else -step if share < _LOST else 0.0
                lowest = _FIRST_SHARE if name == "command" else 0.0
                self.progress[name] = float(np.clip(self.progress[name] + change, lowest, 1.0))
        told = {**means, **{f"at_{name}": at for name, at in self.progress.items()}}
        if self.unstable:
            told["unstable"] = 1.0
        return {"reward_terms": told, "is_success": succeeded}

    # -- MujocoEnv ---------------------------------------------------------------------------------

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        shared = self._built.model if self._randomiser is None else self._randomiser.model
        screen = shared.vis.global_
        screen.offwidth = max(screen.offwidth, self.width)
        screen.offheight = max(screen.offheight, self.height)
        return shared, mujoco.MjData(shared)

    def _set_action_space(self) -> spaces.Box:
        bound = np.ones(len(self.layout.robot.actuators), np.float32)
        self.action_space = spaces.Box(-bound, bound, dtype=np.float32)
        return self.action_space


def task_for(
    model: RobotFile, task: TaskLike | None = None, settings: Mapping[str, Any] | None = None
) -> RobotTask:
    """The task of an environment, with every option in use.

    Args:
        model: the robot; without a task, it gets the one that suits it.
        task: as for `RobotEnv`.
        settings: as for `RobotEnv`.
    """
    if task is None:
        task = inspect_robot(model).suits[0]
    chosen = load_task(task)
    for name in settings or {}:
        if name.partition(".")[0] not in RobotTask.__dataclass_fields__:
            raise UnknownNameError("option of Robot-v0", name, option_names())
    return chosen.with_settings(settings or {})
