"""A simulated robot under a policy, step by step, that visitors can push, break and command."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nprobot.deploy import Controller, Episode, Safety, SimulatedRobot
from nprobot.deploy.conditions import Conditions, EquippedRobot, policy_under
from nprobot.deploy.steering import Steerable, Steering
from nprobot.envs.actuators import READING, ActuatorOracle
from nprobot.training.evaluation import DeployablePolicy, episode_seeds

from .page_content import Pose, Pull

STIFFNESS = 40.0
"""Stiffness of the string that a body is pulled by, for each kg that it seems to weigh, 1/s²."""
SLACK = 6.0
"""Its damping, 1/s."""
STARTS = 100_000
"""Episodes that a live robot has different starts for."""


class LiveRobot(Steerable):
    """A robot, what is between it and its policy, and the episode that it is in.

    Args:
        policy: as it was written; a chip between changes what it computes.
        robot: ideal, from `make_robot`.
        conditions: that it works under.
        steering: what it is told to do in every episode, and what pushes it.
        safety: limits of its controller.
        seed: where the starts of the episodes come from; as for `deploy_episodes`.
        rate: Hz; by default the policy's control rate.

    Attributes:
        controller: acts, and holds the limits.
        episodes: that have ended.
        total: return of the present one so far.
        length: its steps.
        reward: the reward of the last step.
        time: simulated time since the robot was made, s.
        pull: what a visitor does to a body; None for nothing.

    Raises:
        NprobotError: as `EquippedRobot`, `Controller` and `policy_under`.
    """

    def __init__(
        self,
        policy: DeployablePolicy,
        robot: SimulatedRobot,
        conditions: Conditions,
        *,
        steering: Steering | None = None,
        safety: Safety | None = None,
        seed: int = 0,
        rate: float | None = None,
    ) -> None:
        self._policy, self._seed = policy, seed
        self._oracle = ActuatorOracle()
        self.equipped = EquippedRobot(robot, conditions, oracle=self._oracle, steering=steering)
        super().__init__(self.env.unwrapped, robot.id)
        self.controller = Controller(
            policy_under(policy, conditions, seed), rate=rate or robot.rate, safety=safety
        )
        self._period = 1 / (self.controller.rate or robot.rate or 30.0)
        self._starts = iter(episode_seeds(seed, STARTS))
        self.episodes: list[Episode] = []
        self.time = self.reward = 0.0
        self.reading: npt.NDArray[Any] | None = None
        self.pull: Pull | None = None
        self.reset()

    @property
    def env(self) -> Any:  # noqa: ANN401 - any environment
        """The environment, with its actuators."""
        return self.equipped.robot.env

    @property
    def period(self) -> float:
        """Simulated seconds that an action lasts."""
        return self._period

    def reset(self) -> None:
        """Begin the next episode."""
        self.observation, _ = self.env.reset(seed=next(self._starts, self._seed))
        self.repeat_commands()
        self.controller.reset()
        self.total, self.length = 0.0, 0

    def step(self, age: float = 0.0) -> None:
        """Take a control step; after the last of an episode the next one begins.

        Args:
            age: the age of the observation, s.
        """
        self._pull_body()
        action = self.controller.step(self.observation, age=age)
        self._oracle.clear()
        result = self.env.step(action[()])
        self.observation, reward, terminated, truncated, info = result
        self.reward = float(reward)
        self.reading = info.get(READING)
        self.total += self.reward
        self.length += 1
        self.time += self._period
        if not math.isfinite(self.total):
            self.controller.trip(f"the return of episode {len(self.episodes)} is {self.total}")
        if terminated or truncated:
            fault = self.controller.fault
            self.episodes.append(Episode(len(self.episodes), self.total, self.length, fault, 0))
            self.reset()

    def commanded(self) -> npt.NDArray[np.float64]:
        """What the policy wanted in the last step, flat; NaN where it was not asked."""
        last = self.controller.last
        size = self.controller.previous_action.size
        if last is None or last.commanded is None:
            return np.full(size, np.nan)
        return np.asarray(last.commanded, np.float64).reshape(-1)

    def realised(self) -> npt.NDArray[np.float64]:
        """What the actuators did in the last step, flat."""
        done = self._oracle.realised
        last = done[-1] if done else self.controller.previous_action
        return np.asarray(last, np.float64).reshape(-1)

    def limits_touched(self) -> int:
        """How many elements of the last action the limits changed; all of them after a fault."""
        wanted, given = self.commanded(), self.controller.previous_action.reshape(-1)
        return int((wanted != given).sum())

    def change_policy(self, policy: DeployablePolicy) -> None:
        """Continue with another policy of the same shapes."""
        self._policy = policy
        self.controller.policy = policy_under(policy, self.equipped.conditions, self._seed)

    def change_conditions(self, conditions: Conditions) -> None:
        """Continue under other conditions; nothing has changed if they are refused.

        Raises:
            NprobotError: they are refused.
        """
        before = self.equipped.conditions
        policy = None
        if (before.chip, before.dead_nodes) != (conditions.chip, conditions.dead_nodes):
            policy = policy_under(self._policy, conditions, self._seed)
        self.equipped.change(conditions)
        if policy is not None:
            self.controller.policy = policy

    def pose(self) -> Pose:
        """Where the robot is."""
        data = self._inner.data
        fields = (data.qpos, data.qvel, data.ctrl, data.mocap_pos, data.mocap_quat)
        return Pose(*(np.array(field, np.float64) for field in fields))

    def _pull_body(self) -> None:
        """Apply the force of a string between where a body is held and where the mouse is."""
        if self.model is None:
            return
        import mujoco

        data = self._inner.data
        data.xfrc_applied[:] = 0.0
        pull = self.pull
        if pull is None or pull.towards is None or not 0 < pull.body < self.model.nbody:
            return
        grip = np.array(pull.grip)
        reach = np.array(pull.towards) - grip
        longest = 0.5 * float(self.model.stat.extent)
        reach *= min(1.0, longest / max(float(np.linalg.norm(reach)), 1e-9))
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(self.model, data, mujoco.mjtObj.mjOBJ_BODY, pull.body, velocity, 0)
        seems = 1 / max(float(self.model.body_invweight0[pull.body, 0]), 1e-6)
        force = seems * (STIFFNESS * reach - SLACK * velocity[3:])
        data.xfrc_applied[pull.body, :3] = force
        data.xfrc_applied[pull.body, 3:] = np.cross(grip - data.xipos[pull.body], force)


MakeRobot = Callable[[], SimulatedRobot]
"""Makes one robot, ideal."""
