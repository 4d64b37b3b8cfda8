"""`nprobot/Robot-v0`: a task for any robot that MuJoCo can load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import mujoco
import numpy as np
from gymnasium import spaces, utils
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, UnknownNameError
from ..actuators.actuator_model import ActuatorModel
from ..simulations import OneSimulation
from .domain_randomisation import Randomiser, randomised_actuators
from .inspection import inspect_robot
from .model_loading import RobotFile, model_file
from .reference_tracking import ReferenceFollower
from .robot_episodes import RobotEpisodes
from .robot_state import Memory, RobotState
from .robot_task import RobotTask, TaskLike, load_task, option_names
from .task_model import task_model

Array = NDArray[np.float64]

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
        super().__init__(str(model_file(model)), skip, None, **drawing)
        self.executed_action: Array | None = None
        randomisers = () if self._randomiser is None else (self._randomiser,)
        simulation = OneSimulation(self.model, self.data)
        self._episodes = RobotEpisodes(built, simulation, skip, randomisers)
        self.command: Array = self._episodes.memory.command
        self.part_sizes = self._episodes.part_sizes
        self.privileged_size = self._episodes.privileged_size
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._episodes.size,), np.float64)

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

    @property
    def progress(self) -> dict[str, float]:
        """How far curricula have come, 0 to 1, by name."""
        return self._episodes.progress[0]

    @property
    def unstable(self) -> bool:
        """Whether the simulation has ever broken down; the episode ends there."""
        return bool(self._episodes.unstable)

    def save_progress(self) -> dict[str, float]:
        """How far the curricula have come, for a checkpoint."""
        return dict(self.progress)

    def restore_progress(self, progress: Mapping[str, float]) -> None:
        """Continue from there."""
        self._episodes.restore_progress(0, progress)

    @property
    def follower(self) -> ReferenceFollower:
        """What follows joint trajectories.

        Raises:
            ConfigError: the task is another.
        """
        if self._episodes.follower is None:
            raise ConfigError(f"the task is {self.task.task!r}; only 'track' follows references")
        return self._episodes.follower

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
        drawn = int(self.np_random.integers(2**63))
        observation = self._episodes.begin([0], [drawn], (options or {}).get("command"))
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        return observation, {}

    def step(  # type: ignore[override]
        self,
        action: ArrayLike,
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Simulate one control period.

        Raises:
            ActuatorError: the action has another shape, or is not finite.
        """
        episodes, executed = self._episodes, self.executed_action
        observation, made = episodes.step(
            episodes.checked(action), None if executed is None else episodes.checked(executed)
        )
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        info = {name: told if told.ndim else float(told) for name, told in made.info.items()}
        info |= made.ends.get(0, {})
        return observation, float(made.reward), bool(made.terminated), bool(made.truncated), info

    def _state(self) -> RobotState:
        return self._episodes.state()

    @property
    def _memory(self) -> Memory:
        return self._episodes.memory

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
