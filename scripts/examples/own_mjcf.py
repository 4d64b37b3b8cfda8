"""A robot that you describe in MJCF: a pendulum that swings up, trained and given away.

python scripts/examples/own_mjcf.py
"""

import tempfile
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

import nprobot

MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody><body>
    <joint name="hinge" axis="0 1 0" damping="0.05"/>
    <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.04" mass="0.5"/>
  </body></worldbody>
  <actuator><motor joint="hinge" ctrllimited="true" ctrlrange="-2 2"/></actuator>
</mujoco>"""


class SwingUp(MujocoEnv):
    """Sees cos and sin of the angle (rad from upright) and the speed (rad/s); 50 Hz."""

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012

    def __init__(self, **arguments: object) -> None:
        file = Path(tempfile.mkdtemp()) / "pendulum.xml"
        file.write_text(MODEL, encoding="utf-8")
        space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        super().__init__(str(file), 2, space, **arguments)

    def reset_model(self) -> np.ndarray:  # noqa: D102
        self.set_state(self.np_random.uniform(-np.pi, np.pi, 1), np.zeros(1))
        return self.observe()

    def observe(self) -> np.ndarray:  # noqa: D102
        return np.array([np.cos(self.data.qpos[0]), np.sin(self.data.qpos[0]), self.data.qvel[0]])

    def step(self, action: np.ndarray) -> tuple:  # noqa: D102
        self.do_simulation(action, self.frame_skip)
        seen = self.observe()
        return seen, seen[0] - 0.01 * seen[2] ** 2 - 0.01 * action[0] ** 2, False, False, {}


gymnasium.register("SwingUp-v0", SwingUp, max_episode_steps=200)


def main(steps: int = 100_000, out: str = "swing-up") -> float:
    """Train, and make a policy folder; returns the mean return on its card."""
    model = nprobot.PPO("MlpPolicy", "SwingUp-v0", seed=0, verbose=1).learn(steps)
    return nprobot.export(model, out, episodes=20).evaluation.mean


if __name__ == "__main__":
    print(f"mean return {main():.1f}")
