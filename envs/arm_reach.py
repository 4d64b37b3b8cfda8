"""`nprobot/ArmReach-v0`: bring the tool of the seven-joint arm to a random point and stay there."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .arm import JOINTS, TORQUE_LIMITS, WORKING_LIMITS, ArmEnv

Array = NDArray[np.float64]


class ArmReachEnv(ArmEnv):
    """Bring the tool's tip of a seven-joint arm to a random reachable point, and hold it there.

    ## Action space
    `Box(-1, 1, (7,), float32)`: each joint's torque as a share of its limit (what most learners
    expect); with `normalize_actions=False` the torques themselves. Actions beyond the bounds are
    clipped. The arm's gravity torque is added by default, as the torque interfaces of arms of this
    class do: a zero action then holds the arm still, and exploration starts from there instead of
    from a collapse.

    | index | joint | range, N·m |
    |---|---|---|
    | 0–3 | base, shoulder, upper arm, elbow | -87 … 87 |
    | 4–6 | forearm, wrist, hand | -12 … 12 |

    ## Observation space
    `Box(-inf, inf, (20,), float64)`

    | index | what | unit |
    |---|---|---|
    | 0–6 | joint positions q | rad |
    | 7–13 | joint velocities q̇ | rad/s |
    | 14–16 | position of the tool's tip, world frame | m |
    | 17–19 | target minus the tool's tip, world frame | m |

    ## Reward
    `1 / (1 + distance / 0.2 m) - control_cost · mean(action²)`, the action in shares of the limits:
    between `-control_cost` and 1 at every step, with a slope at every distance.

    `info`: `distance` (m), `is_success` (within `tolerance`), `reward_distance`, `reward_control`,
    `torque` (7,) in N·m: what the motors gave, averaged over the step.

    ## Start and end
    The arm starts at rest in its "ready" posture, each joint displaced by up to `reset_noise`. The
    target is where the tool would be in a random posture of the working range in front of the base,
    so it can be reached. An episode is cut off after 100 steps (2 s); nothing ends it earlier.

    ## Arguments
    Args:
        normalize_actions: see above.
        gravity_compensation: see above; it knows the nominal arm, not a payload.
        payload: mass held at the tool's tip, kg. `reset(options={"payload": …})` sets it for one
            episode.
        friction_scale: factor on joint friction; also an option of `reset`.
        control_cost: weight of the mean squared action.
        reset_noise: largest displacement of the first posture, rad.
        tolerance: distance that counts as success, m.
        frame_skip: physics steps of 2 ms each; 10 make 50 Hz.
        mujoco_arguments: `render_mode` ("rgb_array", "human", "depth_array", "rgbd_tuple"),
            `width`, `height`, `camera_name` ("main" or "side"), … of `MujocoEnv`.

    ## Versions
    * v0: first.
    """

    # Set again for each instance, as gymnasium's own MuJoCo environments do.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 50,
    }

    def __init__(
        self,
        *,
        normalize_actions: bool = True,
        gravity_compensation: bool = True,
        payload: float = 0.0,
        friction_scale: float = 1.0,
        control_cost: float = 0.05,
        reset_noise: float = 0.1,
        tolerance: float = 0.05,
        frame_skip: int = 10,
        **mujoco_arguments: Any,
    ) -> None:
        if control_cost < 0 or reset_noise < 0 or tolerance <= 0 or frame_skip < 1:
            raise ConfigError(
                "ArmReach needs control_cost ≥ 0, reset_noise ≥ 0, tolerance > 0 and "
                f"frame_skip ≥ 1; got {control_cost}, {reset_noise}, {tolerance}, {frame_skip}."
            )
        self.control_cost = control_cost
        self.reset_noise = reset_noise
        self.tolerance = tolerance
        self.metadata = {**type(self).metadata, "render_fps": round(500 / frame_skip)}
        super().__init__(
            frame_skip=frame_skip,
            observation_size=2 * JOINTS + 6,
            normalize_actions=normalize_actions,
            gravity_compensation=gravity_compensation,
            payload=payload,
            friction_scale=friction_scale,
            **mujoco_arguments,
        )
        self.target = np.zeros(3)

    def reset_model(self) -> Array:
        """Draw the first posture and the target."""
        noise = self.np_random.uniform(-self.reset_noise, self.reset_noise, JOINTS)
        self.set_state(self.home + noise, np.zeros(JOINTS))  # type: ignore[no-untyped-call]
        self.target = self._draw_target()
        self.data.mocap_pos[0] = self.target
        mujoco.mj_kinematics(self.model, self.data)
        return self._observation()

    def _draw_target(self) -> Array:
        low, high = WORKING_LIMITS.low.copy(), WORKING_LIMITS.high.copy()
        # In front: the whole turn of the base adds nothing but longer ways.
        low[0], high[0] = -1.2, 1.2
        while True:
            posture = self.np_random.uniform(low, high)
            if not self.collides(posture):
                return self.end_effector_at(posture)

    def move_target(self, point: ArrayLike) -> None:
        """Put the target elsewhere in the middle of an episode.

        Args:
            point: (3,), m, world frame; raised above the floor.

        Raises:
            ConfigError: it is not three finite numbers.
        """
        self.target = self._tip_at(point)
        self.data.mocap_pos[0] = self.target

    def step(  # type: ignore[override]
        self,
        action: Any,  # noqa: ANN401 - as gymnasium has it
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply torques for one step of `dt` seconds."""
        torque = self.torque_from_action(action)
        given = np.zeros(JOINTS)
        for _ in range(self.frame_skip):
            given += self._simulate_step(torque)
        self._end_step()
        observation, reward, info = self.outcome(
            *(self.data.qpos, self.data.qvel, self.data.site_xpos[self.site], self.target),
            *(torque, given / self.frame_skip),
        )
        told = {name: value if value.ndim else value.item() for name, value in info.items()}
        return observation, float(reward), False, False, told

    def outcome(
        self, qpos: Array, qvel: Array, tip: Array, target: Array, torque: Array, given: Array
    ) -> tuple[Array, Array, dict[str, NDArray[Any]]]:
        """What a step has brought, for one arm or for many: leading axes are kept.

        Args:
            qpos: joint positions after it `(…, 7)`, rad.
            qvel: velocities, same shape, rad/s.
            tip: of the tool `(…, 3)`, m.
            target: same shape, m.
            torque: that was asked for `(…, 7)`, N·m.
            given: by the motors, averaged over the step, same shape, N·m.

        Returns:
            Observations, rewards, and what is told.
        """
        distance = self._length(target - tip)
        reward_distance = 1.0 / (1.0 + distance / 0.2)
        reward_control = -self.control_cost * np.mean((torque / TORQUE_LIMITS) ** 2, -1)
        info: dict[str, NDArray[Any]] = {
            "distance": distance,
            "is_success": np.asarray(distance < self.tolerance),
            "reward_distance": reward_distance,
            "reward_control": reward_control,
            "torque": given,
        }
        observation = np.concatenate([qpos, qvel, tip, target - tip], -1)
        return observation, reward_distance + reward_control, info

    @staticmethod
    def _length(way: Array) -> Array:
        """Of vectors `(…, 3)`."""
        return np.asarray(np.sqrt(np.add.reduce(np.square(way), -1)))

    def _distance(self) -> float:
        return float(self._length(self.target - self.data.site_xpos[self.site]))

    def _observation(self) -> Array:
        tip = self.data.site_xpos[self.site]
        return np.concatenate([self.data.qpos, self.data.qvel, tip, self.target - tip])

    def _get_reset_info(self) -> dict[str, Any]:
        distance = self._distance()
        return {"distance": distance, "is_success": distance < self.tolerance}
