"""Many seven-joint arms at once: one model, a few threads, rewards in numpy over all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .arm import TORQUE_LIMITS, ArmEnv
from .arm_reach import ArmReachEnv
from .arm_track import ArmTrackEnv
from .dynamics import Gravity
from .simulations import ManySimulations, ended_information, seed_each
from .trajectories import Trajectory

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


class ArmVectorEnv(VectorEnv[Array, Array, NDArray[Any]]):
    """What `ArmReachVectorEnv` and `ArmTrackVectorEnv` share.

    Each arm does exactly what a single one with its seed does. One whose episode ends begins the
    next in the same step: its last observation is in `info["final_obs"]`, and what was told of
    that step in `info["final_info"]`.

    Args:
        num_envs: how many arms.
        max_episode_steps: after which an episode is cut off; None: by the environment itself.
        threads: that simulate; None: `OMP_NUM_THREADS`, else as many as there are cores.
        **arguments: of the single environment; nothing is drawn here.

    Attributes:
        threads: that simulate.
        dt: time between two actions, s.

    Raises:
        ConfigError: an argument is not allowed.
        ActuatorError: (step) the actions have another shape, or are not finite.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared by gymnasium
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    single: ClassVar[type[ArmEnv]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        threads: int | None = None,
        render_mode: None = None,
        **arguments: Any,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ConfigError(f"num_envs must be a whole number of 1 or more, got {num_envs!r}")
        if render_mode is not None:
            raise ConfigError(f"many arms are not drawn; make one with {render_mode=}")
        self.num_envs = num_envs
        self._one = one = self.single(**arguments)
        self.metadata = {**type(self).metadata, "render_fps": one.metadata["render_fps"]}
        self._simulation = ManySimulations([one.model], num_envs, threads)
        self.threads, self.dt = self._simulation.threads, float(one.dt)
        self.single_observation_space = one.observation_space
        self.single_action_space = one.action_space
        self.observation_space = batch_space(one.observation_space, num_envs)
        self.action_space = batch_space(one.action_space, num_envs)
        self._most = max_episode_steps
        self._count = np.zeros(num_envs, np.int64)
        self._everyone = np.arange(num_envs)
        self._observations: Array = np.zeros((num_envs, *(one.observation_space.shape or ())))
        self._randoms: list[np.random.Generator | None] = [None] * num_envs
        # One a thread, told by its data.
        self._gravities = {id(data): Gravity(one.nominal) for data in self._simulation.places}

    @classmethod
    def objection(cls, **arguments: Any) -> str | None:
        """Why arms had better be made one by one; None if they need not."""
        drawing = ("render_mode", "width", "height", "camera_id", "camera_name", "wrapper")
        known = ("max_episode_steps", *(cls.single.__init__.__kwdefaults__ or {}))
        for name in arguments:
            if name in drawing or name not in known:
                return f"{name} is an argument of one environment"
        return None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode of each arm.

        Args:
            seed: one an arm, or that of the first, the others' being the numbers after it; None:
                the generators continue.
            options: none are known here.
        """
        if options:
            raise ConfigError(f"many arms have no options of reset; got {', '.join(options)}")
        seed_each(self._randoms, seed, "arms")
        for number in range(self.num_envs):
            self._begin(number)
        return self._observations.copy(), {}

    def step(
        self, actions: ArrayLike
    ) -> tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """A step of all arms; see gymnasium's `AutoresetMode.SAME_STEP`."""
        torque = self._one.torques_from_actions(actions, (self.num_envs,))
        self._count += 1
        rewards, told, truncated = self._advance(torque)
        if self._most is not None:
            truncated = truncated | (self._count >= self._most)
        info: dict[str, Any] = {}
        for name, value in told.items():
            info |= {name: value, f"_{name}": np.ones(self.num_envs, bool)}
        if truncated.any():
            told_last = {
                name: value.copy() if name[0] != "_" else truncated for name, value in info.items()
            }
            info |= ended_information(self._observations, truncated, told_last)
            for number in np.flatnonzero(truncated):
                self._begin(int(number))
        terminated = np.zeros(self.num_envs, bool)
        return self._observations.copy(), rewards, terminated, truncated, info

    def save_progress(self) -> list[dict[str, float]]:
        """Empty: there are no curricula."""
        return [{} for _ in range(self.num_envs)]

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Nothing to restore."""

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads."""
        self._simulation.close()
        self._one.close()  # type: ignore[no-untyped-call]

    def _begin(self, number: int) -> None:
        """Start an episode in the one environment, and take what it is."""
        own = self._randoms[number]
        if own is None:
            own = self._randoms[number] = seeding.np_random()[0]
        self._one.np_random = own
        mujoco.mj_resetData(self._one.model, self._one.data)
        self._observations[number] = self._one.reset_model()
        self._simulation.keep(number, self._one.data)
        self._count[number] = 0
        self._take(number)

    def _simulate(self, torque: Array) -> Array:
        """A physics step under torques `(arms, 7)`; what the motors gave, N·m."""
        if self._one.gravity_compensation:
            carried = np.empty_like(torque)

            def carry(model: mujoco.MjModel, data: mujoco.MjData, number: int) -> None:
                carried[number] = self._gravities[id(data)](data.qpos)

            self._simulation.each(carry)
            torque = torque + carried
        torque = np.clip(torque, -TORQUE_LIMITS, TORQUE_LIMITS)
        self._simulation.step(torque, 1)
        return torque

    @abstractmethod
    def _advance(self, torque: Array) -> tuple[Array, dict[str, NDArray[Any]], Flags]:
        """Simulate a step, and write the observations; rewards, what is told, which are over."""

    @abstractmethod
    def _take(self, number: int) -> None:
        """Take from the one environment what belongs to the episode that has begun."""


class ArmReachVectorEnv(ArmVectorEnv):
    """Many `ArmReachEnv`; see there, and `ArmVectorEnv`."""

    single = ArmReachEnv
    _one: ArmReachEnv

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self._target = np.zeros((num_envs, 3))
        self._tip = np.zeros((num_envs, 3))

    def _take(self, number: int) -> None:
        self._target[number] = self._one.target

    def _advance(self, torque: Array) -> tuple[Array, dict[str, NDArray[Any]], Flags]:
        skip = self._one.frame_skip
        given = np.zeros_like(torque)
        for _ in range(skip):
            given += self._simulate(torque)
        simulation, site = self._simulation, self._one.site

        def locate(model: mujoco.MjModel, data: mujoco.MjData, number: int) -> None:
            mujoco.mj_kinematics(model, data)
            self._tip[number] = data.site_xpos[site]

        simulation.each(locate)
        self._observations, rewards, told = self._one.outcome(
            *(simulation.qpos, simulation.qvel, self._tip, self._target, torque, given / skip)
        )
        return rewards, told, np.zeros(self.num_envs, bool)


class ArmTrackVectorEnv(ArmVectorEnv):
    """Many `ArmTrackEnv`; see there, and `ArmVectorEnv`."""

    single = ArmTrackEnv
    _one: ArmTrackEnv

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self._fine: Trajectory | None = None

    def _take(self, number: int) -> None:
        drawn = self._one.fine
        if self._fine is None:
            space = (self.num_envs, *drawn.position.shape)
            self._fine = Trajectory(drawn.time, *(np.zeros(space) for _ in range(3)))
        for name in ("position", "velocity", "acceleration"):
            getattr(self._fine, name)[number] = getattr(drawn, name)

    def _advance(self, torque: Array) -> tuple[Array, dict[str, NDArray[Any]], Flags]:
        one, simulation, fine = self._one, self._simulation, self._fine
        assert fine is not None, "an episode has begun"
        skip, everyone = one.frame_skip, self._everyone
        feedback, given = np.zeros_like(torque), np.zeros_like(torque)
        first = np.minimum(self._count - 1, one.steps - 1) * skip
        for substep in range(skip):
            now = everyone, first + substep
            correction = one.correction(
                fine.position[now], fine.velocity[now], simulation.qpos, simulation.qvel
            )
            feedback += correction / skip
            given += self._simulate(torque + correction) / skip
        step = np.minimum(self._count, one.steps)
        joint_error = fine.position[everyone, step * skip] - simulation.qpos
        rewards, told = one.outcome(joint_error, given, torque, feedback)
        ahead = [
            part[everyone, (step + k) * skip]
            for k in range(1, one.lookahead + 1)
            for part in (fine.position, fine.velocity, fine.acceleration)
        ]
        self._observations = np.concatenate([simulation.qpos, simulation.qvel, *ahead], -1)
        return rewards, told, self._count >= one.steps
