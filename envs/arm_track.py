"""`nprobot/ArmTrack-v0`: follow random smooth joint trajectories with the arm, at 100 Hz."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError, UnknownNameError
from .arm import JOINTS, TORQUE_LIMITS, WORKING_LIMITS, ArmEnv
from .trajectories import Trajectory, point_to_point, rhythmic, synergies

Array = NDArray[np.float64]
ControlMode = Literal["feedforward", "torque"]
Motion = Literal["mixed", "rhythmic", "point-to-point"]

#: PD gains chosen by us: compliant enough to be pushed aside by hand, and well damped.
STIFFNESS = np.array([200.0, 200.0, 150.0, 150.0, 50.0, 50.0, 30.0])  # N·m/rad
DAMPING = np.array([40.0, 40.0, 20.0, 20.0, 4.0, 4.0, 2.5])  # N·m·s/rad
STIFFNESS.setflags(write=False)
DAMPING.setflags(write=False)
_SUBSTEPS = 5


class ArmTrackEnv(ArmEnv):
    """Follow a random smooth joint trajectory with a seven-joint arm, at 100 Hz.

    ## Action space
    `Box(-1, 1, (7,), float32)`: torques as a share of the limits; with `normalize_actions=False`
    the torques themselves. Actions beyond the bounds are clipped.

    | index | joint | range, N·m |
    |---|---|---|
    | 0–3 | base, shoulder, upper arm, elbow | -87 … 87 |
    | 4–6 | forearm, wrist, hand | -12 … 12 |

    | `control` | torque of the motors |
    |---|---|
    | `"feedforward"` (default) | action + stiffness · (q_ref - q) + damping · (q̇_ref - q̇) |
    | `"torque"` | action alone |

    The PD part runs at 500 Hz; with it, a zero action is the PD controller alone.

    ## Observation space
    `Box(-inf, inf, (14 + 21 · lookahead,), float64)`; k counts the steps looked ahead, from 1.

    | index | what | unit |
    |---|---|---|
    | 0–6 | joint positions q | rad |
    | 7–13 | joint velocities q̇ | rad/s |
    | 14–20 | reference positions q_ref, one step ahead | rad |
    | 21–27 | reference velocities q̇_ref, one step ahead | rad/s |
    | 28–34 | reference accelerations q̈_ref, one step ahead | rad/s² |
    | 14 + 21(k-1) … 34 + 21(k-1) | the same, k steps ahead | |

    Entries 14–34 (`ArmTrackEnv.REFERENCE`) are laid out as the inputs of
    `nprobot.envs.datasets.inverse_dynamics`, so a model learned there is a policy here:
    `action = env.unwrapped.action_from_torque(model(observation[ArmTrackEnv.REFERENCE]))`.

    ## Reward
    `1 / (1 + error / 0.1 rad) - control_cost · mean(action²)`, with the root-mean-square tracking
    error over the joints and the action in shares of the limits: between `-control_cost` and 1.

    `info`: `tracking_error` (rad, root mean square over the joints), `joint_error` (7,) in rad
    (reference minus position), and in N·m, averaged over the step, `torque`, `feedforward_torque`,
    `feedback_torque` (7,); `reward_tracking`, `reward_control`.

    ## Start and end
    The arm starts on the reference, each joint displaced by up to `reset_noise`. The reference
    keeps inside the working range and the speed limits, and clear of floor and pedestal. The
    episode is cut off at its end, after `duration`; nothing ends it earlier. (The environment does
    this itself: no `max_episode_steps` is needed.)

    ## Arguments
    Args:
        control: see above.
        motion: "rhythmic", "point-to-point", or "mixed": each episode draws one of the two.
        synergy: share of the joints' motion that follows common patterns, as in the recordings of
            `nprobot.envs.datasets` (see `nprobot.envs.trajectories.synergies`).
        speed: pace of the references, as a share of the arm's speed limits; at most 1.
        duration: length of an episode, s.
        lookahead: number of reference steps in the observation.
        stiffness: gains of the PD controller, N·m/rad; (7,) or one number.
        damping: its damping, N·m·s/rad; (7,) or one number.
        normalize_actions: see above.
        gravity_compensation: add the nominal arm's gravity torque. Off by default: here it is the
            learned model's job, and an arm that already floats hides how good the model is.
        payload: mass held at the tool's tip, kg. `reset(options={"payload": …})` sets it for one
            episode.
        friction_scale: factor on joint friction; also an option of `reset`.
        control_cost: weight of the mean squared action.
        reset_noise: largest displacement of the first posture, rad.
        mujoco_arguments: `render_mode`, `width`, `height`, `camera_name`, … of `MujocoEnv`.

    ## Versions
    * v0: first.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - declared by gymnasium
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 100,
    }

    #: Where the observation holds q_ref, q̇_ref, q̈_ref of the coming step.
    REFERENCE: ClassVar[slice] = slice(2 * JOINTS, 5 * JOINTS)

    def __init__(
        self,
        *,
        control: ControlMode = "feedforward",
        motion: Motion = "mixed",
        synergy: float = 0.8,
        speed: float = 1.0,
        duration: float = 5.0,
        lookahead: int = 1,
        stiffness: ArrayLike = STIFFNESS,
        damping: ArrayLike = DAMPING,
        normalize_actions: bool = True,
        gravity_compensation: bool = False,
        payload: float = 0.0,
        friction_scale: float = 1.0,
        control_cost: float = 0.01,
        reset_noise: float = 0.01,
        **mujoco_arguments: Any,
    ) -> None:
        if control not in get_args(ControlMode):
            raise UnknownNameError("control", control, get_args(ControlMode))
        if motion not in get_args(Motion):
            raise UnknownNameError("motion", motion, get_args(Motion))
        if not 0 < speed <= 1 or lookahead < 1 or duration < 0.01:
            raise ConfigError(
                "ArmTrack needs 0 < speed ≤ 1, lookahead ≥ 1 and duration ≥ 0.01 s; got "
                f"{speed}, {lookahead}, {duration}."
            )
        if control_cost < 0 or reset_noise < 0:
            raise ConfigError(
                f"control_cost and reset_noise are ≥ 0; got {control_cost} and {reset_noise}."
            )
        self.control, self.motion, self.lookahead = control, motion, int(lookahead)
        self.steps = round(duration * self.metadata["render_fps"])
        self.stiffness = _gains("stiffness", stiffness)
        self.damping = _gains("damping", damping)
        self.control_cost = control_cost
        self.reset_noise = reset_noise
        self.mixing = synergies(JOINTS, synergy)
        self.limits = WORKING_LIMITS.scaled(speed)
        super().__init__(
            frame_skip=_SUBSTEPS,
            observation_size=2 * JOINTS + 3 * JOINTS * self.lookahead,
            normalize_actions=normalize_actions,
            gravity_compensation=gravity_compensation,
            payload=payload,
            friction_scale=friction_scale,
            **mujoco_arguments,
        )
        self._step = 0
        self._fine: Trajectory | None = None

    def reset_model(self) -> Array:
        """Draw the reference and put the arm on it."""
        self._fine = self._draw_reference()
        self._step = 0
        noise = self.np_random.uniform(-self.reset_noise, self.reset_noise, JOINTS)
        start, speed = self._fine.position[0] + noise, self._fine.velocity[0].copy()
        self.set_state(start, speed)  # type: ignore[no-untyped-call]
        self._show_reference()
        return self._observation()

    def _draw_reference(self) -> Trajectory:
        """A trajectory at the rate of the physics, for the PD controller between steps."""
        rate = 1.0 / self.model.opt.timestep
        duration = (self.steps + self.lookahead) / 100.0 + 1.0 / rate
        while True:
            steady = self.motion == "rhythmic"
            if self.motion == "mixed":
                steady = bool(self.np_random.integers(2))
            draw = rhythmic if steady else point_to_point
            fine = draw(
                self.np_random, self.limits, duration=duration, rate=rate, mixing=self.mixing
            )
            if not any(self.collides(q) for q in fine.position[:: 2 * _SUBSTEPS]):
                return fine

    @property
    def reference(self) -> Trajectory:
        """The reference at 100 Hz: row k is where the arm should be k steps after the reset."""
        fine = self.fine
        every = slice(None, None, _SUBSTEPS)
        return Trajectory(
            fine.time[every], fine.position[every], fine.velocity[every], fine.acceleration[every]
        )

    @property
    def fine(self) -> Trajectory:
        """The reference at the rate of the physics, for the PD controller between steps."""
        if self._fine is None:
            raise ConfigError("ArmTrack has no reference before reset(); call it first.")
        return self._fine

    @property
    def target(self) -> NDArray[np.float64]:
        """Where the reference has the tool's tip now, (3,), m."""
        now = min(self._step, self.steps) * _SUBSTEPS
        return self.end_effector_at(self.fine.position[now])

    def move_target(self, point: ArrayLike) -> None:
        """Lead the reference from where it is now to a point, where it then rests.

        Args:
            point: (3,), m, world frame, where the tool's tip shall be; the posture with the tip
                nearest to it that a search from the present one finds is taken.

        Raises:
            ConfigError: it is not three finite numbers.
        """
        goal, fine = self._posture_at(self._tip_at(point)), self.fine
        now = min(self._step, self.steps) * _SUBSTEPS
        start = [part[now] for part in (fine.position, fine.velocity, fine.acceleration)]
        way = np.abs(goal - start[0])
        limits = self.limits
        # A move at the limits takes 15/8 of way / speed and √(10/√3 way / acceleration).
        length = 1.3 * max(
            float((1.875 * way / limits.speed).max()),
            float(np.sqrt(5.774 * way / limits.acceleration).max()),
            float((2.0 * np.abs(start[1]) / limits.acceleration).max()),
            0.1,
        )
        # The quintic that leaves with what the reference has now and arrives at rest.
        powers = np.arange(6)
        ends = np.array([[1.0, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 5], [0, 0, 2, 6, 12, 20]])
        known = np.array(start) * length ** powers[:3, None] / np.array([1.0, 1.0, 2.0])[:, None]
        rest = np.array([goal, 0 * goal, 0 * goal]) - ends[:, :3] @ known
        terms = np.concatenate([known, np.linalg.solve(ends[:, 3:], rest)])
        s = np.clip((fine.time[now:] - fine.time[now]) / length, 0.0, 1.0)[:, None]
        fine.position[now:] = s**powers @ terms
        slopes = powers[1:, None] * terms[1:]
        fine.velocity[now:] = s ** powers[:5] @ slopes / length
        bends = powers[1:5, None] * slopes[1:]
        fine.acceleration[now:] = s ** powers[:4] @ bends / length**2
        self._show_reference()

    def _posture_at(self, point: Array) -> Array:
        """A posture (7,) with the tip at a point, or near it: damped least squares."""
        now = min(self._step, self.steps) * _SUBSTEPS
        posture = np.array(self.fine.position[now])
        jacobian = np.zeros((3, JOINTS))
        for _ in range(100):
            missing = point - self.end_effector_at(posture)
            if np.linalg.norm(missing) < 1e-3:
                break
            mujoco.mj_comPos(self.model, self._scratch)
            mujoco.mj_jacSite(self.model, self._scratch, jacobian, None, self.site)
            damped = jacobian @ jacobian.T + 1e-3 * np.eye(3)
            posture += jacobian.T @ np.linalg.solve(damped, missing)
            posture = np.clip(posture, WORKING_LIMITS.low, WORKING_LIMITS.high)
        return posture

    def step(  # type: ignore[override]
        self,
        action: Any,  # noqa: ANN401 - as gymnasium has it
    ) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Apply the action's torques for 10 ms."""
        feedforward = self.torque_from_action(action)
        fine = self.fine
        feedback, given = np.zeros(JOINTS), np.zeros(JOINTS)
        first = min(self._step, self.steps - 1) * _SUBSTEPS
        for i in range(first, first + _SUBSTEPS):
            correction = self.correction(
                fine.position[i], fine.velocity[i], self.data.qpos, self.data.qvel
            )
            feedback += correction / _SUBSTEPS
            given += self._simulate_step(feedforward + correction) / _SUBSTEPS
        self._step += 1
        self._show_reference()
        self._end_step()
        reward, info = self.outcome(self._joint_error(), given, feedforward, feedback)
        told = {name: value if value.ndim else value.item() for name, value in info.items()}
        return self._observation(), float(reward), False, self._step >= self.steps, told

    def correction(self, position: Array, velocity: Array, qpos: Array, qvel: Array) -> Array:
        """Torque of the PD controller, N·m; all arrays `(…, 7)`.

        Args:
            position: of the reference, rad.
            velocity: of the reference, rad/s.
            qpos: of the joints, rad.
            qvel: of the joints, rad/s.
        """
        if self.control == "torque":
            return np.zeros_like(qpos)
        return self.stiffness * (position - qpos) + self.damping * (velocity - qvel)

    def outcome(
        self, joint_error: Array, given: Array, feedforward: Array, feedback: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Rewards and what is told of a step, for one arm or for many: leading axes are kept.

        Args:
            joint_error: reference minus position after it `(…, 7)`, rad.
            given: torque of the motors, averaged over the step, same shape, N·m.
            feedforward: that was asked for.
            feedback: of the PD controller, averaged.
        """
        error = np.sqrt(np.mean(joint_error**2, -1))
        reward_tracking = 1.0 / (1.0 + error / 0.1)
        reward_control = -self.control_cost * np.mean((feedforward / TORQUE_LIMITS) ** 2, -1)
        info = {
            "tracking_error": error,
            "joint_error": joint_error,
            "torque": given,
            "feedforward_torque": feedforward,
            "feedback_torque": feedback,
            "reward_tracking": reward_tracking,
            "reward_control": reward_control,
        }
        return reward_tracking + reward_control, info

    def reference_torque(self) -> Array:
        """Exact torques (7,) of this robot for the reference one step ahead, N·m."""
        return self.inverse_dynamics(*np.split(self._observation()[self.REFERENCE], 3))

    def exact_action(self, *, nominal: bool = False) -> NDArray[np.float32]:
        """The feed-forward action of exact inverse dynamics: the bound for any learned model.

        Args:
            nominal: of the arm without payload and with its own friction, whatever is simulated.
        """
        q, v, a = np.split(self._observation()[self.REFERENCE], 3)
        return self.action_from_torque(self.inverse_dynamics(q, v, a, nominal=nominal))

    def _joint_error(self) -> Array:
        now = min(self._step, self.steps) * _SUBSTEPS
        return np.asarray(self.fine.position[now] - self.data.qpos)

    def _observation(self) -> Array:
        fine = self.fine
        ahead = [
            part[(min(self._step, self.steps) + k) * _SUBSTEPS]
            for k in range(1, self.lookahead + 1)
            for part in (fine.position, fine.velocity, fine.acceleration)
        ]
        return np.concatenate([self.data.qpos, self.data.qvel, *ahead])

    def _get_reset_info(self) -> dict[str, Any]:
        joint_error = self._joint_error()
        return {
            "tracking_error": float(np.sqrt(np.mean(joint_error**2))),
            "joint_error": joint_error,
        }

    def _show_reference(self) -> None:
        if self.render_mode is not None:
            now = min(self._step, self.steps) * _SUBSTEPS
            self.data.mocap_pos[0] = self.end_effector_at(self.fine.position[now])
            mujoco.mj_kinematics(self.model, self.data)


def _gains(name: str, value: ArrayLike) -> Array:
    gains = np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), JOINTS))
    if not np.isfinite(gains).all() or (gains < 0).any():
        raise ConfigError(f"{name} must be finite and ≥ 0 for every joint; got {gains}.")
    return gains
