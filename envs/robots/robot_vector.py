"""`nprobot/Robot-v0` for many robots at once: one model, a few threads, numpy over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, UnknownNameError
from ..simulations import ManySimulations, ended_information, seed_each
from .domain_randomisation import Randomiser
from .model_loading import RobotFile
from .robot_env import task_for
from .robot_episodes import RobotEpisodes
from .robot_task import RobotTask, TaskLike
from .task_model import task_model

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class RobotVectorEnv(VectorEnv[Array, Array, NDArray[Any]]):
    """Many robots at one task; each does exactly what a `RobotEnv` with its seed does.

    Observations, rewards and ends of all robots are computed at once, and threads share the
    physics. A robot takes a few kB: the model and the working place of a thread are shared. Where
    `randomise` is on, each robot has a model of its own; the noisy actuators that then belong
    before a robot are not here (`nprobot.envs.NoisyActuatorsVector` has them).

    A robot whose episode ends begins the next one in the same step. Its last observation is in
    `info["final_obs"]`, and what was told of the episode in `info["final_info"]`.

    Args:
        num_envs: how many robots.
        model: as for `RobotEnv`.
        task: as for `RobotEnv`.
        frame_skip: as for `RobotEnv`.
        threads: that simulate; None: `OMP_NUM_THREADS`, else as many as there are cores.
        **settings: options of the task, as for `RobotEnv`; nothing is drawn here.

    Attributes:
        command: what is asked of each robot, `(num_envs, commands)`; write into it to steer them.
        threads: that simulate.
        dt: time between two actions, s.
        steps: of each episode until now, `(num_envs,)`; write into it to let robots be late in one.
        episode_steps: of an episode at the most.
        privileged_size: numbers at the end of an observation that an actor may not see.

    Raises:
        RobotError: the robot cannot be loaded, or cannot do the task.
        ConfigError: a setting is not allowed, or a reward term of yours takes one robot only.
        UnknownNameError: there is no such task, option, term or part.
        ActuatorError: (step) the actions have another shape, or are not finite.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared by gymnasium
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        model: RobotFile = "quadruped",
        task: TaskLike | None = None,
        *,
        frame_skip: int | None = None,
        threads: int | None = None,
        render_mode: None = None,
        **settings: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigError(f"num_envs must be a whole number of 1 or more, got {num_envs!r}")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be 1 or more, got {threads}")
        if render_mode is not None:
            raise ConfigError(
                f"many robots are not drawn; make one RobotEnv with render_mode={render_mode!r}"
            )
        self.num_envs = num_envs
        self.task = task_for(model, task, settings)
        built = task_model(model, self.task)
        self.layout = built.layout
        randomisers = [
            Randomiser(built.model, built.layout, self.task.randomise)
            for _ in range(num_envs if self.task.randomise.on else 0)
        ]
        timestep = float(built.model.opt.timestep)
        skip = frame_skip or round(built.layout.control_period / timestep)
        self.dt = timestep * skip
        self.metadata = {**type(self).metadata, "render_fps": int(np.round(1.0 / self.dt))}
        models = [randomiser.model for randomiser in randomisers] or [built.model]
        self._simulation = ManySimulations(models, num_envs, threads)
        self.threads = self._simulation.threads
        self._episodes = RobotEpisodes(built, self._simulation, skip, randomisers)
        self._check_terms()
        self.command: Array = self._episodes.memory.command
        self.steps: NDArray[np.int64] = self._episodes.count
        self.episode_steps = self._episodes.length
        self.privileged_size = self._episodes.privileged_size
        seen = self._episodes.size
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (seen,), np.float64)
        bound = np.ones(len(built.layout.robot.actuators), np.float32)
        self.single_action_space = spaces.Box(-bound, bound, dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms: list[np.random.Generator | None] = [None] * num_envs

    @classmethod
    def objection(cls, **arguments: Any) -> str | None:
        """Why robots had better be made one by one; None if they need not.

        Args:
            **arguments: of a `RobotEnv`.

        Raises:
            RobotError: as the constructor; so are the others.
        """
        settings = dict(arguments)
        model, task = settings.pop("model", "quadruped"), settings.pop("task", None)
        settings.pop("frame_skip", None)
        for name in settings:
            if name.partition(".")[0] not in RobotTask.__dataclass_fields__:
                return f"{name} is an argument of one environment"
        chosen = task_for(model, task, settings)
        if chosen.randomise.on and chosen.randomise.actuators:
            return "randomise puts noisy actuators before each (randomise.actuators)"
        if users := [name for name, weight in chosen.reward.items() if ":" in name and weight]:
            return f"{users[0]} is a reward term of yours, which may know one robot only"
        return None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode of each robot.

        Args:
            seed: one a robot, or that of the first, the others' being the numbers after it; None:
                the generators continue.
            options: may hold `command`, a number for each command, the same for all robots.
        """
        for name in options or {}:
            if name != "command":
                raise UnknownNameError("option of reset", name, ["command"])
        seed_each(self._randoms, seed, "robots")
        everyone = range(self.num_envs)
        command = (options or {}).get("command")
        return self._episodes.begin(everyone, self._draw(everyone), command), {}

    def step(
        self, actions: ArrayLike
    ) -> tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Simulate one control period of all robots; see gymnasium's `AutoresetMode.SAME_STEP`."""
        episodes = self._episodes
        observations, made = episodes.step(episodes.checked(actions))
        info: dict[str, Any] = {}
        for name, told in made.info.items():
            info |= {name: told, f"_{name}": np.ones(self.num_envs, bool)}
        if made.ends:
            over = made.terminated | made.truncated
            numbers = list(made.ends)
            told_last: Any = {}
            for number, of_one in made.ends.items():
                told_last = self._add_info(told_last, of_one, number)
            info |= ended_information(observations, over, told_last)
            observations[numbers] = episodes.begin(numbers, self._draw(numbers))
        return observations, made.reward, made.terminated, made.truncated, info

    def save_progress(self) -> list[dict[str, float]]:
        """How far each robot's curricula have come, for a checkpoint."""
        return [dict(progress) for progress in self._episodes.progress]

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Continue from there, in the episodes that begin next."""
        for number, own in enumerate(progress):
            self._episodes.restore_progress(number, own)

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        self._simulation.close()

    def _draw(self, numbers: Sequence[int]) -> list[int]:
        """Seeds of episodes, each from its robot's own generator, as `RobotEnv` draws them."""
        seeds = []
        for number in numbers:
            own = self._randoms[number]
            if own is None:
                own = self._randoms[number] = seeding.np_random()[0]
            seeds.append(int(own.integers(2**63)))
        return seeds

    def _check_terms(self) -> None:
        state = self._episodes.state()
        for name, (_, term) in self._episodes.terms.items():
            try:
                shape = np.shape(term(state))
            except Exception as error:
                raise ConfigError(
                    f"reward term {name!r} does not take many robots at once: {error!r}. Let it "
                    "keep the leading axes of its state, or make environments one by one."
                ) from error
            if shape != state.batch:
                raise ConfigError(
                    f"reward term {name!r} gives shape {shape} for {self.num_envs} robots, not "
                    f"{state.batch}. Let it keep the leading axes of its state, or make "
                    "environments one by one."
                )
