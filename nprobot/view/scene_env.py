"""`nprobot view`: any model as an environment whose motors a visitor moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from nprobot.deploy import SimulatedRobot
from nprobot.deploy.conditions import Conditions
from nprobot.errors import NotFoundError, RobotError
from nprobot.policies.files.policy import BoxAction, Operation, Policy

from .live_loop import LiveLoop
from .live_robot import LiveRobot


class SceneEnv(gymnasium.Env[npt.NDArray[np.float64], npt.NDArray[np.float32]]):
    """A model without a task: actions are its controls, nothing is rewarded, nothing ends.

    Observations are positions and velocities (nq + nv,). Controls without a range go from −1 to 1.
    It begins as the first keyframe of the model, or as the model is written.

    Args:
        path: the path of an MJCF or URDF file.
        rate: control steps a second, Hz, as near as whole physics steps allow.

    Raises:
        NotFoundError: there is no such file.
        RobotError: MuJoCo cannot compile it.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if not path.is_file():
            raise NotFoundError(f"there is no model {path}")
        try:
            self.model: Any = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise RobotError(f"{path} is not a model that MuJoCo can use: {error}") from error
        self.data: Any = mujoco.MjData(self.model)
        self.frame_skip = max(round(1 / (rate * self.model.opt.timestep)), 1)
        self.dt = self.frame_skip * float(self.model.opt.timestep)
        limited = self.model.actuator_ctrllimited.astype(bool)[:, None]
        ranges = np.where(limited, self.model.actuator_ctrlrange, [[-1.0, 1.0]]).astype(np.float32)
        if not len(ranges):
            ranges = np.array([[-1.0, 1.0]], np.float32)  # one control that moves nothing
        self.low, self.high = ranges.T
        self.action_space = spaces.Box(self.low, self.high, dtype=np.float32)
        self.size = int(self.model.nq + self.model.nv)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.size,), np.float64)
        self.spec = EnvSpec(path.name)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Back to the beginning."""
        super().reset(seed=seed)
        if self.model.nkey:
            mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        else:
            mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Hold the controls for `dt` seconds."""
        self.data.ctrl[:] = action[: self.model.nu]
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        return self._observation(), 0.0, False, False, {}

    def _observation(self) -> npt.NDArray[np.float64]:
        return np.concatenate([self.data.qpos, self.data.qvel])


def scene_loop(path: Path, conditions: Conditions, *, rate: float = 50.0) -> LiveLoop:
    """A loop whose visitors move the motors of a model.

    Raises:
        NprobotError: as `SceneEnv` and `LiveRobot`.
    """
    env = SceneEnv(path, rate)
    start = np.clip(0.0, env.low, env.high)
    if env.model.nkey and env.model.nu:
        start = np.clip(env.model.key_ctrl[0], env.low, env.high).astype(np.float32)

    def holding(levels: npt.NDArray[Any]) -> Policy:
        """A policy that gives the same controls whatever it observes."""
        weight = np.zeros((len(env.low), env.size), np.float32)
        layer = Operation("linear", {"weight": weight, "bias": np.asarray(levels, np.float32)})
        return Policy((env.size,), (layer,), BoxAction(env.low, env.high))

    robot = LiveRobot(holding(start), SimulatedRobot(env, path.name, 1 / env.dt, None), conditions)
    return LiveLoop(
        [robot],
        title=f"nprobot: {path.name}",
        motors=start if env.model.nu else None,
        moved=lambda levels: robot.change_policy(holding(levels)),
    )
